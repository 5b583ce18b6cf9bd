"""Losses that treat the label's class and the other classes separately."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage.errors import ConfigError
from tutelage.losses.divergences import (
    check_scheduled_temperature,
    kl_of_logs,
    log_of_labels,
    log_soften,
    soften,
    split_at_label,
    weighed_surprise,
)
from tutelage.losses.per_sample import Rows, mean_per_row
from tutelage.objective import Loss, Scheduled, value_at
from tutelage.types import Batch, Outputs, Signal

Logits = Float[Tensor, "rows classes"]
Labels = Int[Tensor, " rows"]
PerRowValues = Float[Tensor, " rows"]


@final
class DKD(Loss):
    """Decoupled distillation: confidence in the label, and the distribution of the other classes.

    KD weighs the second part by the teacher's doubt, so it fades where the teacher is sure; here
    it has a weight of its own. Use it with labels and a confident teacher. Let its weight rise in
    the first epochs, as the paper does: `Ramp(0, 1, until=20 / 240) * DKD()`. With two classes the
    second part is 0.

    Args:
        label_weight: Weight of the first part (the paper's alpha); 1 is usual.
        other_weight: Weight of the second part (the paper's beta): 8 for most CIFAR-100 pairs, 2
            where the teacher is weak, 0.5 to 2 on ImageNet. The setting that matters.
        temperature: Above 0; 4 for CIFAR-100, 1 for ImageNet. A ramp moves it.

    Source:
        Zhao, Cui, Song, Qiu & Liang 2022, "Decoupled Knowledge Distillation", arXiv:2203.08679,
        equation 7.

    Differs from other libraries:
        Log-sum-exp throughout: the official code takes logarithms of sums of probabilities,
        which are infinite where a label is sure.
    """

    needs = frozenset({Signal.LABELS, Signal.LOGITS})
    title = "dkd"

    def __init__(
        self,
        label_weight: float | int = 1.0,
        other_weight: float | int = 8.0,
        temperature: Scheduled = 4.0,
    ) -> None:
        """Hold the settings."""
        super().__init__()
        self.label_weight = check_part("label_weight", label_weight)
        self.other_weight = check_part("other_weight", other_weight)
        self.temperature = check_scheduled_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """Both parts, in nats times T squared."""
        return mean_per_row(self, student, teacher, batch)

    def per_row(self, rows: Rows) -> PerRowValues:
        """Both parts of each row."""
        temperature = value_at(self.temperature, self.progress)
        label_part, other_part = decoupled_parts(
            rows.student, rows.teacher, rows.labels, temperature
        )
        parts = self.label_weight * label_part + self.other_weight * other_part
        return temperature**2 * parts


def decoupled_parts(
    student: Logits, teacher: Logits, labels: Labels, temperature: float | int
) -> tuple[PerRowValues, PerRowValues]:
    """KL of label or not, and KL among the other classes, of each row, without T squared.

    The first plus the second times the teacher's probability of the other classes is plain KD.
    """
    ours = split_at_label(student, labels, temperature)
    theirs = split_at_label(teacher, labels, temperature)
    return (
        kl_of_logs(ours.label_or_not, theirs.label_or_not),
        kl_of_logs(ours.others, theirs.others),
    )


@final
class NKD(Loss):
    """Normalised distillation: cross-entropy on the label, and on the other classes' distribution.

    The label's part is weighed by the teacher's probability of the label. Use it as DKD; it has
    one weight less. With two classes the second part is 0.

    Args:
        other_weight: Weight of the second part (the paper's gamma); 1.5 is usual.
        temperature: Temperature of the second part, above 0; 1 for ImageNet, 3 for CIFAR-100. A
            ramp moves it.

    Source:
        Yang, Zeng, Li, Zhang, Yuan & Li 2023, "From Knowledge Distillation to Self-Knowledge
        Distillation: A Unified Approach with Normalized Loss and Customized Soft Labels",
        arXiv:2303.13005, section 3.

    Differs from the paper:
        The task loss is the objective's. As there, both parts are cross-entropies: the value at
        a perfect match is the teacher's entropy and not 0.
    """

    needs = frozenset({Signal.LABELS, Signal.LOGITS})
    title = "nkd"

    def __init__(self, other_weight: float | int = 1.5, temperature: Scheduled = 1.0) -> None:
        """Hold the settings."""
        super().__init__()
        self.other_weight = check_part("other_weight", other_weight)
        self.temperature = check_scheduled_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """Both parts, in nats, the second times T squared."""
        return mean_per_row(self, student, teacher, batch)

    def per_row(self, rows: Rows) -> PerRowValues:
        """Both parts of each row."""
        temperature = value_at(self.temperature, self.progress)
        label_part, other_part = normalised_parts(
            rows.student, rows.teacher, rows.labels, temperature
        )
        return label_part + self.other_weight * temperature**2 * other_part


def normalised_parts(
    student: Logits, teacher: Logits, labels: Labels, temperature: float | int
) -> tuple[PerRowValues, PerRowValues]:
    """Cross-entropy on the label at temperature 1, and on the others, without T squared.

    The first is weighed by the teacher's probability of the label.
    """
    label = log_of_labels(soften(teacher), labels) * -log_of_labels(log_soften(student), labels)
    theirs = split_at_label(teacher, labels, temperature).others.exp()
    return label, weighed_surprise(split_at_label(student, labels, temperature).others, theirs)


@final
class OFALogit(Loss):
    """Cross-entropy against soft targets with enhanced probability of the label.

    The term on the final logits of "One-for-All", for teachers of another architecture, whose
    soft targets fit the student less well. A class of probability p gets p to the power of the
    enhancement, the label (1 + p) to that power, less 1: at 1 this is plain soft cross-entropy.

    Args:
        enhancement: The power, 1 or more (the paper's gamma); 1 to 1.5.
        temperature: Temperature of both networks, above 0; 1 in the paper. A ramp moves it.

    Source:
        Hao, Guo, Han, Tang, Hu, Wang & Xu 2023, "One-for-All: Bridge the Gap Between
        Heterogeneous Architectures in Knowledge Distillation", arXiv:2310.19444, section 3.

    Differs from the paper:
        Follows its code: every entry is raised, the label's less 1 (that 1 is the task loss, which
        is the objective's), and there is no T squared. Only the final logits: the heads on inner
        stages are a loss on features. The value at a perfect match is not 0.
    """

    needs = frozenset({Signal.LABELS, Signal.LOGITS})
    title = "ofa_logit"

    def __init__(self, enhancement: float | int = 1.0, temperature: Scheduled = 1.0) -> None:
        """Hold the settings."""
        super().__init__()
        if not 1 <= enhancement < float("inf"):
            raise ConfigError(
                f"enhancement must be 1 or more and finite, got {enhancement}. Usual: 1 to 1.5."
            )
        self.enhancement = float(enhancement)
        self.temperature = check_scheduled_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The cross-entropy, in nats."""
        return mean_per_row(self, student, teacher, batch)

    def per_row(self, rows: Rows) -> PerRowValues:
        """The cross-entropy of each row."""
        return enhanced_cross_entropy(
            rows.student,
            rows.teacher,
            rows.labels,
            enhancement=self.enhancement,
            temperature=value_at(self.temperature, self.progress),
        )


def enhanced_cross_entropy(
    student: Logits,
    teacher: Logits,
    labels: Labels,
    *,
    enhancement: float | int,
    temperature: float | int,
) -> PerRowValues:
    """Cross-entropy against p ** enhancement, at the label (1 + p) ** enhancement - 1."""
    probabilities = soften(teacher, temperature)
    is_label = torch.zeros_like(probabilities)
    is_label = is_label.scatter(dim=-1, index=labels.unsqueeze(dim=-1), value=1.0)
    raised = (probabilities + is_label) ** enhancement - is_label
    return weighed_surprise(log_soften(student, temperature), raised)


def check_part(name: str, weight: float | int) -> float:
    """Weight of a loss's part, checked to be 0 or more.

    Raises:
        ConfigError: It is negative, infinite or not a number.
    """
    if not 0 <= weight < float("inf"):
        raise ConfigError(f"{name} must be 0 or more and finite, got {weight}.")
    return float(weight)
