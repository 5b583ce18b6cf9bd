"""Sources of samples: one interface to fetch many samples by number."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.utils.data import IterableDataset

from tutelage.data.items import as_inputs, split_item
from tutelage.data.labels import CLASS_LABELS, LabelKind, check_count
from tutelage.data.randomness import FixedDraws, random_state_kept, seed_random
from tutelage.errors import DataError
from tutelage.inputs import InputKind, kind_of
from tutelage.types import Inputs, by_name, map_tensors, tensor_bytes, tensors_of
from tutelage.wording import quantity

FINGERPRINTED = 64  # items of a data set
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
Samples = tuple[Inputs, Shaped[Tensor, "batch ..."] | None]
Item = tuple[Inputs, Any]


class Source(ABC):
    """Samples that are fetched by number.

    Attributes:
        fingerprint: Changes when the samples change.
        in_memory: True where a fetch is a mere look-up in memory, so that workers gain nothing.
        lengths: Places of each sample, such as tokens, where samples differ in that; else None.
        is_random: Whether samples differ from call to call.
        labelled_share: Share of the samples that have a label, where some have none; else 1.
        has_files: Whether each sample is a file of its own, which may be damaged.
    """

    fingerprint: str
    in_memory: bool
    lengths: Int[Tensor, " n"] | None = None
    is_random: bool = False
    labelled_share: float = 1.0
    has_files: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def fetch(self, ids: Int[Tensor, " batch"]) -> Samples:
        """Inputs and labels (None if unlabelled) of the samples with these numbers.

        Images are uint8 of shape (batch, channels, height, width); anything else is what the
        networks take: a tensor, or tensors by the argument that they are passed as. Samples of
        different lengths are filled up here to the longest of the batch.
        """

    @cached_property
    def input_kind(self) -> InputKind:
        """What kind of input samples are; where no class says, what the first one looks like."""
        with random_state_kept():
            inputs, _ = self.fetch(torch.zeros(1, dtype=torch.long))
        return kind_of(inputs)

    @property
    def is_partly_labelled(self) -> bool:
        """Whether some samples have a label and others have none."""
        return self.labelled_share < 1

    @property
    def whole(self) -> "Source":
        """The source that this one takes its samples from; itself where it holds them."""
        return self

    def check_all(self) -> list[str]:
        """Read every file once: one message for each that training would fail on."""
        return []

    def describe(self) -> list[str]:
        """What is changed or left out as files are read, with counts."""
        return []

    def part_fingerprint(self, samples: range) -> str:  # noqa: ARG002 - it cannot say of a part
        """Changes when the inputs of these samples would change, or at most those of the whole."""
        return self.fingerprint

    def with_fixed_draws(self) -> "Source":
        """The same source with fixed random draws per sample.

        Raises:
            DataError: Their random numbers cannot be fixed from here.
        """
        return self

    def text(self, number: int) -> str | None:  # noqa: ARG002 - only texts have one
        """A sample as text, where it is one."""
        return None


@runtime_checkable
class BareSource(Protocol):
    """What somebody else's source has at least; `Source` has defaults for the rest."""

    fingerprint: str
    in_memory: bool

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def fetch(self, ids: Int[Tensor, " batch"]) -> Samples:
        """Inputs and labels of the samples with these numbers."""
        ...


class OwnSource(Source):
    """Somebody's own source, which need not know what `Source` has defaults for.

    Args:
        source: The samples.
    """

    def __init__(self, source: BareSource) -> None:
        """Hold it."""
        self.source = source
        self.in_memory = source.in_memory
        self.fingerprint = source.fingerprint

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.source)

    def fetch(self, ids: Int[Tensor, " batch"]) -> Samples:
        """Samples with these numbers."""
        return self.source.fetch(ids)


class TensorSource(Source):
    """Samples in memory, as one tensor, or as tensors by the name of a network's argument.

    Args:
        inputs: One row a sample, of each tensor.
        labels: One a row, as `kind` reads them, or None.
        kind: What labels are; class numbers of any numeric type if not given.

    Raises:
        DataError: There are no samples, labels differ from inputs in number, or one of them is no
            label of this kind.
    """

    in_memory = True

    def __init__(self, inputs: Inputs, labels: Any = None, kind: LabelKind = CLASS_LABELS) -> None:
        """Store the tensors, without a copy, and fingerprint them."""
        self.inputs = map_tensors(inputs, Tensor.contiguous)
        self.labels = None if labels is None else kind.column(labels, "labels")
        self._count = _rows(self.inputs)
        check_count(self._count, self._count if self.labels is None else len(self.labels), "data")
        digest = hashlib.sha256()
        for name, tensor in by_name(self.inputs).items():
            known = (tuple(tensor.shape), str(tensor.dtype))
            digest.update(repr(known if isinstance(inputs, Tensor) else (name, *known)).encode())
            digest.update(tensor_bytes(tensor))
        if self.labels is not None:
            digest.update(tensor_bytes(self.labels))
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        """Number of samples."""
        return self._count

    def fetch(self, ids: Int[Tensor, " batch"]) -> Samples:
        """Rows with these numbers."""
        labels = None if self.labels is None else self.labels[ids]
        return map_tensors(  # index_select copies rows, not elements
            self.inputs, lambda tensor: tensor.index_select(dim=0, index=ids.to(tensor.device))
        ), labels


def _rows(inputs: Inputs) -> int:
    counts = {name: len(tensor) for name, tensor in by_name(inputs).items()}
    if len({*counts.values()}) > 1:
        raise DataError(f"Inputs differ in their number of rows: {counts}. Give a row a sample.")
    return next(iter(counts.values()))


class DatasetSource(Source):
    """A map-style data set with items (input, label), dicts of both, or inputs alone.

    Its fingerprint covers the length and up to 64 items spread evenly, labels included: enough to
    tell data sets apart, not to notice one changed image among a million. Where items change
    from call to call, as under random transforms, it covers length, kind, transforms and labels.

    Args:
        dataset: Anything with `__len__` and `__getitem__`.
        version: More text for the fingerprint, for what the sampled items cannot show.
        kind: What labels are; class numbers if not given.

    Attributes:
        is_random: Whether items differ from call to call. Up to 128 of them are asked for twice,
            under random numbers of their own.
    """

    in_memory = False

    def __init__(self, dataset: Any, version: str = "", kind: LabelKind = CLASS_LABELS) -> None:
        """Wrap the data set and look at a few of its items."""
        check_map_style(dataset)
        self.dataset, self.kind = dataset, kind
        self.version = version
        self.has_labels: bool | None = None
        with random_state_kept():
            seed_random(0)
            items = {number: self._item(number) for number in self._spread()}
            self.is_random = self._differs(items)
        self.fingerprint = self._fingerprint(items)

    def _spread(self) -> list[int]:
        """Numbers of the inspected items, spread evenly; all if there are few."""
        last = len(self) - 1
        return sorted({round(i * last / (FINGERPRINTED - 1)) for i in range(FINGERPRINTED)})

    def _differs(self, items: Mapping[int, Item]) -> bool:
        """Whether an item differs when it is read a second time."""
        rounds = -(-FINGERPRINTED // len(items))  # of a small data set each is asked for often
        again = (number for _ in range(rounds) for number in items)
        if any(not _is_same(items[number], self._item(number)) for number in again):
            return True
        numbers = sorted(items)
        between = {(one + next_one) // 2 for one, next_one in pairwise(numbers)} - set(numbers)
        return any(not _is_same(self._item(number), self._item(number)) for number in between)

    def _fingerprint(self, items: Mapping[int, Item]) -> str:
        digest = hashlib.sha256(f"{len(self)} {self.version}".encode())
        if self.is_random:
            digest.update(
                repr([type(self.dataset).__qualname__, *_transforms(self.dataset)]).encode()
            )
            items = {} if self._has_random_labels(items) else items
        for inputs, label in items.values():
            if not self.is_random:
                for tensor in tensors_of(inputs):
                    digest.update(tensor_bytes(tensor))
            digest.update(str(label).encode())
        return digest.hexdigest()[:16]

    def _has_random_labels(self, items: Mapping[int, Item]) -> bool:
        with random_state_kept():
            seed_random(1)
            return any(label != self._item(number)[1] for number, (_, label) in items.items())

    def with_fixed_draws(self) -> "DatasetSource":
        """The same items with fixed random draws per item.

        Raises:
            DataError: They draw from a generator of their own, which cannot be fixed from here.
        """
        if not self.is_random:
            return self
        fixed = DatasetSource(FixedDraws(self.dataset), self.version, self.kind)
        if not fixed.is_random:
            return fixed
        raise DataError(
            f"{type(self.dataset).__name__}: its items differ from call to call, by random numbers "
            "of its own. What is judged on must be the same each time: give data without random "
            "transforms."
        )

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
        labels = [label for _, label in items if label is not None]
        inputs = _stacked([inputs for inputs, _ in items], numbers)
        return inputs, self.kind.stack(labels) if labels else None

    def _item(self, number: int) -> Item:
        try:
            item = self.dataset[number]
        except (DataError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise DataError(
                f"Sample {number} of {type(self.dataset).__name__} cannot be read: "
                f"{type(error).__name__}: {error}. Repair or remove it."
            ) from error
        place = f"Sample {number}"
        inputs, label = split_item(item, place)
        if self.has_labels is None:
            self.has_labels = label is not None
        if self.has_labels != (label is not None):
            raise DataError(
                f"{place}: it has {'a' if label is not None else 'no'} label, unlike the samples "
                "before it. Give every sample one, or none."
            )
        found = None if label is None else self.kind.one(label, place)
        return as_inputs(inputs, place), found


def check_map_style(dataset: Any) -> None:
    """Refuse streams, and data sets without samples."""
    is_stream = isinstance(dataset, IterableDataset)
    if is_stream or not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        raise DataError(
            f"{type(dataset).__name__} is not a map-style data set: it needs __len__ and "
            "__getitem__. Turn a stream into a list, or write it to a folder first."
        )
    if len(dataset) == 0:
        raise DataError(f"{type(dataset).__name__} is empty. Training needs samples.")


def _stacked(inputs: Sequence[Inputs], numbers: Sequence[int]) -> Inputs:
    """Inputs of several samples as a batch.

    Raises:
        DataError: They differ in names, shape or type; the message names a sample of each.
    """
    names = {tuple(by_name(one)): number for one, number in zip(inputs, numbers, strict=True)}
    if len(names) > 1:
        raise DataError(
            f"Samples differ in the names of their inputs: {names} (names: a sample that has "
            "them). Give all the same."
        )
    if isinstance(inputs[0], Tensor):
        return _stack([one for one in inputs if isinstance(one, Tensor)], numbers, "")
    every = [by_name(one) for one in inputs]
    return {
        name: _stack([one[name] for one in every], numbers, f" in {name!r}") for name in every[0]
    }


def _stack(tensors: Sequence[Tensor], numbers: Sequence[int], where: str) -> Tensor:
    pairs = list(zip(tensors, numbers, strict=True))
    shapes = {tuple(tensor.shape): number for tensor, number in pairs}
    if len(shapes) > 1:
        raise DataError(
            f"Samples differ in shape{where}: {shapes} (shape: a sample that has it). Bring them "
            "to one size, for example with torchvision.transforms.v2.Resize((64, 64)), or give a "
            "collate function that fills them up."
        )
    kinds = {tensor.dtype: number for tensor, number in pairs}
    if len(kinds) > 1:
        raise DataError(
            f"Samples differ in type{where}: {kinds} (type: a sample that has it). Bytes are "
            "pixels from 0 to 255, other numbers are taken as they are: give all in one type."
        )
    return torch.stack(list(tensors))


def _is_same(one: Item, other: Item) -> bool:
    """Whether two items are equal bit for bit, NaN included."""
    (inputs, label), (others, other_label) = one, other
    return label == other_label and same_inputs(inputs, others)


def same_inputs(one: Inputs, other: Inputs) -> bool:
    """Whether two inputs are equal bit for bit, NaN included."""
    ours, theirs = by_name(one), by_name(other)
    return ours.keys() == theirs.keys() and all(
        ours[name].shape == theirs[name].shape
        and ours[name].dtype == theirs[name].dtype
        and tensor_bytes(ours[name]) == tensor_bytes(theirs[name])
        for name in ours
    )


def _transforms(dataset: Any) -> Iterator[str]:
    """Description of a data set's transforms, wrapped data sets included."""
    for name in ("transform", "target_transform", "transforms"):
        if (found := getattr(dataset, name, None)) is not None:
            yield _ADDRESS.sub("", repr(found))
    if (inner := getattr(dataset, "dataset", None)) is not None:
        yield from _transforms(inner)


class SubsetSource(Source):
    """A subset of another source, renumbered from 0.

    Args:
        source: Where they come from.
        ids: Their numbers there.
    """

    def __init__(self, source: Source, ids: Int[Tensor, " n"]) -> None:
        """Store the selection."""
        self.source = source
        self.ids = ids.long()
        self.in_memory = source.in_memory
        self.is_random = source.is_random
        self.lengths = None if source.lengths is None else source.lengths[self.ids]
        chosen = hashlib.sha256(tensor_bytes(self.ids)).hexdigest()[:16]
        self.fingerprint = f"{source.fingerprint}[{chosen}]"

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.ids)

    def fetch(self, ids: Int[Tensor, " batch"]) -> Samples:
        """Samples with these numbers of the subset."""
        return self.source.fetch(self.ids[ids])

    @cached_property
    def input_kind(self) -> InputKind:
        """As of all samples."""
        return self.source.input_kind

    @property
    def whole(self) -> Source:
        """Where the samples come from in the end."""
        return self.source.whole

    def with_fixed_draws(self) -> "SubsetSource":
        """The same choice of samples that are the same at every call."""
        return SubsetSource(self.source.with_fixed_draws(), self.ids)


@dataclass(frozen=True, slots=True)
class Splits:
    """A data set ready for a run.

    Attributes:
        train: What the student learns from (and the transfer set of the teacher's soft targets).
        valid: For model selection; None where there is none.
        test: For the numbers that are reported; never used for a choice.
        class_names: One a class, in the order of the labels.
        inputs: What samples are; what `train` says of its own if not given.
        labelled: The part of `train` that has labels, where not all of it has.
        notes: What a reader of the numbers must know of the data.
    """

    train: Source
    valid: Source | None
    test: Source
    class_names: tuple[str, ...]
    inputs: InputKind = field(default=None)  # type: ignore[assignment]
    labelled: Source | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Ask the training data what they are, where nobody says."""
        if self.inputs is None:
            object.__setattr__(self, "inputs", self.train.input_kind)

    @property
    def mean(self) -> tuple[float, ...] | None:
        """Per channel, of inputs scaled to 0..1; None where they are taken as they are."""
        return self.inputs.norm and self.inputs.norm[0]

    @property
    def std(self) -> tuple[float, ...] | None:
        """As mean."""
        return self.inputs.norm and self.inputs.norm[1]


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
        order = spread_classes(order, torch.tensor(labels))
    size = round(count * fraction)
    if not 0 < size < count:
        raise DataError(
            f"A share of {fraction} of {quantity(count, 'sample')} is {size:,}: both parts need "
            "samples. Choose another fraction or give a split of your own."
        )
    return (
        SubsetSource(source, order[size:].sort().values),
        SubsetSource(source, order[:size].sort().values),
    )


def spread_classes(order: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Reorder samples so that every prefix has the class proportions of the whole.

    Args:
        order: Numbers of all samples.
        labels: The class of each sample.
    """
    shuffled = labels[order]
    place = torch.zeros(len(order), dtype=torch.float64)
    for label in shuffled.unique():
        where = (shuffled == label).nonzero().squeeze(1)
        place[where] = (torch.arange(len(where), dtype=torch.float64) + 0.5) / len(where)
    return order[torch.argsort(place, stable=True)]
