"""Classification: one class out of several for each sample."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn

from tutelage.errors import ShapeError
from tutelage.losses import CrossEntropy
from tutelage.losses.divergences import cross_entropy
from tutelage.metrics import evaluate, share_of_most_frequent
from tutelage.models.calling import call_checked
from tutelage.models.taps import tapped
from tutelage.records import ACCURACY, Evaluation, Metric
from tutelage.tasks.base import Predictions
from tutelage.tasks.predicting import predict_items
from tutelage.types import Batch, Outputs, Signal


@dataclass(frozen=True, slots=True)
class Classification:
    """How a classifier is run and judged.

    Attributes:
        num_classes: Width of its logits.
    """

    num_classes: int
    metric: ClassVar[Metric] = ACCURACY
    items_per_sample: ClassVar[int] = 1
    gives: ClassVar[Signal] = Signal.LOGITS

    def run(self, model: nn.Module, batch: Batch, layers: Sequence[str] = ()) -> Outputs:
        """Call a network on a batch.

        Args:
            model: The network.
            batch: Its inputs.
            layers: Parts whose features are wanted too.

        Raises:
            ModelError: Its forward failed, or a layer cannot be read.
            ShapeError: It did not give one row of logits a sample.
        """
        with tapped(model, layers) as features:
            given = call_checked(model, batch.inputs)
        return Outputs(self._checked(model, given, len(batch)), features)

    def _checked(self, model: nn.Module, logits: Tensor, rows: int) -> Tensor:
        if tuple(logits.shape) != (rows, self.num_classes):
            raise ShapeError(
                f"{type(model).__name__} returned shape {tuple(logits.shape)} for {rows} samples; "
                f"{(rows, self.num_classes)} is needed, one logit a class. Mend its num_classes "
                "or its last layer."
            )
        return logits

    def items(self, batch: Batch) -> Batch:
        """The batch itself: an item is a sample."""
        return batch

    def task_loss(self) -> CrossEntropy:
        """The loss on labels."""
        return CrossEntropy()

    def predict(
        self, model: nn.Module, batches: Iterable[Batch], device: torch.device
    ) -> Predictions:
        """Logits and labels of a whole data set, on the CPU."""
        return predict_items(self, model, batches, device)

    def validate(self, said: Predictions) -> tuple[float, float]:
        """Accuracy and cross-entropy."""
        accuracy = float(self.scores(said).double().mean())
        return accuracy, float(cross_entropy(said.logits, said.labels))

    def chance(self, labels: Shaped[Tensor, "items ..."]) -> float:
        """Accuracy of always naming the most frequent class."""
        return share_of_most_frequent(labels)

    def scores(self, said: Predictions) -> Bool[Tensor, " samples"]:
        """Whether each sample's label is picked."""
        return torch.eq(said.logits.argmax(dim=-1), said.labels)

    def evaluate(self, said: Predictions, teacher: Predictions | None = None) -> Evaluation:
        """Accuracy, calibration, and likeness to the teacher."""
        return evaluate(said.logits, said.labels, None if teacher is None else teacher.logits)
