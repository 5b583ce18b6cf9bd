"""Metrics of yes/no labels: F1, average precision, area under the ROC curve."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from tutelage.measures import CountMeasure, Measure, WholeMeasure
from tutelage.metrics import f1
from tutelage.records import Metric

TASK_LOSS = "Binary cross-entropy with the labels at temperature 1, summed over labels, in nats"
OfLabel = Callable[[Tensor, Tensor], tuple[float, Float[Tensor, " samples"]]]


def _metric(name: str, title: str, meaning: str) -> Metric:
    return Metric(
        name=name,
        title=title,
        is_share=True,
        is_higher_better=True,
        unit=f"points of {title}",
        meaning=meaning,
        task_loss=TASK_LOSS,
        reach=1.0,
    )


AVERAGE_PRECISION = _metric(
    "average_precision",
    "average precision",
    "Mean over labels of the mean precision at each sample that has the label, the surest first.",
)
AUROC = _metric(
    "auroc",
    "AUROC",
    "Mean over labels of the share of pairs, one sample with the label and one without, that are "
    "in the right order.",
)
MACRO_F1 = _metric("macro_f1", "macro F1", "Mean over labels of F1 at a probability of 50 %.")
MICRO_F1 = _metric("micro_f1", "micro F1", "F1 of all decisions together, at 50 %.")
ACCURACY = _metric("accuracy", "accuracy", "Share of decisions that are right, at 50 %.")


def _counts(logits: Tensor, labels: Tensor) -> Float[Tensor, "items terms"]:
    """For each label: whether it is rightly predicted, whether it is true, whether predicted."""
    predicted = (logits > 0).double()
    return torch.cat([predicted * labels, labels.double(), predicted], dim=-1)


def _macro(sums: Float[Tensor, "*many terms"]) -> Float[Tensor, "*many"]:
    return f1(*sums.chunk(3, dim=-1)).nanmean(dim=-1).nan_to_num()


def _micro(sums: Float[Tensor, "*many terms"]) -> Float[Tensor, "*many"]:
    right, labelled, predicted = (part.sum(dim=-1) for part in sums.chunk(3, dim=-1))
    return f1(right, labelled, predicted).nan_to_num()


def _right(logits: Tensor, labels: Tensor) -> Float[Tensor, "items 2"]:
    right = ((logits > 0) == (labels > 0)).double().mean(dim=-1)
    return torch.stack([right, torch.ones_like(right)], dim=-1)


def _share(sums: Float[Tensor, "*many terms"]) -> Float[Tensor, "*many"]:
    return sums[..., 0] / sums[..., 1]


def _area(logits: Float[Tensor, " n"], labels: Float[Tensor, " n"]) -> tuple[float, Tensor]:
    """Area under a label's ROC curve, also without each sample; NaN if all labels are equal.

    Source:
        DeLong, DeLong & Clarke-Pearson 1988, "Comparing the Areas under Two or More Correlated
        Receiver Operating Characteristic Curves: A Nonparametric Approach".
    """
    is_there = labels > 0
    with_it, without_it = is_there.sum(), (~is_there).sum()
    placed = torch.from_numpy(rankdata(logits.numpy()))
    among = torch.empty_like(placed)
    for part in (is_there, ~is_there):
        among[part] = torch.from_numpy(rankdata(logits[part].numpy()))
    below = placed - among  # of the other kind, ties by half
    of_each = torch.where(is_there, below / without_it, 1 - below / with_it)
    area = of_each[is_there].mean()
    own = torch.where(is_there, with_it, without_it)
    left = (area * own - of_each) / (own - 1)
    return float(area), torch.where(own > 1, left, torch.nan)


def _precision(logits: Float[Tensor, " n"], labels: Float[Tensor, " n"]) -> tuple[float, Tensor]:
    """Average precision of a label, also without each sample; NaN if no sample has it."""
    is_there = (labels > 0).double()
    count = is_there.sum()
    scores, order = logits.double().sort()
    there = is_there[order]
    first = torch.searchsorted(scores, scores)  # the first that is as sure
    at_least = len(scores) - first
    with_it = there.flip(0).cumsum(0).flip(0)[first]
    precision = with_it / at_least
    whole = (there * precision).sum()
    # Without a sample, the precision changes at every threshold that it reaches.
    last = torch.searchsorted(scores, scores, right=True) - 1
    fewer = (at_least - 1).clamp(min=1)
    of_there = (there * ((with_it - 1) / fewer - precision)).cumsum(0)[last]
    of_others = (there * (with_it / fewer - precision)).cumsum(0)[last]
    own = there * (with_it - 1) / fewer
    left = whole + torch.where(there > 0, of_there, of_others) - own
    without = torch.empty_like(left)
    without[order] = left / (count - there)
    return float(whole / count), torch.where(count > is_there, without, torch.nan)


def _mean_of_labels(of_label: OfLabel, logits: Tensor, labels: Tensor) -> float:
    found = [of_label(*pair)[0] for pair in zip(logits.T, labels.T, strict=True)]
    known = [value for value in found if value == value]
    return sum(known) / len(known) if known else 0.0


def _means_without(of_label: OfLabel, logits: Tensor, labels: Tensor) -> Float[Tensor, " samples"]:
    pairs = zip(logits.T, labels.T, strict=True)
    return torch.stack([of_label(*pair)[1] for pair in pairs]).nanmean(dim=0).nan_to_num()


def _of_order(metric: Metric, of_label: OfLabel) -> WholeMeasure:
    return WholeMeasure(
        metric, partial(_mean_of_labels, of_label), partial(_means_without, of_label)
    )


FLAG_MEASURES: Mapping[str, Measure] = {
    "average_precision": _of_order(AVERAGE_PRECISION, _precision),
    "auroc": _of_order(AUROC, _area),
    "macro_f1": CountMeasure(MACRO_F1, _counts, _macro),
    "micro_f1": CountMeasure(MICRO_F1, _counts, _micro),
    "accuracy": CountMeasure(ACCURACY, _right, _share),
}
