"""Classifiers on the student's layers: for different architectures, and without a teacher."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.errors import ConfigError
from tutelage.losses.adapters import Head
from tutelage.losses.decoupled import enhanced_cross_entropy
from tutelage.losses.divergences import (
    check_temperature,
    cross_entropy,
    kl_divergence,
)
from tutelage.losses.features import (
    Features,
    Layers,
    built,
    features_of,
    layer_names,
    over_counted,
    valid_rows,
    width_of,
)
from tutelage.losses.per_sample import checked_labels, class_logits, teacher_logits
from tutelage.objective import DryRun, Loss
from tutelage.types import Batch, Outputs, Signal


@final
class OFA(Loss):
    """One for all: every stage of the student learns the logits through a small classifier.

    For unlike architectures (CNN, ViT, MLP), whose features have no places in common: they meet
    in the space of logits.

    Args:
        student_layers: One layer or several, of any kind.
        enhancement: 1 or more; 1 to 1.5 in the paper, above 1 the true class counts more.
        temperature: Temperature of both networks, above 0; 1 in the paper.

    Usual weight: 1.

    Source:
        Hao et al. 2023, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in
        Knowledge Distillation", arXiv:2310.19444, equations 5 to 8.

    Differs from the paper:
        The classifiers are a linear map of each place, a ReLU, pooling and a linear layer,
        instead of separable convolutions or attention. The last of the terms, on the student's
        own logits, is `ofa_logit`. A cross-entropy, as in the paper, so it is not 0 at its best.
    """

    needs = frozenset({Signal.LOGITS, Signal.LABELS})
    title = "ofa"

    def __init__(
        self,
        student_layers: Layers,
        enhancement: float | int = 1.0,
        temperature: float | int = 1.0,
    ) -> None:
        """Keep the settings."""
        super().__init__()
        if not 1 <= enhancement < float("inf"):
            raise ConfigError(
                f"ofa: enhancement must be 1 or more and finite, got {enhancement}. 1 to 1.5 is "
                "usual."
            )
        self.student_layers = layer_names(self.title, student_layers)
        self.enhancement = float(enhancement)
        self.temperature = check_temperature(temperature)
        self.heads: nn.ModuleList | None = None

    def setup(self, dry: DryRun) -> None:
        """Build a classifier for each layer."""
        self.heads = _heads(self, dry)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The sum, over the stages and the student's own logits, of the cross-entropies."""
        wanted = valid_rows(teacher_logits(self, student, teacher), batch.mask)
        final_logits = valid_rows(class_logits(self, student), batch.mask)
        labels = checked_labels(self, batch, final_logits.shape[1], batch.mask)
        labels = valid_rows(labels, batch.mask)

        def distance(features: Features, _: Features) -> Tensor:
            every = [*_run(self.heads, features, self.title), final_logits]
            return torch.stack([self._surprise(logits, wanted, labels) for logits in every]).sum()

        return over_counted(self, student, None, batch, distance)

    def _surprise(self, logits: Tensor, wanted: Tensor, labels: Tensor) -> Tensor:
        return enhanced_cross_entropy(
            logits, wanted, labels, enhancement=self.enhancement, temperature=self.temperature
        ).mean()


@final
class AuxiliaryHeads(Loss):
    """Be your own teacher: classifiers on earlier layers learn from labels and the last logits.

    No teacher is needed. The earlier layers get a signal of their own; the classifiers are not
    delivered.

    Args:
        student_layers: One layer or several before the last.
        temperature: Above 0; 3 in the authors' code.
        soft_weight: Share of the student's own logits in what the classifiers learn, 0 to 1; 0.3
            in the authors' code. The rest is the labels'.

    Usual weight: 1.

    Source:
        Zhang et al. 2019, "Be Your Own Teacher: Improve the Performance of Convolutional Neural
        Networks via Self Distillation", arXiv:1905.08094, equation 6.

    Differs from the paper:
        No hint on features (their third term); the divergence is multiplied by the temperature
        squared; classifiers are small (see `ofa`).
    """

    needs = frozenset({Signal.LABELS})
    title = "auxiliary_heads"

    def __init__(
        self,
        student_layers: Layers,
        temperature: float | int = 3.0,
        soft_weight: float | int = 0.3,
    ) -> None:
        """Keep the settings."""
        super().__init__()
        if not 0 <= soft_weight <= 1:
            raise ConfigError(f"auxiliary_heads: soft_weight must be 0 to 1, got {soft_weight}.")
        self.student_layers = layer_names(self.title, student_layers)
        self.temperature = check_temperature(temperature)
        self.soft_weight = float(soft_weight)
        self.heads: nn.ModuleList | None = None

    def setup(self, dry: DryRun) -> None:
        """Build a classifier for each layer."""
        self.heads = _heads(self, dry)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The sum over the classifiers; the student's own logits are constant in it."""
        deepest = valid_rows(class_logits(self, student).detach(), batch.mask)
        labels = checked_labels(self, batch, deepest.shape[1], batch.mask)
        labels = valid_rows(labels, batch.mask)

        def distance(features: Features, _: Features) -> Tensor:
            parts = [
                (1 - self.soft_weight) * cross_entropy(logits, labels)
                + self.soft_weight * kl_divergence(logits, deepest, self.temperature)
                for logits in _run(self.heads, features, self.title)
            ]
            return torch.stack(parts).sum()

        return over_counted(self, student, None, batch, distance)


def _heads(loss: Loss, dry: DryRun) -> nn.ModuleList:
    num_classes = dry.student.logits.shape[-1]
    features = features_of(loss, dry.student, loss.student_layers, "student")
    return nn.ModuleList(Head(width_of(feature), num_classes) for feature in features)


def _run(heads: nn.ModuleList | None, features: Features, title: str) -> list[Tensor]:
    made = built(heads, title)
    assert isinstance(made, nn.ModuleList)
    return [head(feature) for head, feature in zip(made, features, strict=True)]
