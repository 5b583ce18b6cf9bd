"""Test samples that also occur in the training data."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from tutelage.data.sources import Source, Splits
from tutelage.types import Inputs, by_name, tensor_bytes

CHUNK = 4096
LOOKED_AT = 64
SAME_NOTE = (
    "The numbers are of the validation data, which also chose the epoch: there are no test data of "
    "their own. Trust the last-epoch numbers, or give test data that nothing was chosen on."
)


def num_shared(splits: Splits) -> int | None:
    """Number of test samples whose inputs also occur in the training data.

    Labels are not compared.

    Args:
        splits: The data.

    Returns:
        The count; None where a part lies on disk, so that to look would be to read all of it.
    """
    if not (splits.train.in_memory and splits.test.in_memory):
        return None
    trained = set(_digests(splits.train))
    return sum(digest in trained for digest in _digests(splits.test))


def judged_on(splits: Splits) -> str:
    """Name of the data of the results: "test", or "validation" if both are the same."""
    valid, test = splits.valid, splits.test
    if valid is None or valid.fingerprint != test.fingerprint or len(valid) != len(test):
        return "test"
    # Folders of like names and sizes have one fingerprint whatever their images show.
    ids = torch.linspace(0, len(test) - 1, min(len(test), LOOKED_AT)).long().unique()
    is_same = valid is test or all(
        _fetched(valid, number) == _fetched(test, number) for number in ids.split(1)
    )
    return "validation" if is_same else "test"


def _fetched(source: Source, number: Tensor) -> list[bytes]:
    inputs, labels = source.fetch(number)
    parts = [*_parts(inputs), *([] if labels is None else [labels])]
    return [bytes(tensor_bytes(part)) for part in parts]


def _parts(inputs: Inputs) -> list[Tensor]:
    """The tensors of inputs, in the order of their names."""
    return [tensor for _, tensor in sorted(by_name(inputs).items())]


def overlap_note(splits: Splits) -> list[str]:
    """Note for the reader where test samples were used for training or selection."""
    count, kind = num_shared(splits), judged_on(splits)
    return [
        *([SAME_NOTE] if kind == "validation" else []),
        *([_shared_note(splits, count, kind)] if count else []),
    ]


def _shared_note(splits: Splits, count: int, kind: str) -> str:
    return (
        f"{kind.capitalize()} samples that are also training data (or transfer data): {count:,} of "
        f"{len(splits.test):,}. Results on them may be memorised. Remove them from one of the two."
    )


def _digests(source: Source) -> Iterator[bytes]:
    """Hashes of each sample's inputs, in any order."""
    for ids in _unfilled(source):
        inputs, _ = source.fetch(ids)
        yield from (b"".join(map(_digest, row)) for row in zip(*_parts(inputs), strict=True))


def _unfilled(source: Source) -> Iterator[Tensor]:
    """Groups of samples of equal length, which need no padding."""
    lengths = source.lengths
    if lengths is None:
        yield from torch.arange(len(source)).split(1 if source.input_kind.is_padded else CHUNK)
        return
    for length in lengths.unique():
        yield from (lengths == length).nonzero().squeeze(dim=1).split(CHUNK)


def _digest(tensor: Tensor) -> bytes:
    return hashlib.blake2b(tensor_bytes(tensor), digest_size=16).digest()
