"""Batches: samples and views, their order, reading and normalisation."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tutelage.data.labels import check_range
from tutelage.data.order import shuffled
from tutelage.data.sources import Source
from tutelage.data.views import Identity, ViewPolicy
from tutelage.errors import TutelageError
from tutelage.inputs import InputKind
from tutelage.types import UNLABELLED, Batch

_BATCHES_AT_ONCE = 64  # views are chosen for so many: memory per sample is that of the order alone

SampleIndex = tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]


class BatchBuilder(Dataset[Batch]):
    """Turns a request (sample numbers and view numbers) into a batch.

    Args:
        source: Where samples come from.
        views: What can be done to them.
        inputs: What samples are; what the source says of them if not given.
        mean: Per channel, of inputs scaled to 0..1; the normalisation of `inputs` if not given.
        std: Standard deviations, in the form of `mean`.
        num_classes: If given, labels outside 0..num_classes-1 are an error.
    """

    def __init__(
        self,
        source: Source,
        views: ViewPolicy | None = None,
        *,
        inputs: InputKind | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        num_classes: int | None = None,
    ) -> None:
        """Hold what reads."""
        self.source = source
        kind = inputs or source.input_kind
        has_own = mean is not None or std is not None
        self.inputs = kind.normalised_by(mean, std) if has_own else kind
        self.views = views or Identity()
        self.num_classes = num_classes

    @property
    def fingerprint(self) -> str:
        """Fingerprint that changes when any batch would change, views aside."""
        return f"{self.source.fingerprint} {self.inputs.fingerprint}"

    def part_fingerprint(self, samples: range) -> str:
        """Fingerprint that changes when the inputs of these samples would change, views aside.

        Where data cannot say that of a part, it is the fingerprint of the whole.
        """
        return f"{self.source.part_fingerprint(samples)} {self.inputs.fingerprint}"

    @property
    def lengths(self) -> Int[Tensor, " n"] | None:
        """Tokens per sample; None for samples of equal shape."""
        return self.source.lengths

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sample; None unless the data are texts."""
        if self.lengths is not None:
            return int(self.lengths.max())
        inputs, _ = self.source.fetch(torch.tensor([0]))
        return self.inputs.length(inputs)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.source)

    def __getitem__(self, request: SampleIndex) -> Batch:
        """The requested batch.

        Raises:
            DataError: A sample cannot be read or a label is out of range.
        """
        sample_ids, view_ids = request
        inputs, labels = self.source.fetch(sample_ids)
        has_gaps = self.source.is_partly_labelled
        if labels is not None and self.num_classes is not None:
            check_range(labels, sample_ids, self.num_classes, may_lack=has_gaps)
        viewed = self.inputs.view(inputs, self.views, sample_ids, view_ids)
        is_labelled = labels != UNLABELLED if has_gaps and labels is not None else None
        return Batch(
            self.inputs.normalise(viewed), labels, sample_ids, view_ids, is_labelled=is_labelled
        )


Reader = BatchBuilder  # the name before decision 0104, for one version


def training_requests(
    count: int,
    views: ViewPolicy,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    lengths: Int[Tensor, " n"] | None = None,
) -> Iterator[SampleIndex]:
    """Every sample once, in the order and views of a seed and epoch.

    No batch has a single row, of which batch norm and losses between samples know nothing: one row
    that is left at the end joins the batch before it.

    Args:
        count: Number of samples.
        views: The view policy.
        batch_size: Rows a batch; the last one may be smaller, or larger by one.
        seed: Seed of order and views.
        epoch: Counted from 0.
        lengths: Lengths of texts; texts of similar length are batched together, with less padding.
    """
    order = _in_batches(count, views, batch_size, seed, epoch, lengths)
    return _last_joined(order) if _leaves_one(count, batch_size) else order


def num_batches(count: int, batch_size: int) -> int:
    """Number of batches that `training_requests` makes."""
    return -(-count // batch_size) - _leaves_one(count, batch_size)


def _leaves_one(count: int, batch_size: int) -> bool:
    return count > batch_size > 1 and count % batch_size == 1


def _last_joined(requests: Iterator[SampleIndex]) -> Iterator[SampleIndex]:
    """The same requests with the last two joined."""
    held = next(requests)
    for request in requests:
        if len(request[0]) == 1:
            held = torch.cat([held[0], request[0]]), torch.cat([held[1], request[1]])
        else:
            yield held
            held = request
    yield held


def _in_batches(
    count: int,
    views: ViewPolicy,
    batch_size: int,
    seed: int,
    epoch: int,
    lengths: Tensor | None,
) -> Iterator[SampleIndex]:
    order_seed, size = _order_seed(seed, epoch), _BATCHES_AT_ONCE * batch_size
    generator = torch.Generator().manual_seed(order_seed)
    for ids in shuffled(count, seed=order_seed, block=size):
        block = ids if lengths is None else _alike(ids, lengths, batch_size, generator)
        chosen = views.choose(block, epoch, seed)
        yield from zip(block.split(batch_size), chosen.split(batch_size), strict=True)


def _alike(block: Tensor, lengths: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """Samples of a block in batches of similar length, the batches in random order.

    A batch that is not full stays the last one.
    """
    batches = list(block[lengths[block].argsort(stable=True)].split(batch_size))
    full = len(block) // batch_size
    order = torch.randperm(full, generator=generator).tolist()
    return torch.cat([*(batches[number] for number in order), *batches[full:]])


def in_order(
    count: int,
    *,
    batch_size: int,
    view_id: int = 0,
    lengths: Int[Tensor, " n"] | None = None,
) -> Iterator[SampleIndex]:
    """Every sample once in a fixed view: in the data's order, or the shortest texts first.

    Args:
        count: Number of samples.
        batch_size: Rows a batch; the last one may be smaller.
        view_id: Number of the view.
        lengths: Lengths of texts, for batches with little padding.
    """
    order = None if lengths is None else lengths.argsort(stable=True)
    for start in range(0, count, batch_size):
        stop = min(start + batch_size, count)
        ids = torch.arange(start, stop) if order is None else order[start:stop]
        yield ids, torch.full_like(ids, view_id)


def spread(count: int, wanted: int) -> SampleIndex:
    """Samples spread evenly over the data, in their first view."""
    ids = torch.linspace(0, count - 1, min(wanted, count)).long()
    return ids, torch.zeros_like(ids)


def all_views(first: int, stop: int, num_views: int, *, batch_size: int) -> Iterator[SampleIndex]:
    """Every view of the samples first..stop-1, sample by sample."""
    for items in torch.arange(first * num_views, stop * num_views).split(batch_size):
        yield items // num_views, items % num_views


def iterate(
    reader: BatchBuilder, requests: Iterator[SampleIndex], workers: int = 0
) -> Iterator[Batch]:
    """Read requests one after another, in background processes if useful.

    Args:
        reader: What reads.
        requests: What to read, in order.
        workers: Processes; 0 reads in this one, as do sources that are a look-up in memory.
    """
    if workers == 0 or reader.source.in_memory:
        return (reader[request] for request in requests)
    loader: Any = DataLoader(
        _ErrorsAsValues(reader),
        sampler=_Once(requests),
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else it draws from the global one, which dropout uses
    )
    return _raising(loader)


class _Once(Sampler[SampleIndex]):
    """Requests for a loader, generated while it reads."""

    def __init__(self, requests: Iterator[SampleIndex]) -> None:
        self.requests = requests

    def __iter__(self) -> Iterator[SampleIndex]:
        return self.requests


class _ErrorsAsValues(Dataset[Batch | TutelageError]):
    """Returns errors as values, because a loader adds a worker's traceback to their text."""

    def __init__(self, reader: BatchBuilder) -> None:
        self.reader = reader

    def __getitem__(self, request: SampleIndex) -> Batch | TutelageError:
        try:
            return self.reader[request]
        except TutelageError as error:
            return error


def _raising(results: Iterable[Batch | TutelageError]) -> Iterator[Batch]:
    for result in results:
        if isinstance(result, TutelageError):
            raise result
        yield result


def _order_seed(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch * 7_919 + 17) % 2**63
