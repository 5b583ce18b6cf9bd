"""Losses that weight samples."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.errors import ConfigError
from tutelage.losses.divergences import (
    check_scheduled_temperature,
    check_temperature,
    entropy_per_item,
    log_of_labels,
    log_soften,
    soften,
    weighed_surprise,
)
from tutelage.losses.per_sample import PerRow, Rows, mean_per_row
from tutelage.objective import Loss, Scheduled, value_at
from tutelage.types import Batch, Outputs, Signal

# Keeps the share finite where the teacher is sure of the label; as in the official code.
SURE = 1e-7


@final
class WSLD(Loss):
    """Weighted soft labels: more weight where the student lags behind the teacher.

    A sample's weight is 1 - exp(-s / t), with s and t the student's and the teacher's
    cross-entropy on the label: near 1 where the teacher knows better, small where it does not.

    Args:
        temperature: Above 0; 2 for ImageNet, 4 for CIFAR-100. A ramp moves it.

    Source:
        Zhou, Song, Chen, Zhou, Wang, Yuan & Zhang 2021, "Rethinking Soft Labels for Knowledge
        Distillation: A Bias-Variance Tradeoff Perspective", arXiv:2102.00650, section 4.

    Differs from the paper:
        Its alpha is the term's weight: 2.5 for ImageNet, 2.25 for CIFAR-100. As there, the soft
        part is a cross-entropy (the value at a perfect match is not 0), and no gradient passes
        through the weights.
    """

    needs = frozenset({Signal.LABELS, Signal.LOGITS})
    title = "wsld"

    def __init__(self, temperature: Scheduled = 4.0) -> None:
        """Hold the temperature."""
        super().__init__()
        self.temperature = check_scheduled_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The weighted soft cross-entropy, in nats times T squared."""
        return mean_per_row(self, student, teacher, batch)

    def per_row(self, rows: Rows) -> Float[Tensor, " rows"]:
        """The weighted soft cross-entropy of each row."""
        temperature = value_at(self.temperature, self.progress)
        soft = weighed_surprise(
            log_soften(rows.student, temperature), soften(rows.teacher, temperature)
        )
        return temperature**2 * weights_of_doubt(rows) * soft


def weights_of_doubt(rows: Rows) -> Float[Tensor, " rows"]:
    """Weights between 0 and 1, without gradient: how far the student lags on each label."""
    student = -log_of_labels(log_soften(rows.student.detach()), rows.labels)
    teacher = -log_of_labels(log_soften(rows.teacher), rows.labels)
    return -torch.expm1(-student / (teacher + SURE))


@final
class ERKD(Loss):
    """Entropy-reweighted distillation: weight by the teacher's uncertainty.

    Wraps a loss that is a mean over samples, such as `KD`, `DKD` or `NKD`.

    Args:
        inner: The loss that is reweighted; in a recipe `inner: {loss: kd, temperature: 4}`.
        entropy_temperature: Temperature of the teacher's distribution whose entropy weighs, above
            0; 4.

    Source:
        Su, Tseng & Lee 2023, "Knowledge From the Dark Side: Entropy-Reweighted Knowledge
        Distillation for Balanced Knowledge Transfer", arXiv:2311.13621, first version.

    Differs from other libraries:
        The official DKD variant multiplies a row by a column, so that its weights are one
        constant; here each sample has its own. The weights go up to the logarithm of the number
        of classes (4.6 for 100) and are not normalised: choose the term's weight anew.
    """

    needs = frozenset({Signal.LOGITS})
    title = "er_kd"

    def __init__(self, inner: Loss, entropy_temperature: float | int = 4.0) -> None:
        """Hold the loss and the temperature."""
        super().__init__()
        if not (isinstance(inner, PerRow) and Signal.LOGITS in inner.needs):
            raise ConfigError(
                f"er_kd: inner must be a loss on logits that judges each sample by itself, got "
                f"{getattr(inner, 'title', inner)!r}. Use kd, dkd, nkd, ttm or wsld."
            )
        self.inner = inner
        self.needs = inner.needs
        self.entropy_temperature = check_temperature(entropy_temperature, "entropy_temperature")

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The inner loss, each row times the teacher's entropy in nats."""
        self.inner.progress = self.progress
        return mean_per_row(self, student, teacher, batch)

    def per_row(self, rows: Rows) -> Float[Tensor, " rows"]:
        """The inner loss of each row times the teacher's entropy."""
        assert isinstance(self.inner, PerRow)
        entropy = entropy_per_item(rows.teacher, self.entropy_temperature)
        return entropy * self.inner.per_row(rows)
