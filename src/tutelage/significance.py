"""Effect of distillation: paired intervals over seeds and test samples, and the verdict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import torch
from jaxtyping import Bool, Float, Shaped
from scipy.stats import t as student_t
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.records import (
    ACCURACY,
    METHOD,
    Evaluation,
    Metric,
    Summary,
    TrainingRecord,
    Verdict,
)
from tutelage.wording import quantity

CHOICES = ("selected", "last")
# How far the quantile of |t| of exponential effects lies above Student's, by seeds, at 95 %.
SKEWED = {2: 1.88, 3: 1.88, 4: 1.77, 5: 1.66, 6: 1.59, 7: 1.53, 8: 1.47, 9: 1.42, 10: 1.39}
UNSEEN = 4  # samples that were not drawn and may differ as far as the largest that was


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Components:
    """Mean of paired differences and its variance components; one entry per study.

    Attributes:
        num_seeds: Pairs of trainings.
        num_samples: Test samples.
        mean: Mean of all differences.
        seeds: Variance of the seeds' means, divided by the seeds; 0 for one seed.
        samples: Variance of the samples' means, divided by the samples; 0 for one sample.
        residual: What neither explains, divided by all entries: part of both; 0 for one seed.
        largest: Largest difference of one pair on one sample, without its sign.
    """

    num_seeds: int
    num_samples: int
    mean: Float[Tensor, "*studies"]
    seeds: Float[Tensor, "*studies"]
    samples: Float[Tensor, "*studies"]
    residual: Float[Tensor, "*studies"]
    largest: Float[Tensor, "*studies"]


def paired_interval(
    distilled: Shaped[Tensor, "seeds samples"],
    baseline: Shaped[Tensor, "seeds samples"],
    level: float = 0.95,
    reach: float = 1.0,
) -> Interval:
    """Interval of the difference of two arms' scores, over other seeds and other test samples.

    Each entry's difference is one pair's effect on one sample; seeds and samples are crossed
    random effects. `half_width` says how wide the interval is. With one seed only the samples
    vary, and the interval says nothing about other seeds. One sample says nothing at all: its
    interval is the whole range.

    Args:
        distilled: How well each distilled student does each test sample: whether it is right, or
            another score of its task.
        baseline: The same for the baseline student of the same seed.
        level: Confidence level.
        reach: Largest difference that there can be: 1 for shares, 2 for correlations.

    Raises:
        ModelError: A score is not finite; the message names seed and sample.
    """
    _check_finite(distilled, "distilled")
    _check_finite(baseline, "baseline")
    found = components(distilled.double() - baseline.double())
    centre = float(found.mean)
    if found.num_samples < 2:
        return Interval(centre, -reach, reach)
    scale = reach if math.isfinite(reach) else _range(distilled, baseline)
    half = float(half_width(found, level, scale))
    return Interval(centre, max(-reach, centre - half), min(reach, centre + half))


def _check_finite(scores: Shaped[Tensor, "seeds samples"], arm: str) -> None:
    wrong = (~scores.double().isfinite()).nonzero()
    if len(wrong):
        seed, sample = wrong[0].tolist()
        raise ModelError(
            f"{arm}: the score of sample {sample} by training {seed + 1} of {len(scores)} is "
            f"{float(scores[seed, sample])}, so that nothing can be said of all. Look for NaN or "
            "infinite numbers in that network's weights and outputs, and in that sample."
        )


def components(difference: Float[Tensor, "*studies seeds samples"]) -> Components:
    """Variance components of a mean difference, for one study or many at once."""
    num_seeds, num_samples = difference.shape[-2:]
    by_seed, by_sample = difference.mean(dim=-1), difference.mean(dim=-2)
    centre = by_seed.mean(dim=-1)
    around_seeds = (by_seed - centre[..., None]).square().sum(dim=-1)
    around_samples = (by_sample - centre[..., None]).square().sum(dim=-1)
    around = (difference - centre[..., None, None]).square().sum(dim=(-2, -1))
    # The sums of squares of a two-way table add up; rounding may leave less than nothing.
    rest = (around - num_samples * around_seeds - num_seeds * around_samples).clamp(min=0)
    between, within = max(1, num_seeds - 1), max(1, num_samples - 1)
    return Components(
        num_seeds=num_seeds,
        num_samples=num_samples,
        mean=centre,
        seeds=around_seeds / (between * num_seeds),
        samples=around_samples / (within * num_samples),
        residual=rest / (between * within * num_seeds * num_samples) * (num_seeds > 1),
        largest=difference.abs().amax(dim=(-2, -1)),
    )


def half_width(
    found: Components, level: float = 0.95, scale: float = 1.0
) -> Float[Tensor, "*studies"]:
    """Half the width of the interval of a mean difference.

    Squared, it is t² of the seeds times their share plus t² of the samples times what the
    samples add to it, but at least t² of the samples times their whole share. So it holds the
    truth at least as often as the level says, however the variance divides (Banerjee). Student's
    quantile is too small where few effects are skewed; the seeds' is therefore that of exponential
    effects, except for noise of the samples, which is close to normal. As many as `UNSEEN`
    samples may have been missed that differ as far as the largest seen, or, where no sample
    differs, as far as `scale`: no interval is of zero width.

    Args:
        found: Components of the paired differences, from two samples or more.
        level: Confidence level.
        scale: How far a sample may differ where none does.

    Source:
        Banerjee 1960, "Approximate confidence interval for linear functions of means of k
        populations when the population variances are not equal"; the two-way random layout:
        Searle, Casella & McCulloch 1992, "Variance Components"; the unseen samples: Hanley &
        Lippman-Hand 1983, "If nothing goes wrong, is everything all right?", and Wilson 1927.
    """
    of_samples = _quantile(level, found.num_samples - 1) ** 2
    variance = of_samples * found.samples
    if found.num_seeds > 1:
        added = of_samples * (found.samples - found.residual).clamp(min=0)
        variance = torch.maximum(variance, _of_seeds(found, level) + added)
    unit = torch.where(found.largest > 0, found.largest, scale)
    return (variance + (UNSEEN * unit / found.num_samples).square()).sqrt()


def _of_seeds(found: Components, level: float) -> Tensor:
    """Share of the seeds, each component times the square of its quantile."""
    plain = _quantile(level, found.num_seeds - 1) ** 2
    wider = plain * SKEWED.get(found.num_seeds, 1 + 4 / found.num_seeds) ** 2
    # With two or three seeds even this much is too small where they are skewed.
    share = min(0.5, (found.num_seeds - 2) / 4)
    normal = torch.minimum(found.seeds, share * found.residual)
    return plain * normal + wider * (found.seeds - normal)


def _quantile(level: float, freedom: int) -> float:
    return float(student_t.ppf(0.5 + level / 2, freedom))


def _range(*arms: Tensor) -> float:
    """Range of all scores, for metrics without a known one; never 0."""
    scores = torch.cat([arm.double().flatten() for arm in arms])
    return float(scores.max() - scores.min()) or float(scores.abs().max()) or 1.0


def compare_arms(
    distilled: Shaped[Tensor, "seeds samples"],
    baseline: Shaped[Tensor, "seeds samples"],
    level: float = 0.95,
    metric: Metric = ACCURACY,
    judged_on: str = "test",
) -> Verdict:
    """The verdict: whether the interval of the difference lies above, around or below 0.

    Args:
        distilled: Scores of each distilled student on each sample.
        baseline: The same for the baseline student of the same seed.
        level: Confidence level.
        metric: What the scores are made for.
        judged_on: What kind of samples these are, "test" or "validation".

    Raises:
        ModelError: A score is not finite.
    """
    num_seeds, num_samples = distilled.shape
    reach = math.inf if metric.reach is None else metric.reach
    found = paired_interval(distilled, baseline, level, reach)
    word = "helped" if found.low > 0 else "hurt" if found.high < 0 else "no evidence"
    change = metric.over_baseline(found.mean)
    ends = f"{metric.difference(found.low)} to {metric.difference(found.high)}"
    interval = f"{level:.0%} interval {ends}"
    pairs = f"{quantity(num_seeds, 'pair')} of trainings"
    samples = quantity(num_samples, f"{judged_on} sample")
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
        sentence=f"{lead}: {change} ({interval}; {pairs}, {samples}, one teacher).{caveat}",
        method=METHOD,
    )


def summarise(
    arm: str,
    choice: str,
    trainings: Sequence[TrainingRecord],
    teacher: Evaluation | None,
    baseline: float | None,
    metric: Metric = ACCURACY,
) -> Summary:
    """One arm over its seeds.

    Args:
        arm: Its name.
        choice: "last" or "selected".
        trainings: One a seed.
        teacher: The teacher's evaluation; None where it is of other items, as in another tokenizer.
        baseline: Mean of the metric over the baseline arm under the same choice; None without one.
        metric: What networks are compared by.
    """
    evaluations = [t.last if choice == "last" else t.selected for t in trainings]
    names = dict.fromkeys(name for evaluation in evaluations for name in evaluation.values)
    kept = {name: [e.values[name] for e in evaluations if name in e.values] for name in names}
    own, best = mean(kept[metric.name]), None if teacher is None else teacher.values[metric.name]
    return Summary(
        arm=arm,
        choice=choice,
        mean={name: mean(numbers) for name, numbers in kept.items()},
        spread={n: stdev(numbers) if len(numbers) > 1 else None for n, numbers in kept.items()},
        retention=None if best is None else retention(own, best, metric),
        gap_closed=None if best is None else gap_closed(own, baseline, best, metric),
        per_class_retention=[] if teacher is None else _per_class(evaluations, teacher),
    )


def retention(student: float, teacher: float, metric: Metric = ACCURACY) -> float | None:
    """Share of the teacher's metric that the student keeps; None if the teacher's is 0."""
    above, below = (student, teacher) if metric.is_higher_better else (teacher, student)
    return above / below if below else None


def gap_closed(
    student: float, baseline: float | None, teacher: float, metric: Metric = ACCURACY
) -> float | None:
    """(student - baseline) / (teacher - baseline); None unless the teacher is better."""
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
    """Whether each sample's label is predicted."""
    return torch.eq(logits.argmax(dim=-1), labels)
