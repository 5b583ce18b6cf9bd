"""Computation of metrics: one value for all samples, and one per sample."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from tutelage.records import Metric

AT_ONCE = 2**22  # numbers: a metric of many classes would take gigabytes at once


@runtime_checkable
class Measure(Protocol):
    """A metric, and how it is computed from scores and labels.

    Attributes:
        metric: Name, unit and meaning.
    """

    @property
    def metric(self) -> Metric:
        """Name, unit and meaning."""
        ...

    def value(
        self, scores: Tensor, labels: Tensor, sample_ids: Int[Tensor, " items"] | None = None
    ) -> float:
        """The metric of all items."""
        ...

    def per_sample(
        self, scores: Tensor, labels: Tensor, sample_ids: Int[Tensor, " items"]
    ) -> Float[Tensor, " samples"]:
        """Contribution of each sample, higher is better; the mean is the metric's rank.

        The verdict pairs these over seeds and samples. For a metric that is no mean of samples
        they are jackknife pseudo-values.
        """
        ...


@dataclass(frozen=True, slots=True)
class MeanMeasure:
    """A metric that is a mean over items, such as accuracy or a mean error.

    Attributes:
        metric: Name, unit and meaning.
        of_items: One number an item, as the metric counts it.
    """

    metric: Metric
    of_items: Callable[[Tensor, Tensor], Shaped[Tensor, " items"]]

    def value(
        self,
        scores: Tensor,
        labels: Tensor,
        sample_ids: Int[Tensor, " items"] | None = None,  # noqa: ARG002 - of sequences
    ) -> float:
        """The mean over all items."""
        return float(self.of_items(scores, labels).double().mean())

    def per_sample(
        self, scores: Tensor, labels: Tensor, sample_ids: Int[Tensor, " items"]
    ) -> Shaped[Tensor, " samples"]:
        """The number of each sample; the weighted mean if it has several items.

        So the mean over samples is the mean over items.
        """
        values = self.of_items(scores, labels)
        values = values if self.metric.is_higher_better else -values
        count = len(sample_ids.unique())
        if count == len(values):
            return values
        sums = by_sample(values.double()[:, None], sample_ids)[:, 0]
        return sums * (count / len(values))


@dataclass(frozen=True, slots=True)
class CountMeasure:
    """A metric that is computed from sums over items, such as F1 from counts.

    Attributes:
        metric: Name, unit and meaning.
        terms: One row of numbers an item; their sums are all that the metric needs.
        of_sums: The metric of such sums, for many of them at once.
    """

    metric: Metric
    terms: Callable[[Tensor, Tensor], Float[Tensor, "items terms"]]
    of_sums: Callable[[Float[Tensor, "*many terms"]], Float[Tensor, "*many"]]

    def value(
        self,
        scores: Tensor,
        labels: Tensor,
        sample_ids: Int[Tensor, " items"] | None = None,  # noqa: ARG002 - of sequences
    ) -> float:
        """The metric of all items."""
        return float(self.of_sums(self._whole(scores, labels)))

    def per_sample(
        self, scores: Tensor, labels: Tensor, sample_ids: Int[Tensor, " items"]
    ) -> Float[Tensor, " samples"]:
        """Jackknife pseudo-values, leaving out each sample with all of its items."""
        order = sample_ids.argsort(stable=True)
        _, counts = sample_ids.unique(return_counts=True)
        whole = self._whole(scores, labels)
        parts, at_once = [], max(1, AT_ONCE // len(whole))
        for items, group in _of_samples(order, counts, at_once):
            terms = self.terms(scores[items], labels[items]).double()
            summed = terms.new_zeros(int(group[-1]) + 1, len(whole)).index_add(0, group, terms)
            parts.append(self.of_sums(whole - summed))
        return pseudo_values(self.metric, self.of_sums(whole), torch.cat(parts))

    def _whole(self, scores: Tensor, labels: Tensor) -> Float[Tensor, " terms"]:
        """Sums over all items, computed in chunks."""
        at_once = max(1, AT_ONCE // max(1, 3 * scores[0].numel()))
        pairs = zip(scores.split(at_once), labels.split(at_once), strict=True)
        return torch.stack([self.terms(*pair).double().sum(dim=0) for pair in pairs]).sum(dim=0)


@dataclass(frozen=True, slots=True)
class WholeMeasure:
    """A metric of all samples together, such as a correlation.

    An item is a sample.

    Attributes:
        metric: Name, unit and meaning.
        of_all: The metric.
        without_each: The metric of all samples but each.
    """

    metric: Metric
    of_all: Callable[[Tensor, Tensor], float]
    without_each: Callable[[Tensor, Tensor], Float[Tensor, " samples"]]

    def value(
        self,
        scores: Tensor,
        labels: Tensor,
        sample_ids: Int[Tensor, " items"] | None = None,  # noqa: ARG002 - of sequences
    ) -> float:
        """The metric of all items."""
        return self.of_all(scores, labels)

    def per_sample(
        self,
        scores: Tensor,
        labels: Tensor,
        sample_ids: Int[Tensor, " items"],  # noqa: ARG002 - an item is a sample
    ) -> Float[Tensor, " samples"]:
        """Jackknife pseudo-values, leaving out each sample."""
        whole = torch.tensor(self.of_all(scores, labels), dtype=torch.float64)
        return pseudo_values(self.metric, whole, self.without_each(scores, labels).double())


def _of_samples(
    order: Int[Tensor, " items"], counts: Int[Tensor, " samples"], at_once: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Items of a few samples at a time, with the sample of each."""
    start = 0
    for some in counts.split(at_once):
        stop = start + int(some.sum())
        yield order[start:stop], torch.arange(len(some)).repeat_interleave(some)
        start = stop


def by_sample(
    terms: Shaped[Tensor, "items terms"], sample_ids: Int[Tensor, " items"]
) -> Shaped[Tensor, "samples terms"]:
    """Sums over the items of each sample, in order of sample number."""
    samples, places = sample_ids.unique(return_inverse=True)
    return terms.new_zeros(len(samples), terms.shape[1]).index_add(0, places, terms)


def pseudo_values(
    metric: Metric, whole: Float[Tensor, ""], without: Float[Tensor, " samples"]
) -> Float[Tensor, " samples"]:
    """Jackknife pseudo-values, shifted so that their mean is the metric; higher is better.

    Args:
        metric: Says whether more is better.
        whole: Value of all samples.
        without: Values without each sample in turn.

    Source:
        Tukey 1958, "Bias and confidence in not quite large samples"; Efron & Tibshirani 1993,
        "An Introduction to the Bootstrap", section 11.5.
    """
    count = len(without)
    if count < 2:  # nothing is left without the only one
        return whole[None] if metric.is_higher_better else -whole[None]
    values = whole + (count - 1) * (without.mean() - without)
    return values if metric.is_higher_better else -values
