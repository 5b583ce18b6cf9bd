"""Losses that transform logits or temperature before they compare."""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.errors import ConfigError
from tutelage.losses.correlation import check_three_classes
from tutelage.losses.divergences import (
    check_scheduled_temperature,
    check_temperature,
    cleared,
    kl_divergence,
    kl_of_logs,
    log_soften,
)
from tutelage.losses.per_sample import Rows, class_logits, mean_per_row, teacher_logits
from tutelage.objective import DryRun, Loss, Scheduled, value_at
from tutelage.types import Batch, Outputs, Signal

# A centred line that is shorter than this share of the line is a constant and rounding.
CONSTANT = 1e-6
# Logits that spread less are all alike to softmax; to divide by it would only make them loud.
LEAST_SPREAD = 1e-3


@final
class TTM(Loss):
    """Transformed teacher matching: the temperature softens the teacher alone.

    The student learns at temperature 1, at which it is used, so its probabilities stay meaningful.

    Args:
        temperature: Temperature of the teacher, above 0; 5 to 10 is usual. The paper's exponent
            gamma is its inverse. A ramp moves it.

    Source:
        Zheng & Yang 2024, "Knowledge Distillation Based on Transformed Teacher Matching",
        arXiv:2402.11148.

    Differs from KD:
        No T squared, as in the paper: the gradient on the student's logits is (q - p) / N.
    """

    needs = frozenset({Signal.LOGITS})
    title = "ttm"

    def __init__(self, temperature: Scheduled = 10.0) -> None:
        """Hold the temperature."""
        super().__init__()
        self.temperature = check_scheduled_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """KL(softened teacher || student), in nats."""
        return mean_per_row(self, student, teacher, batch)

    def per_row(self, rows: Rows) -> Float[Tensor, " rows"]:
        """The divergence of each row."""
        return transformed_kl(rows, value_at(self.temperature, self.progress))


@final
class WTTM(Loss):
    """Weighted transformed teacher matching: TTM, weighted by the teacher's uncertainty.

    A sample's weight is the sum of the teacher's probabilities to the power of 1 / temperature: 1
    where it is sure, more where it is not.

    Args:
        temperature: Temperature of the teacher, above 0; 5 to 10 is usual. A ramp moves it.

    Source:
        Zheng & Yang 2024, "Knowledge Distillation Based on Transformed Teacher Matching",
        arXiv:2402.11148.

    Differs from KD:
        No T squared. The weights are not normalised, as in the paper: they grow with the classes
        (about 40 for 100 classes at temperature 10), so choose the term's weight anew.
    """

    needs = frozenset({Signal.LOGITS})
    title = "wttm"

    def __init__(self, temperature: Scheduled = 10.0) -> None:
        """Hold the temperature."""
        super().__init__()
        self.temperature = check_scheduled_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The weighted divergence, in nats."""
        return mean_per_row(self, student, teacher, batch)

    def per_row(self, rows: Rows) -> Float[Tensor, " rows"]:
        """The weighted divergence of each row."""
        temperature = value_at(self.temperature, self.progress)
        return power_sum(rows.teacher, temperature) * transformed_kl(rows, temperature)


def transformed_kl(rows: Rows, temperature: float) -> Float[Tensor, " rows"]:
    """KL(softened teacher || student at temperature 1) of each row."""
    return kl_of_logs(log_soften(rows.student), log_soften(rows.teacher, temperature))


def power_sum(
    logits: Float[Tensor, "rows classes"], temperature: float | int
) -> Float[Tensor, " rows"]:
    """Sum over classes of the probabilities raised to 1 / temperature."""
    return (log_soften(logits) / temperature).logsumexp(dim=-1).exp()


@final
class CTKD(Loss):
    """Curriculum temperature: KD with a learned temperature that makes the task harder.

    The temperature climbs the gradient that the student goes down; how fast, rises from 0 in the
    first epochs. It is trained and saved with the student's other settings, never exported.

    Args:
        lowest: The least temperature, above 0; 1.
        span: The largest is this much above it, above 0; 20.
        until: Share of the training, above 0 and at most 1, at which the temperature learns in
            full; 10 of 240 epochs in the paper.

    Source:
        Li, Li, Yang, Zhao, Song, Luo, Li & Yang 2023, "Curriculum Temperature for Knowledge
        Distillation", arXiv:2211.16231, section 3, the global version.

    Differs from the paper:
        The reversal rises with each step and not with each epoch.
    """

    needs = frozenset({Signal.LOGITS})
    title = "ctkd"

    def __init__(
        self, lowest: float | int = 1.0, span: float | int = 20.0, until: float | int = 10 / 240
    ) -> None:
        """Store the settings and the parameter, initially 1 as in the paper."""
        super().__init__()
        self.lowest = check_temperature(lowest, "lowest")
        self.span = check_temperature(span, "span")
        if not 0 < until <= 1:
            raise ConfigError(f"until must lie above 0 and not above 1, got {until}. Usual: 0.04.")
        self.until = float(until)
        self.height = nn.Parameter(torch.ones(()))

    @property
    def temperature(self) -> float:
        """The current temperature."""
        return float(self._learned().detach())

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The divergence, in nats times T squared."""
        wanted = teacher_logits(self, student, teacher)
        reversal = -0.5 * (1 - math.cos(math.pi * min(1.0, self.progress / self.until)))
        temperature = scale_gradient(self._learned(), reversal)
        return kl_divergence(class_logits(self, student), wanted, temperature, batch.mask)

    def _learned(self) -> Float[Tensor, ""]:
        return self.lowest + self.span * self.height.sigmoid()


def scale_gradient(value: Float[Tensor, ""], factor: float) -> Float[Tensor, ""]:
    """The value itself, with its gradient multiplied by a factor."""
    return value.detach() + factor * (value - value.detach())


@final
class LogitStandardisation(Loss):
    """Logits standardised per sample before another loss compares them.

    The student need not copy how sure the teacher is, only how it orders the classes and how far
    apart. Use it with a weight of about 9 and a task_weight of 0.1:
    `9 * LogitStandardisation(KD(2))`. The student's own confidence is then taught by the task loss
    alone: look at its calibration. It needs three classes or more.

    Args:
        inner: A loss on logits; in a recipe `inner: {loss: kd, temperature: 2}`. Its temperature
            is the paper's base temperature, 2 to 4.

    Source:
        Sun, Ren, Li, Wang & Cao 2024, "Logit Standardization in Knowledge Distillation",
        arXiv:2403.01427, algorithms 1 and 2.

    Differs from the paper:
        As in its code, the spread is the unbiased one. A sample whose logits are all alike gives
        zeros, without the 1e-7 that the code adds to every spread. Classes that a network holds
        impossible (`-inf`) stay so, and count in neither mean nor spread.
    """

    needs = frozenset({Signal.LOGITS})
    title = "logit_standardisation"

    def __init__(self, inner: Loss) -> None:
        """Store the inner loss."""
        super().__init__()
        if Signal.LOGITS not in inner.needs or Signal.FEATURES in inner.needs:
            raise ConfigError(
                f"logit_standardisation: inner must compare logits with a teacher's, and "
                f"{inner.title!r} does not. Use kd, dkd, dist or another loss on logits."
            )
        self.inner = inner
        self.needs = inner.needs
        self.whole_batch = inner.whole_batch

    def setup(self, dry: DryRun) -> None:
        """Build the inner loss."""
        self.inner.setup(dry)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The inner loss of standardised logits."""
        wanted = teacher_logits(self, student, teacher)
        check_three_classes(self, student.logits)
        self.inner.progress = self.progress
        logits = (cleared(each, batch.mask) for each in (student.logits, wanted))
        ours, theirs = (Outputs(standardise(each)) for each in logits)
        value: Float[Tensor, ""] = self.inner(ours, theirs, batch)
        return value


def standardise(logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
    """Each row minus its mean, divided by its unbiased standard deviation, in float32 or better.

    Args:
        logits: `-inf` means an impossible class; such stay, and the others are standardised.
    """
    precise = logits if logits.dtype == torch.float64 else logits.float()
    possible = precise != -torch.inf
    finite = torch.where(possible, precise, 0.0)
    count = possible.sum(dim=-1, keepdim=True)
    mean = finite.sum(dim=-1, keepdim=True) / count.clamp(min=1)
    centred = torch.where(possible, finite - mean, 0.0)
    variance = centred.square().sum(dim=-1, keepdim=True) / (count - 1).clamp(min=1)
    varies = variance > CONSTANT**2 * finite.square().sum(dim=-1, keepdim=True)
    scaled = centred / torch.where(varies, variance, 1.0).clamp(min=LEAST_SPREAD**2).sqrt()
    return torch.where(possible, torch.where(varies, scaled, 0.0), -torch.inf)
