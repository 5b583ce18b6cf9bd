"""Losses on labels alone: baselines for the benefit of a teacher."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage.errors import ConfigError
from tutelage.losses.divergences import (
    check_scheduled_temperature,
    kl_per_item,
    log_soften,
    weighed_surprise,
)
from tutelage.losses.per_sample import Rows, mean_per_row
from tutelage.objective import Loss, Scheduled, value_at
from tutelage.types import Batch, Outputs, Signal


@final
class LabelSmoothing(Loss):
    """Cross-entropy against labels with a share spread evenly over all classes.

    It replaces the task loss: set task_weight to 0. Much of what a poor teacher gives is only
    this, so a method should beat it.

    Args:
        share: That is spread, from 0 to below 1; 0.1 is usual.

    Source:
        Szegedy, Vanhoucke, Ioffe, Shlens & Wojna 2016, "Rethinking the Inception Architecture
        for Computer Vision", arXiv:1512.00567, section 7.

    Differs from other libraries:
        As in torch, the label keeps 1 - share + share / classes. The Tf-KD code gives it
        1 - share: multiply that share by classes / (classes - 1). Classes that the student holds
        impossible (`-inf`) get nothing of the share.
    """

    needs = frozenset({Signal.LABELS})
    title = "label_smoothing"

    def __init__(self, share: float | int = 0.1) -> None:
        """Hold the share."""
        super().__init__()
        if not 0 <= share < 1:
            raise ConfigError(f"share must be 0 or more and below 1, got {share}. Usual: 0.1.")
        self.share = float(share)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The cross-entropy, in nats."""
        return mean_per_row(self, student, teacher, batch)

    def per_row(self, rows: Rows) -> Float[Tensor, " rows"]:
        """The cross-entropy of each row."""
        possible = _possible(rows.student)
        even = self.share * possible / possible.sum(dim=-1, keepdim=True)
        smoothed = even + (1 - self.share) * _one_hot(rows.labels, rows.student)
        return weighed_surprise(log_soften(rows.student), smoothed)


@final
class TeacherFree(Loss):
    """Teacher-free regularisation: KD from a synthetic teacher, right and evenly unsure.

    The made-up teacher gives the label a fixed probability and shares the rest evenly. A method
    with a real teacher should beat it.

    Args:
        correct: The made-up teacher's probability of the label, above 0 and below 1; 0.99.
        temperature: Above 0; 20 in the paper. A ramp moves it.

    Source:
        Yuan, Tay, Li, Wang & Feng 2020, "Revisiting Knowledge Distillation via Label Smoothing
        Regularization", arXiv:1909.11723, the regularisation version (Tf-KD reg).

    Differs from other libraries:
        The official code softens the probabilities themselves and not their logarithms, so that
        its teacher is uniform but for a hundredth, and divides by the classes too; ours is T
        squared times the divergence, as KD. Its alpha and multiplier are the term's weight.
        Classes that the student holds impossible (`-inf`) are the teacher's neither.
    """

    needs = frozenset({Signal.LABELS})
    title = "teacher_free"

    def __init__(self, correct: float | int = 0.99, temperature: Scheduled = 20.0) -> None:
        """Hold the settings."""
        super().__init__()
        if not 0 < correct < 1:
            raise ConfigError(f"correct must lie above 0 and below 1, got {correct}. Usual: 0.99.")
        self.correct = float(correct)
        self.temperature = check_scheduled_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The divergence from the synthetic teacher, in nats times T squared."""
        return mean_per_row(self, student, teacher, batch)

    def per_row(self, rows: Rows) -> Float[Tensor, " rows"]:
        """The divergence of each row."""
        temperature = value_at(self.temperature, self.progress)
        is_label = _one_hot(rows.labels, rows.student).bool()
        possible = _possible(rows.student)
        others = (possible.sum(dim=-1, keepdim=True) - 1).clamp(min=1)
        made_up = torch.where(is_label, self.correct, possible * (1 - self.correct) / others)
        return temperature**2 * kl_per_item(rows.student, made_up.log(), temperature)


def _possible(logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
    return (logits != -torch.inf).to(logits.dtype)


def _one_hot(
    labels: Int[Tensor, " rows"], like: Float[Tensor, "rows classes"]
) -> Float[Tensor, "rows classes"]:
    return torch.zeros_like(like).scatter(dim=-1, index=labels.unsqueeze(dim=-1), value=1.0)
