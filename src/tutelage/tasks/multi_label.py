"""Multi-label and yes/no classification: one sigmoid per label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float, Shaped
from torch import Tensor

from tutelage.data.flags import FlagLabels
from tutelage.errors import find
from tutelage.flag_measures import FLAG_MEASURES
from tutelage.losses import BinaryCrossEntropy, BinaryKD
from tutelage.losses.divergences import (
    binary_cross_entropy_per_item,
    binary_kl_per_item,
    log_yes,
    logit_of_mean_yes,
)
from tutelage.measures import Measure
from tutelage.objective import Loss
from tutelage.records import Evaluation
from tutelage.tasks.base import Predictions, Task
from tutelage.types import Signal

HALF, NONE = 0.5, "none"


@final
@dataclass(frozen=True, slots=True)
class MultiLabel(Task):
    """How a network with a yes/no answer per label is run and evaluated.

    One label is a yes-or-no question to a network of one logit.

    Attributes:
        num_labels: Width of its logits.
        compared_by: The metric that leads: average_precision, auroc, macro_f1, micro_f1 or
            accuracy.
    """

    num_labels: int
    compared_by: str = "average_precision"
    label_kind: ClassVar[FlagLabels] = FlagLabels()
    gives: ClassVar[Signal] = Signal.BINARY_LOGITS
    distillation: ClassVar[type[Loss]] = BinaryKD
    measures: ClassVar[Mapping[str, Measure]] = FLAG_MEASURES
    row_is: ClassVar[str] = "one logit a label"

    def __post_init__(self) -> None:
        """Refuse an unknown metric."""
        find("metric", self.compared_by, self.measures)

    @property
    def width(self) -> int:
        """Logits per sample: one per label."""
        return self.num_labels

    @property
    def leading(self) -> str:
        """The leading metric."""
        return self.compared_by

    def task_loss(self) -> Loss:
        """The binary cross-entropy of each label."""
        return BinaryCrossEntropy()

    def validate(self, said: Predictions) -> tuple[float, float]:
        """The leading metric and the binary cross-entropy."""
        loss = binary_cross_entropy_per_item(said.logits, said.labels).mean()
        return self.measures[self.leading].value(said.logits, said.labels), float(loss)

    def chance(self, labels: Shaped[Tensor, "items ..."]) -> float:
        """The metric of predicting each label's frequency, whatever the inputs."""
        logits = labels.double().mean(dim=0).clamp(1e-6, 1 - 1e-6).logit().float()
        return self.measures[self.leading].value(logits.expand(len(labels), -1), labels)

    def evaluate(self, said: Predictions, teacher: Predictions | None = None) -> Evaluation:
        """F1, average precision, and similarity to the teacher."""
        others = {
            name: measure.value(said.logits, said.labels) for name, measure in self.measures.items()
        }
        others["nll"] = float(binary_cross_entropy_per_item(said.logits, said.labels).mean())
        if teacher is not None:
            others["agreement"] = self.agreement(teacher.logits, said.logits)
            others["kl_to_teacher"] = float(binary_kl_per_item(said.logits, teacher.logits).mean())
        return Evaluation.of(len(said.labels), others)

    def agreement(
        self, expected: Float[Tensor, "items width"], given: Float[Tensor, "items width"]
    ) -> float:
        """Share of equal decisions, at a probability of 50 %."""
        return float(((given > 0) == (expected > 0)).double().mean())

    def say(self, scores: Float[Tensor, " width"], names: Sequence[str]) -> str:
        """The labels that are likelier than not, with their probabilities."""
        likely = log_yes(scores).exp().tolist()
        pairs = sorted(zip(likely, names, strict=True), reverse=True)
        return ", ".join(f"{name} {share:.0%}" for share, name in pairs if share > HALF) or NONE

    def say_label(self, label: Shaped[Tensor, "..."], names: Sequence[str]) -> str:
        """The labels that are there."""
        pairs = zip(label.tolist(), names, strict=True)
        return ", ".join(name for is_there, name in pairs if is_there) or NONE

    def mean_of(
        self, scores: Float[Tensor, "members rows width"], log_weights: Float[Tensor, " members"]
    ) -> Float[Tensor, "rows width"]:
        """Logits of the mean probability of yes, label by label."""
        return logit_of_mean_yes(scores, log_weights)
