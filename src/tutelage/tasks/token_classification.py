"""Token classification: one class for each token that counts, as parts of speech or names."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
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
from tutelage.tasks.tokens import counted_tokens, network_inputs, score_by_sample, token_items
from tutelage.types import Batch, Outputs, Signal


@dataclass(frozen=True, slots=True)
class TokenClassification:
    """How a network that labels tokens is run and judged.

    An item is a token that counts; padding, and the length of the longest text, change nothing.

    Attributes:
        num_classes: Width of its logits.
    """

    num_classes: int
    metric: ClassVar[Metric] = replace(
        ACCURACY,
        meaning="Share of tokens whose label is picked. Intervals take whole texts, since tokens "
        "of one text are no independent proofs.",
    )
    items_per_sample: ClassVar[None] = None
    gives: ClassVar[Signal] = Signal.LOGITS

    def run(self, model: nn.Module, batch: Batch, layers: Sequence[str] = ()) -> Outputs:
        """Call a network on a batch.

        Args:
            model: The network.
            batch: Its inputs, with the tokens that count.
            layers: Parts whose features are wanted too; one row a sample.

        Raises:
            ModelError: Its forward failed, or a layer cannot be read.
            ShapeError: It did not give one row of logits a token.
        """
        counted = counted_tokens(batch)
        with tapped(model, layers) as features:
            given = call_checked(model, network_inputs(batch))
        wanted = (*counted.shape, self.num_classes)
        if tuple(given.shape) != wanted:
            raise ShapeError(
                f"{type(model).__name__} returned shape {tuple(given.shape)} for tokens of shape "
                f"{tuple(counted.shape)}; {wanted} is needed, one logit a class for each token. "
                "Mend its num_classes, or give it a head for tokens."
            )
        return Outputs(given[counted], features)

    def items(self, batch: Batch) -> Batch:
        """One row a token that counts."""
        return token_items(batch)

    def task_loss(self) -> CrossEntropy:
        """The loss on labels, a mean over tokens."""
        return CrossEntropy()

    def predict(
        self, model: nn.Module, batches: Iterable[Batch], device: torch.device
    ) -> Predictions:
        """Logits and labels of all tokens of a data set, on the CPU."""
        return predict_items(self, model, batches, device)

    def validate(self, said: Predictions) -> tuple[float, float]:
        """Accuracy and cross-entropy over tokens."""
        correct = said.logits.argmax(dim=-1) == said.labels
        return float(correct.double().mean()), float(cross_entropy(said.logits, said.labels))

    def chance(self, labels: Shaped[Tensor, "items ..."]) -> float:
        """Accuracy of always naming the most frequent class."""
        return share_of_most_frequent(labels)

    def scores(self, said: Predictions) -> Float[Tensor, " samples"]:
        """Each text's share of tokens whose label is picked, weighed by its length."""
        return score_by_sample(said, said.logits.argmax(dim=-1) == said.labels)

    def evaluate(self, said: Predictions, teacher: Predictions | None = None) -> Evaluation:
        """Accuracy, calibration, and likeness to the teacher, over tokens."""
        return evaluate(said.logits, said.labels, None if teacher is None else teacher.logits)
