"""Classification: one class out of several for each sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Shaped
from torch import Tensor

from tutelage.errors import find
from tutelage.losses import CrossEntropy
from tutelage.losses.divergences import cross_entropy
from tutelage.measures import Measure
from tutelage.metrics import CLASS_MEASURES, always_most_frequent, evaluate_classes
from tutelage.records import Evaluation
from tutelage.tasks.base import Predictions, Task


@dataclass(frozen=True, slots=True)
class Classification(Task):
    """How a classifier is run and evaluated.

    Attributes:
        num_classes: Width of its logits.
        compared_by: The metric that leads: accuracy, balanced_accuracy or macro_f1. Of skewed
            classes accuracy says little: always naming the largest makes it high.
    """

    num_classes: int
    compared_by: str = "accuracy"
    measures: ClassVar[Mapping[str, Measure]] = CLASS_MEASURES

    def __post_init__(self) -> None:
        """Refuse an unknown metric."""
        find("metric", self.compared_by, self.measures)

    @property
    def width(self) -> int:
        """Logits per sample: one per class."""
        return self.num_classes

    @property
    def leading(self) -> str:
        """The leading metric."""
        return self.compared_by

    def task_loss(self) -> CrossEntropy:
        """The loss on labels."""
        return CrossEntropy()

    def validate(self, said: Predictions) -> tuple[float, float]:
        """The leading metric and the cross-entropy."""
        value = self.measures[self.leading].value(said.logits, said.labels)
        return value, float(cross_entropy(said.logits, said.labels))

    def chance(self, labels: Shaped[Tensor, "items ..."]) -> float:
        """The metric of always predicting the most frequent class."""
        scores = always_most_frequent(labels, self.num_classes)
        return self.measures[self.leading].value(scores, labels)

    def evaluate(self, said: Predictions, teacher: Predictions | None = None) -> Evaluation:
        """Accuracy, calibration, and similarity to the teacher."""
        return evaluate_classes(
            said.logits, said.labels, None if teacher is None else teacher.logits
        )
