"""Validation of a data set's samples before training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from tutelage.data.labels import check_range
from tutelage.data.loading import BatchBuilder, iterate
from tutelage.data.sources import Source, Splits
from tutelage.errors import DataError
from tutelage.types import Inputs, tensors_of

CHUNK = 1024
MOST_NAMED = 5  # bad files
FEW = 20_000  # samples that are read whole even where each takes time
SPREAD = 2_048  # samples of larger training data that are read where each takes time


@dataclass(frozen=True, slots=True)
class Scan:
    """Findings about a part of the data.

    Attributes:
        num_samples: Number of samples of the part.
        num_read: How many of them were read.
        has_labels: Whether they have labels.
        counts: Samples of each class; None where labels are no classes of samples.
    """

    num_samples: int
    num_read: int
    has_labels: bool
    counts: Int[Tensor, " classes"] | None


def parts_of(splits: Splits) -> dict[str, Source]:
    """The existing parts of a data set, by name."""
    parts = {"train": splits.train, "valid": splits.valid, "test": splits.test}
    return {name: source for name, source in parts.items() if source is not None}


def scan(source: Source, part: str, num_classes: int, *, workers: int = 0) -> Scan:
    """Read the samples of a part, and refuse those that would abort a training.

    All are read; of more than 20,000 training samples that take time to read, 2,048 from all
    over the data.

    Args:
        source: The samples.
        part: "train", "valid" or "test".
        num_classes: Labels are 0 to one less.
        workers: Processes that read, where reading takes time.

    Raises:
        DataError: A sample cannot be read, has values that are not finite, or a label that is no
            class; the message names it.
    """
    count = len(source)
    takes_long = part == "train" and not source.in_memory and count > FEW
    ids = torch.linspace(0, count - 1, SPREAD).long() if takes_long else torch.arange(count)
    counts = torch.zeros(num_classes, dtype=torch.long)
    has_labels = has_classes = False
    for some, inputs, labels in _read(source, ids, workers):
        _check_finite(inputs, some, part)
        if labels is None:
            continue
        has_labels = True
        try:
            check_range(labels, some, num_classes, may_lack=source.is_partly_labelled)
        except DataError as error:
            raise DataError(f"{part} data: {error}") from error
        if labels.ndim == 1 and not labels.is_floating_point():
            has_classes = True
            counts += torch.bincount(labels[labels >= 0], minlength=num_classes)
    return Scan(count, len(ids), has_labels, counts if has_classes else None)


def sources_of_files(splits: Splits) -> list[Source]:
    """The sources of files that the parts come from, each once."""
    found = {id(source.whole): source.whole for source in parts_of(splits).values()}
    return [source for source in found.values() if source.has_files]


def check_files(sources: Sequence[Source]) -> None:
    """Read every file once, so that a damaged one shows before training.

    Raises:
        DataError: Names the first bad files and counts the others.
    """
    bad = [problem for source in sources for problem in source.check_all()]
    if bad:
        more = f" And {len(bad) - MOST_NAMED} more." if len(bad) > MOST_NAMED else ""
        raise DataError(" ".join(bad[:MOST_NAMED]) + more)


def longest_sample(splits: Splits) -> tuple[str, int, int] | None:
    """Part, number and length of the longest text; None for samples of equal shape."""
    found = [
        (int(source.lengths.max()), name, int(source.lengths.argmax()))
        for name, source in parts_of(splits).items()
        if source.lengths is not None
    ]
    if not found:
        return None
    length, name, number = max(found)
    return name, number, length


def _read(
    source: Source, ids: Int[Tensor, " n"], workers: int
) -> Iterator[tuple[Tensor, Inputs, Tensor | None]]:
    if workers == 0 or source.in_memory:
        yield from ((some, *source.fetch(some)) for some in ids.split(CHUNK))
        return
    requests = ((some, torch.zeros_like(some)) for some in ids.split(CHUNK // workers))
    for batch in iterate(BatchBuilder(source), requests, workers):
        yield batch.sample_ids, batch.inputs, batch.labels


def _check_finite(inputs: Inputs, ids: Int[Tensor, " some"], part: str) -> None:
    for tensor in tensors_of(inputs):
        if not tensor.is_floating_point() or bool(tensor.isfinite().all()):
            continue
        rows = tensor.flatten(start_dim=1) if tensor.ndim > 1 else tensor[:, None]
        wrong = (~rows.isfinite().all(dim=1)).nonzero()
        first = int(wrong[0])
        value = "NaN" if bool(rows[first].isnan().any()) else "infinity"
        raise DataError(
            f"{part} data: sample {int(ids[first])} holds {value}, which would ruin a training. "
            "Repair or remove it, and all like it."
        )
