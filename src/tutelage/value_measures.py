"""Metrics of real values: errors, explained variance, rank correlation, coverage."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from tutelage.measures import AT_ONCE, CountMeasure, MeanMeasure, Measure, WholeMeasure
from tutelage.records import Metric

STANDARDISED = "Task loss on labels of mean 0 and standard deviation 1"
WIDTH_90 = 1.6449  # standard deviations on either side of a normal mean hold 90 %


def _metric(name: str, title: str, meaning: str, **others: object) -> Metric:
    settings = {
        "is_share": False,
        "is_higher_better": False,
        "unit": "",
        "task_loss": STANDARDISED,
        **others,
    }
    return Metric(name=name, title=title, meaning=meaning, **settings)  # type: ignore[arg-type]


MAE = _metric(
    "mae",
    "mean absolute error",
    "Mean absolute difference from the label, in its units; mean over the values of a sample.",
)
RMSE = _metric(
    "rmse",
    "root mean squared error",
    "Root of the mean squared difference from the label, in its units.",
)
R2 = _metric(
    "r2",
    "R²",
    "Share of the labels' variance that is explained; mean over values. 0 for always predicting "
    "the mean.",
    is_higher_better=True,
)
SPEARMAN = _metric(
    "spearman",
    "rank correlation",
    "Spearman's correlation of values and labels; mean over values.",
    is_higher_better=True,
    reach=2.0,
)
COVERAGE = _metric(
    "coverage_90",
    "coverage of 90 % intervals",
    "Share of labels within the 90 % interval of their Gaussian; 90 % is right.",
    unit="points of coverage",
    is_share=True,
    is_higher_better=True,
    reach=1.0,
)


def mean_square(error: Float[Tensor, "items values"]) -> float:
    """Mean over items and values of the squared error."""
    return float(error.double().square().mean())


def _absolute(values: Tensor, labels: Tensor) -> Float[Tensor, " items"]:
    return (values - labels).double().abs().mean(dim=-1)


def _squared(values: Tensor, labels: Tensor) -> Float[Tensor, "items 2"]:
    errors = (values - labels).double().square().mean(dim=-1)
    return torch.stack([errors, torch.ones_like(errors)], dim=-1)


def _root(sums: Float[Tensor, "*many terms"]) -> Float[Tensor, "*many"]:
    squares, count = sums.unbind(dim=-1)
    return (squares.clamp(min=0) / count).sqrt()


def _sums(values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Squared errors, and squared distances of the labels from their mean."""
    labels = labels.double()
    return (values.double() - labels).square(), (labels - labels.mean(dim=0)).square()


def _share(errors: Tensor, spread: Tensor) -> Tensor:
    """Explained share, mean over values; 0 where labels do not vary."""
    return torch.where(spread > 0, 1 - errors / spread, 0.0).mean(dim=-1)


def _explained(values: Tensor, labels: Tensor) -> float:
    errors, spread = _sums(values, labels)
    return float(_share(errors.sum(dim=0), spread.sum(dim=0)))


def _explained_without(values: Tensor, labels: Tensor) -> Float[Tensor, " samples"]:
    errors, spread = _sums(values, labels)
    count = len(labels)
    left = spread.sum(dim=0) - count / max(1, count - 1) * spread
    return _share(errors.sum(dim=0) - errors, left)


def _ranks(values: Tensor) -> Float[Tensor, " n"]:
    """Ranks from 1; equal values share their mean rank."""
    return torch.from_numpy(rankdata(values.double().numpy()))


def _correlation(sums: tuple[Tensor, ...], count: int) -> Tensor:
    """Pearson's correlation from sums of ranks, squares and products; 0 where one is constant."""
    one, other, product, square, other_square = sums
    spread = (count * square - one.square()) * (count * other_square - other.square())
    covariance = count * product - one * other
    return torch.where(spread > 0, covariance / spread.clamp(min=1e-300).sqrt(), 0.0)


def _rank_correlation(values: Tensor, labels: Tensor) -> float:
    found = []
    for ours, wanted in zip(values.unbind(dim=1), labels.unbind(dim=1), strict=True):
        r, s = _ranks(ours), _ranks(wanted)
        sums = (r.sum(), s.sum(), r @ s, r @ r, s @ s)
        found.append(float(_correlation(sums, len(r))))
    return sum(found) / len(found)


def _rank_correlation_without(values: Tensor, labels: Tensor) -> Float[Tensor, " samples"]:
    pairs = zip(values.unbind(dim=1), labels.unbind(dim=1), strict=True)
    return torch.stack([_ranks_without(*pair) for pair in pairs]).mean(dim=0)


def _ranks_without(ours: Float[Tensor, " n"], wanted: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The correlation without each sample, which shifts the ranks of all above it by one."""
    r, s = _ranks(ours), _ranks(wanted)
    parts = []
    for rows in torch.arange(len(r)).split(max(1, AT_ONCE // len(r))):
        r_left, s_left = (ranks - _above(ranks, rows) for ranks in (r, s))
        own = torch.arange(len(rows)), rows
        r_left[own], s_left[own] = 0.0, 0.0  # the sample itself adds nothing
        sums = (
            r_left.sum(dim=1),
            s_left.sum(dim=1),
            (r_left * s_left).sum(dim=1),
            r_left.square().sum(dim=1),
            s_left.square().sum(dim=1),
        )
        parts.append(_correlation(sums, len(r) - 1))
    return torch.cat(parts)


def _above(ranks: Float[Tensor, " n"], rows: Tensor) -> Float[Tensor, "rows n"]:
    """Drop of each rank when a sample is removed: 1 above it, a half at equal value."""
    own = ranks[rows][:, None]
    return (ranks > own).double() + 0.5 * (ranks == own).double()


VALUE_MEASURES: Mapping[str, Measure] = {
    "mae": MeanMeasure(MAE, _absolute),
    "rmse": CountMeasure(RMSE, _squared, _root),
    "r2": WholeMeasure(R2, _explained, _explained_without),
    "spearman": WholeMeasure(SPEARMAN, _rank_correlation, _rank_correlation_without),
}


def _of_means(measure: Measure) -> Measure:
    """A metric of values applied to Gaussians, by their means."""

    def means(scores: Tensor) -> Tensor:
        return scores.chunk(2, dim=-1)[0]

    match measure:
        case MeanMeasure(metric, of_items):
            return MeanMeasure(metric, lambda scores, labels: of_items(means(scores), labels))
        case CountMeasure(metric, terms, of_sums):
            return CountMeasure(metric, lambda s, labels: terms(means(s), labels), of_sums)
        case WholeMeasure(metric, of_all, without):
            return WholeMeasure(
                metric,
                lambda scores, labels: of_all(means(scores), labels),
                lambda scores, labels: without(means(scores), labels),
            )
    raise TypeError(measure)


def _is_covered(scores: Tensor, labels: Tensor) -> Float[Tensor, " items"]:
    means, logs = scores.double().chunk(2, dim=-1)
    return ((labels - means).abs() <= WIDTH_90 * (logs / 2).exp()).double().mean(dim=-1)


GAUSSIAN_MEASURES: Mapping[str, Measure] = {
    **{name: _of_means(measure) for name, measure in VALUE_MEASURES.items()},
    "coverage_90": MeanMeasure(COVERAGE, _is_covered),
}
