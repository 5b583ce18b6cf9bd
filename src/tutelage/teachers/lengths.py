"""Batching of texts by length, so that a text's padding does not depend on the others."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from tutelage.types import Batch

STEP = 8
MASK = "attention_mask"


def has_lengths(batch: Batch) -> bool:
    """Whether samples are texts, padded to a common length."""
    return not isinstance(batch.inputs, Tensor) and MASK in batch.inputs


def by_length(batch: Batch) -> Iterator[tuple[Int[Tensor, " rows"], int, Batch]]:
    """The batch split by text lengths, rounded up to multiples of `STEP`.

    A part's inputs have just that length, whatever batch its texts came in.

    Yields:
        Numbers of the rows, their length in tokens, and the part without labels.
    """
    assert not isinstance(batch.inputs, Tensor)
    mask = batch.inputs[MASK].bool()
    lengths = -(-mask.sum(dim=1).clamp(min=1) // STEP) * STEP
    pads_left = bool((~mask[:, 0] & mask[:, -1]).any())
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero().squeeze(dim=1)
        inputs = {
            name: _cut(torch.where(mask[rows], values[rows], 0), length, pads_left)
            for name, values in batch.inputs.items()
        }
        on_cpu = rows.cpu()
        yield rows, length, Batch(inputs, None, batch.sample_ids[on_cpu], batch.view_ids[on_cpu])


def _cut(values: Tensor, length: int, pads_left: bool) -> Tensor:
    """Columns padded or truncated to a number of tokens."""
    missing = length - values.shape[1]
    if missing > 0:
        return F.pad(values, (missing, 0) if pads_left else (0, missing))
    return values[:, -length:] if pads_left else values[:, :length]
