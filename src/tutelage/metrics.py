"""Metrics of a network, from logits and labels."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage.losses.divergences import cross_entropy, kl_per_item, soften
from tutelage.measures import CountMeasure, MeanMeasure, Measure
from tutelage.records import ACCURACY, CalibrationBin, Evaluation, Metric

NUM_BINS = 15
BALANCED_ACCURACY = Metric(
    name="balanced_accuracy",
    title="balanced accuracy",
    is_share=True,
    is_higher_better=True,
    unit="points of balanced accuracy",
    meaning="Mean over classes of the share of a class's samples that are recognised.",
    reach=1.0,
)
MACRO_F1 = Metric(
    name="macro_f1",
    title="macro F1",
    is_share=True,
    is_higher_better=True,
    unit="points of macro F1",
    meaning="Mean over classes of F1, the harmonic mean of precision and recall.",
    reach=1.0,
)


def calibration_bins(
    logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], num_bins: int = NUM_BINS
) -> list[CalibrationBin]:
    """Confidence against accuracy in bins of equal width; empty bins are omitted.

    Source:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599, section 2.
    """
    confidence, picked = soften(logits).max(dim=-1)
    correct = (picked == labels).double()
    numbers = (confidence * num_bins).long().clamp(max=num_bins - 1)
    bins = []
    for number in numbers.unique().tolist():
        inside = numbers == number
        bins.append(
            CalibrationBin(
                confidence=float(confidence[inside].double().mean()),
                accuracy=float(correct[inside].mean()),
                count=int(inside.sum()),
            )
        )
    return bins


def expected_calibration_error(bins: list[CalibrationBin]) -> float:
    """Mean distance of confidence and accuracy over bins, weighted by their samples."""
    count = sum(bin.count for bin in bins)
    return sum(abs(bin.confidence - bin.accuracy) * bin.count for bin in bins) / count


def accuracy_by_class(
    correct: Tensor, labels: Int[Tensor, " n"], num_classes: int
) -> list[float | None]:
    """Accuracy of each class; None for a class without samples."""
    count = torch.bincount(labels, minlength=num_classes)
    right = torch.bincount(labels, weights=correct.double(), minlength=num_classes)
    pairs = zip(right.tolist(), count.tolist(), strict=True)
    return [hits / total if total else None for hits, total in pairs]


def confusions(
    logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]
) -> list[tuple[int, int, int]]:
    """Confusion counts: labelled class, predicted class, how often; zero counts are omitted."""
    num_classes = logits.shape[-1]
    pairs, counts = (labels * num_classes + logits.argmax(dim=-1)).unique(return_counts=True)
    found = zip(pairs.tolist(), counts.tolist(), strict=True)
    return [(*divmod(pair, num_classes), count) for pair, count in found]


def evaluate_classes(
    logits: Float[Tensor, "n classes"],
    labels: Int[Tensor, " n"],
    teacher_logits: Float[Tensor, "n classes"] | None = None,
) -> Evaluation:
    """All metrics of one network's logits on a data set.

    Args:
        logits: Logits of the network.
        labels: Ground truth.
        teacher_logits: On the same samples; None for the teacher itself.
    """
    correct = logits.argmax(dim=-1) == labels
    bins = calibration_bins(logits, labels)
    agreement = kl_to_teacher = None
    if teacher_logits is not None:
        same = logits.argmax(dim=-1) == teacher_logits.argmax(dim=-1)
        agreement = float(same.double().mean())
        kl_to_teacher = float(kl_per_item(logits, teacher_logits).mean())
    return Evaluation(
        accuracy=float(correct.double().mean()),
        nll=float(cross_entropy(logits, labels)),
        ece=expected_calibration_error(bins),
        agreement=agreement,
        kl_to_teacher=kl_to_teacher,
        per_class_accuracy=accuracy_by_class(correct, labels, logits.shape[-1]),
        calibration=bins,
        count=len(labels),
        others={
            name: measure.value(logits, labels)
            for name, measure in CLASS_MEASURES.items()
            if name != ACCURACY.name
        },
    )


def always_most_frequent(labels: Int[Tensor, " n"], num_classes: int) -> Float[Tensor, "n classes"]:
    """Logits that always predict the most frequent class."""
    logits = torch.zeros(1, num_classes)
    logits[0, labels.bincount().argmax()] = 1
    return logits.expand(len(labels), -1)


def f1(right: Tensor, labelled: Tensor, predicted: Tensor) -> Float[Tensor, "*many"]:
    """F1 of counts; NaN for a class that is neither labelled nor predicted.

    Args:
        right: Items of which both are true.
        labelled: Items with the label.
        predicted: Items for which it is predicted.
    """
    return 2 * right / (labelled + predicted)


def _picked(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> Tensor:
    """Whether each item's label is predicted."""
    return torch.eq(logits.argmax(dim=-1), labels)


def _class_counts(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> Tensor:
    """Per class: true positives, labelled items, predicted items."""
    num_classes = logits.shape[-1]
    labelled = torch.nn.functional.one_hot(labels, num_classes)
    predicted = torch.nn.functional.one_hot(logits.argmax(dim=-1), num_classes)
    return torch.cat([labelled * predicted, labelled, predicted], dim=-1)


def _mean_recall(sums: Float[Tensor, "*many terms"]) -> Float[Tensor, "*many"]:
    right, labelled, _ = sums.chunk(3, dim=-1)
    return (right / labelled).nanmean(dim=-1)


def _mean_f1(sums: Float[Tensor, "*many terms"]) -> Float[Tensor, "*many"]:
    return f1(*sums.chunk(3, dim=-1)).nanmean(dim=-1)


PICKED = MeanMeasure(ACCURACY, _picked)
CLASS_MEASURES: Mapping[str, Measure] = {
    "accuracy": PICKED,
    "balanced_accuracy": CountMeasure(BALANCED_ACCURACY, _class_counts, _mean_recall),
    "macro_f1": CountMeasure(MACRO_F1, _class_counts, _mean_f1),
}
