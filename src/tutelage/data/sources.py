"""Where samples come from: one way to ask for many samples by number, whatever holds them."""

import contextlib
import hashlib
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from tutelage.errors import DataError
from tutelage.types import Inputs, tensor_bytes

Samples = tuple[Inputs, Shaped[Tensor, "batch ..."] | None]


@runtime_checkable
class Source(Protocol):
    """Samples that can be asked for by number.

    Attributes:
        fingerprint: Changes when the samples change.
        is_fast: True where a fetch is a mere look-up in memory, so that workers gain nothing.
    """

    fingerprint: str
    is_fast: bool

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def fetch(self, ids: Int[Tensor, " batch"]) -> Samples:
        """Inputs and labels (None if unlabelled) of the samples with these numbers.

        Images are uint8 of shape (batch, channels, height, width); anything else is what the
        networks take: a tensor, or tensors by the argument that they are passed as. Samples of
        different lengths are filled up here to the longest of the batch.
        """
        ...


class TensorSource:
    """Samples that lie in memory as one tensor.

    Args:
        inputs: One row a sample.
        labels: One class number a row, or None.
    """

    is_fast = True

    def __init__(
        self, inputs: Shaped[Tensor, "n ..."], labels: Int[Tensor, " n"] | None = None
    ) -> None:
        """Hold the tensors, without a copy, and fingerprint them."""
        self.inputs = inputs.contiguous()
        self.labels = None if labels is None else labels.long()
        digest = hashlib.sha256(repr((tuple(inputs.shape), str(inputs.dtype))).encode())
        digest.update(tensor_bytes(self.inputs))
        if self.labels is not None:
            digest.update(tensor_bytes(self.labels))
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.inputs)

    def fetch(self, ids: Int[Tensor, " batch"]) -> Samples:
        """Rows with these numbers."""
        labels = None if self.labels is None else self.labels[ids]
        rows = ids.to(self.inputs.device)
        return self.inputs.index_select(dim=0, index=rows), labels  # copies rows, not elements


class DatasetSource:
    """Any map-style data set whose items are (input, label) pairs, dicts of both, or inputs alone.

    Its fingerprint covers the length and up to 64 items spread evenly, labels included: enough to
    tell data sets apart, not to notice one changed picture among a million.

    Args:
        dataset: Anything with `__len__` and `__getitem__`; items must be alike from call to call
            (random augmentation belongs in a view policy).
        version: More text for the fingerprint, for what the sampled items cannot show.
    """

    is_fast = False

    def __init__(self, dataset: Any, version: str = "") -> None:
        """Wrap the data set and look at a few of its items."""
        if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
            raise DataError(
                f"{type(dataset).__name__} is not a map-style data set: it needs __len__ and "
                "__getitem__. Turn a stream into a list, or write it to a folder first."
            )
        if len(dataset) == 0:
            raise DataError(f"{type(dataset).__name__} is empty. Training needs samples.")
        self.dataset = dataset
        self.fingerprint = self._fingerprint(version)

    def _fingerprint(self, version: str) -> str:
        count = len(self)
        digest = hashlib.sha256(f"{count} {version}".encode())
        for number in sorted({round(i * (count - 1) / 63) for i in range(64)}):
            inputs, label = self._item(number)
            digest.update(tensor_bytes(inputs))
            digest.update(str(label).encode())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def fetch(self, ids: Int[Tensor, " batch"]) -> Samples:
        """Items with these numbers, stacked.

        Raises:
            DataError: An item cannot be read, or items differ in shape; the message names it.
        """
        numbers = ids.tolist()
        items = [self._item(number) for number in numbers]
        pairs = zip(items, numbers, strict=True)
        shapes = {tuple(inputs.shape): number for (inputs, _), number in pairs}
        if len(shapes) > 1:
            raise DataError(
                f"Samples differ in shape: {shapes} (shape: a sample that has it). Resize them to "
                "one size, for example with image_size in the recipe."
            )
        inputs = torch.stack([inputs for inputs, _ in items])
        labels = [label for _, label in items]
        if any(label is None for label in labels):
            return inputs, None
        return inputs, torch.tensor(labels, dtype=torch.long)

    def _item(self, number: int) -> tuple[Tensor, int | None]:
        try:
            item = self.dataset[number]
        except (DataError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise DataError(
                f"Sample {number} of {type(self.dataset).__name__} cannot be read: "
                f"{type(error).__name__}: {error}. Mend or remove it."
            ) from error
        return _split_item(item, number)


def _split_item(item: Any, number: int) -> tuple[Tensor, int | None]:
    """Input and label of one item, in whichever of the usual forms it comes."""
    match item:
        case {"input": inputs, "label": label}:
            pass
        case (inputs, label):
            pass
        case inputs:
            label = None
    if isinstance(inputs, np.ndarray):
        inputs = torch.as_tensor(inputs)
    if not isinstance(inputs, Tensor):
        raise DataError(
            f"Sample {number}: the input is a {type(inputs).__name__}, not a tensor. Give the data "
            "set a transform that ends in a tensor (torchvision.transforms.v2.ToImage())."
        )
    return inputs, None if label is None else _class_number(label, number)


def _class_number(label: Any, number: int) -> int:
    with contextlib.suppress(TypeError, ValueError, OverflowError, RuntimeError):
        whole = int(label)
        if whole == label:
            return whole
    raise DataError(
        f"Sample {number}: the label is {label!r}, not a whole number. Number the classes from 0 "
        "and give one number a sample."
    )


class SubsetSource:
    """Some samples of another source, numbered anew from 0.

    Args:
        source: Where they come from.
        ids: Their numbers there.
    """

    def __init__(self, source: Source, ids: Int[Tensor, " n"]) -> None:
        """Hold the choice."""
        self.source = source
        self.ids = ids.long()
        self.is_fast = source.is_fast
        lengths: Tensor | None = getattr(source, "lengths", None)
        self.lengths = None if lengths is None else lengths[self.ids]
        chosen = hashlib.sha256(tensor_bytes(self.ids)).hexdigest()[:16]
        self.fingerprint = f"{source.fingerprint}[{chosen}]"

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.ids)

    def fetch(self, ids: Int[Tensor, " batch"]) -> Samples:
        """Samples with these numbers of the choice."""
        return self.source.fetch(self.ids[ids])


@dataclass(frozen=True, slots=True)
class Splits:
    """A data set ready for a run.

    Attributes:
        train: What the student learns from (and the transfer set of the teacher's soft targets).
        valid: For model selection; None where there is none.
        test: For the numbers that are reported; never used for a choice.
        class_names: One a class, in the order of the labels.
        mean: Per channel, of inputs scaled to 0..1; None leaves inputs as they come.
        std: As mean.
        labelled: The part of `train` that has labels, where not all of it has.
        notes: What a reader of the numbers must know of the data.
    """

    train: Source
    valid: Source | None
    test: Source
    class_names: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labelled: Source | None = None
    notes: tuple[str, ...] = ()


def split_off(
    source: Source, fraction: float, seed: int, labels: Sequence[int] | None = None
) -> tuple[SubsetSource, SubsetSource]:
    """Split a source at random into a larger and a smaller part.

    Args:
        source: What to split.
        fraction: Share of the smaller part, above 0 and below 1.
        seed: The same seed gives the same split.
        labels: If given, every class is split by the same share.

    Returns:
        The rest, and the part split off.

    Raises:
        DataError: The share is no share, or one of the parts would be empty.
    """
    if not 0 < fraction < 1:
        raise DataError(f"A share to split off must be above 0 and below 1, got {fraction}.")
    generator = torch.Generator().manual_seed(seed)
    count = len(source)
    order = torch.randperm(count, generator=generator)
    if labels is not None:
        order = _spread_classes(order, torch.tensor(labels))
    size = round(count * fraction)
    if not 0 < size < count:
        raise DataError(
            f"A share of {fraction} of {count} samples is {size}: both parts need samples. "
            "Choose another fraction or give a split of your own."
        )
    return (
        SubsetSource(source, order[size:].sort().values),
        SubsetSource(source, order[:size].sort().values),
    )


def _spread_classes(order: Tensor, labels: Tensor) -> Tensor:
    """Reorder so that every prefix holds each class by its share."""
    shuffled = labels[order]
    place = torch.zeros(len(order), dtype=torch.float64)
    for label in shuffled.unique():
        where = (shuffled == label).nonzero().squeeze(1)
        place[where] = (torch.arange(len(where), dtype=torch.float64) + 0.5) / len(where)
    return order[torch.argsort(place, stable=True)]
