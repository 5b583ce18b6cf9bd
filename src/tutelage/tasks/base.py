"""What every task is: how networks are called, what they learn from labels, how they are judged."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from tutelage.objective import Loss
from tutelage.records import Evaluation, Metric
from tutelage.types import Batch, Outputs, Signal


@dataclass(frozen=True, slots=True)
class Predictions:
    """What one network says of a whole data set, on the CPU.

    Attributes:
        outputs: Scores of all items, in the order of the data.
        labels: Ground truth of the items.
        sample_ids: The sample that each item belongs to.
    """

    outputs: Outputs
    labels: Shaped[Tensor, "items ..."]
    sample_ids: Int[Tensor, " items"]

    @property
    def logits(self) -> Float[Tensor, "items classes"]:
        """Logits over all classes."""
        return self.outputs.logits


@runtime_checkable
class Task(Protocol):
    """A kind of label. All that engine, pipeline and report know of it is this.

    Attributes:
        metric: What networks are compared by.
        num_classes: Width of the scores.
        items_per_sample: 1 where an item is a sample; None where samples differ in it.
        gives: What kind of scores its networks give.
    """

    @property
    def metric(self) -> Metric:
        """What networks are compared by."""
        ...

    @property
    def num_classes(self) -> int:
        """Width of the scores."""
        ...

    @property
    def items_per_sample(self) -> int | None:
        """1 where an item is a sample; None where samples differ in it."""
        ...

    @property
    def gives(self) -> Signal:
        """What kind of scores its networks give."""
        ...

    def run(self, model: nn.Module, batch: Batch, layers: Sequence[str] = ()) -> Outputs:
        """Call a network: scores with one row an item, and features with one row a sample."""
        ...

    def items(self, batch: Batch) -> Batch:
        """The batch as losses see it: labels, mask and numbers with one row an item.

        Items come in the order of `run`. Where an item is a sample it is the batch itself.
        """
        ...

    def task_loss(self) -> Loss:
        """The loss on labels."""
        ...

    def predict(
        self, model: nn.Module, batches: Iterable[Batch], device: torch.device
    ) -> Predictions:
        """What a network says of a whole data set; the network in eval mode meanwhile."""
        ...

    def validate(self, said: Predictions) -> tuple[float, float]:
        """The metric and the task loss: all that a training asks of its validation data."""
        ...

    def chance(self, labels: Shaped[Tensor, "items ..."]) -> float:
        """The metric of whoever has not seen the inputs: what a network must beat.

        Args:
            labels: Of the data that networks are judged on.
        """
        ...

    def scores(self, said: Predictions) -> Shaped[Tensor, " samples"]:
        """How well each sample is done, higher being better: what evidence compares in pairs.

        Its mean over samples is the metric, or, for a metric that is no mean, what the metric is
        made from (minus the negative log-likelihood, for perplexity).
        """
        ...

    def evaluate(self, said: Predictions, teacher: Predictions | None = None) -> Evaluation:
        """Everything that one network's predictions say.

        Args:
            said: Of the network.
            teacher: Of the teacher, on the same data; None for the teacher itself.
        """
        ...
