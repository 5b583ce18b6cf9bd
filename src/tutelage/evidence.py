"""What distillation changed: paired intervals over seeds and test samples, and the verdict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import torch
from jaxtyping import Bool, Shaped
from scipy.stats import t as student_t
from torch import Tensor

from tutelage.records import ACCURACY, Evaluation, Metric, Summary, TrainingRecord, Verdict

CHOICES = ("selected", "last")


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float


def paired_interval(
    distilled: Shaped[Tensor, "seeds samples"],
    baseline: Shaped[Tensor, "seeds samples"],
    level: float = 0.95,
    reach: float = 1.0,
) -> Interval:
    """Interval of the difference of two arms' scores, over other seeds and other test samples.

    Each entry's difference is one pair's effect on one sample. Seeds and samples are crossed
    random effects, so the variance of the mean is the seeds' share plus the samples' share, less
    what both count twice. The quantile is Student's t with Satterthwaite's degrees of freedom.
    With one seed only the samples vary, and nothing is said of other seeds. One sample says
    nothing at all: its interval is the whole range.

    Args:
        distilled: How well each distilled student does each test sample: whether it is right, or
            another score of its task.
        baseline: The same for the baseline student of the same seed.
        level: Confidence level.
        reach: Largest difference that there can be: 1 for shares.

    Source:
        Satterthwaite 1946, "An Approximate Distribution of Estimates of Variance Components";
        the two-way random layout: Searle, Casella & McCulloch 1992, "Variance Components".
    """
    difference = distilled.double() - baseline.double()
    num_seeds, num_samples = difference.shape
    centre = float(difference.mean())
    if num_samples < 2:
        return Interval(centre, -reach, reach)
    parts = [(_variance(difference.mean(dim=0)) / num_samples, num_samples - 1)]
    if num_seeds > 1:
        parts.append((_variance(difference.mean(dim=1)) / num_seeds, num_seeds - 1))
    residual = _residual(difference) if num_seeds > 1 else 0.0
    total = sum(variance for variance, _ in parts)
    variance = max(total - residual, max(variance for variance, _ in parts))
    if variance == 0:
        return Interval(centre, centre, centre)
    freedom = total**2 / sum(v**2 / df for v, df in parts if v > 0)
    half = float(student_t.ppf(0.5 + level / 2, freedom)) * math.sqrt(variance)
    return Interval(centre, max(-reach, centre - half), min(reach, centre + half))


def _variance(values: Tensor) -> float:
    return float(values.var()) if len(values) > 1 else 0.0


def _residual(difference: Tensor) -> float:
    """Variance of the mean from what neither the seed nor the sample explains."""
    num_seeds, num_samples = difference.shape
    rest = (
        difference
        - difference.mean(dim=0, keepdim=True)
        - difference.mean(dim=1, keepdim=True)
        + difference.mean()
    )
    freedom = (num_seeds - 1) * (num_samples - 1)
    return float(rest.square().sum()) / freedom / (num_seeds * num_samples)


def judge(
    distilled: Shaped[Tensor, "seeds samples"],
    baseline: Shaped[Tensor, "seeds samples"],
    level: float = 0.95,
    metric: Metric = ACCURACY,
) -> Verdict:
    """The verdict: whether the interval of the difference lies above, on or below 0."""
    num_seeds, num_samples = distilled.shape
    reach = 1.0 if metric.is_share else float("inf")
    found = paired_interval(distilled, baseline, level, reach)
    word = "helped" if found.low > 0 else "hurt" if found.high < 0 else "no evidence"
    points = f"{metric.difference(found.mean)} {metric.unit}"
    ends = f"{metric.difference(found.low)} to {metric.difference(found.high)}"
    interval = f"{level:.0%} interval {ends}"
    pairs = f"{num_seeds} pair{'s' if num_seeds > 1 else ''} of trainings"
    lead = {
        "helped": "Distillation helped",
        "hurt": "Distillation hurt",
        "no evidence": "There is no evidence that distillation changed anything",
    }[word]
    caveat = "" if num_seeds > 1 else " One seed says nothing of other seeds."
    return Verdict(
        word=word,
        difference=found.mean,
        low=found.low,
        high=found.high,
        level=level,
        num_seeds=num_seeds,
        num_samples=num_samples,
        sentence=f"{lead}: {points} over the baseline ({interval}; {pairs}, "
        f"{num_samples} test samples).{caveat}",
    )


def summarise(
    arm: str,
    choice: str,
    trainings: Sequence[TrainingRecord],
    teacher: Evaluation,
    baseline: float | None,
    metric: Metric = ACCURACY,
) -> Summary:
    """One arm over its seeds.

    Args:
        arm: Its name.
        choice: "last" or "selected".
        trainings: One a seed.
        teacher: The teacher's evaluation.
        baseline: Mean of the metric over the baseline arm under the same choice; None without one.
        metric: What networks are compared by.
    """
    evaluations = [t.last if choice == "last" else t.selected for t in trainings]
    names = dict.fromkeys(name for evaluation in evaluations for name in evaluation.values)
    kept = {name: [e.values[name] for e in evaluations if name in e.values] for name in names}
    own, best = mean(kept[metric.name]), teacher.values[metric.name]
    return Summary(
        arm=arm,
        choice=choice,
        mean={name: mean(numbers) for name, numbers in kept.items()},
        spread={n: stdev(numbers) if len(numbers) > 1 else None for n, numbers in kept.items()},
        retention=retention(own, best, metric),
        gap_closed=gap_closed(own, baseline, best, metric),
        per_class_retention=_per_class(evaluations, teacher),
    )


def retention(student: float, teacher: float, metric: Metric = ACCURACY) -> float:
    """What the student keeps of the teacher's metric: 1 is all of it; 0 where it means nothing."""
    above, below = (student, teacher) if metric.is_higher_better else (teacher, student)
    return above / below if below else 0.0


def gap_closed(
    student: float, baseline: float | None, teacher: float, metric: Metric = ACCURACY
) -> float | None:
    """(student - baseline) / (teacher - baseline); None unless the teacher is the better one."""
    if baseline is None or metric.rank(teacher) <= metric.rank(baseline):
        return None
    return (student - baseline) / (teacher - baseline)


def _per_class(evaluations: Sequence[Evaluation], teacher: Evaluation) -> list[float | None]:
    shares: list[float | None] = []
    for number, best in enumerate(teacher.per_class_accuracy):
        own = [e.per_class_accuracy[number] for e in evaluations]
        known = [value for value in own if value is not None]
        shares.append(mean(known) / best if best and known else None)
    return shares


def correct(logits: Tensor, labels: Tensor) -> Bool[Tensor, " samples"]:
    """Whether each sample's label is picked."""
    return torch.eq(logits.argmax(dim=-1), labels)
