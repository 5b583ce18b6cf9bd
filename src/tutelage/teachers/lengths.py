"""Batching by length, so that a sample's padding does not depend on the others."""

from collections.abc import Iterator

from jaxtyping import Int
from torch import Tensor

from tutelage.inputs import InputKind
from tutelage.types import Batch

STEP = 8


def by_length(batch: Batch, kind: InputKind) -> Iterator[tuple[Int[Tensor, " rows"], int, Batch]]:
    """The batch split by the lengths of its samples, rounded up to multiples of `STEP`.

    A part's inputs have just that length, whatever batch its samples came in.

    Yields:
        Numbers of the rows, their length, and the part without labels.
    """
    found = kind.lengths(batch.inputs)
    assert found is not None
    lengths = -(-found.clamp(min=1) // STEP) * STEP
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero().squeeze(dim=1)
        inputs = kind.cut(batch.inputs, rows, length)
        on_cpu = rows.cpu()
        yield rows, length, Batch(inputs, None, batch.sample_ids[on_cpu], batch.view_ids[on_cpu])
