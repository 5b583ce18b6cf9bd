"""Interface of tasks: calling networks, loss on labels, evaluation."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from tutelage.data.labels import CLASS_LABELS, LabelKind
from tutelage.errors import DataError, ShapeError
from tutelage.losses import KD
from tutelage.losses.divergences import log_mean_probabilities
from tutelage.measures import Measure
from tutelage.models.calling import call_checked
from tutelage.models.modes import preserve_mode
from tutelage.models.taps import tapped
from tutelage.objective import Loss
from tutelage.records import Evaluation, Metric
from tutelage.tasks.numbers import check_numbers, held_impossible
from tutelage.types import Batch, Outputs, Signal


@dataclass(frozen=True, slots=True)
class Predictions:
    """Outputs of one network for a whole data set, on the CPU.

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
        """Scores of all items, made dense on demand."""
        return self.outputs.logits


class Task(ABC):
    """A kind of label. Engine, pipeline and report use only this interface.

    The defaults are those of a task whose items are samples and whose networks give one row of
    scores each; a task of one's own says what it measures, its task loss and what its scores are.

    Attributes:
        label_kind: How labels are read.
        gives: What kind of scores its networks give.
        items_per_sample: 1 where an item is a sample; None where samples differ in it.
        distillation: What distilling means for these scores, unless something else is asked for.
        measures: What networks are judged by, by name, in the order in which it is shown.
        leading: The measure that networks are compared by: selection, retention and verdict.
        row_is: What one row of scores is, for messages.
    """

    __slots__ = ()
    row_is: ClassVar[str] = "one logit a class"
    label_kind: ClassVar[LabelKind] = CLASS_LABELS
    gives: ClassVar[Signal] = Signal.LOGITS
    measures: ClassVar[Mapping[str, Measure]] = {}
    distillation: ClassVar[type[Loss]] = KD

    @property
    @abstractmethod
    def width(self) -> int:
        """Scores per item."""

    @property
    def items_per_sample(self) -> int | None:
        """1 if an item is a sample; None if samples differ in their number of items."""
        return 1

    @property
    def leading(self) -> str:
        """The leading metric; the first one unless the task says otherwise."""
        return next(iter(self.measures))

    @property
    def metric(self) -> Metric:
        """The metric by which networks are compared."""
        return self.measures[self.leading].metric

    @property
    def metrics(self) -> list[Metric]:
        """All metrics, the leading one first."""
        others = [each.metric for name, each in self.measures.items() if name != self.leading]
        return [self.metric, *others]

    def run(self, model: nn.Module, batch: Batch, layers: Sequence[str] = ()) -> Outputs:
        """Call a network: scores with one row per item, and features with one row per sample.

        Args:
            model: The network.
            batch: Its inputs.
            layers: Parts whose features are wanted too.

        Raises:
            ModelError: Its forward failed, or a layer cannot be read.
            ShapeError: It did not give one row of scores a sample.
        """
        with tapped(model, layers) as features:
            given = call_checked(model, batch.inputs)
        return Outputs(self.for_losses(self.checked(model, given, len(batch))), features)

    def for_losses(self, scores: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """Scores in the units of losses; unchanged for most tasks."""
        return scores

    def for_people(self, scores: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """Scores converted back to the units of networks."""
        return scores

    def checked(self, model: nn.Module, scores: Tensor, rows: int) -> Float[Tensor, "rows width"]:
        """The scores of a network, checked for one row per sample of the right width.

        Raises:
            ShapeError: There is not.
        """
        if tuple(scores.shape) == (rows,) and self.width == 1:
            raise ShapeError(
                f"{type(model).__name__} returned shape ({rows},) for {rows} samples; ({rows}, 1) "
                "is needed. Let its forward keep the last axis: out[:, None], no squeeze."
            )
        if tuple(scores.shape) != (rows, self.width):
            raise ShapeError(
                f"{type(model).__name__} returned shape {tuple(scores.shape)} for {rows} samples; "
                f"{(rows, self.width)} is needed, {self.row_is}. Correct its num_classes or its "
                "last layer."
            )
        return scores

    def items(self, batch: Batch) -> Batch:
        """The batch for losses: labels, mask and numbers with one row per item.

        Items come in the order of `run`. Where an item is a sample it is the batch itself.
        """
        return batch

    def truth(self, batch: Batch) -> Shaped[Tensor, "items ..."] | None:
        """Labels of a batch's items for evaluation; None without labels."""
        return self.items(batch).labels

    @abstractmethod
    def task_loss(self) -> Loss:
        """The loss on labels."""

    def distillation_loss(self, temperature: float) -> Loss:
        """What distilling means for these scores, unless something else is asked for.

        Args:
            temperature: Above 0, where the loss has one.
        """
        has_one = "temperature" in inspect.signature(self.distillation).parameters
        return self.distillation(**({"temperature": temperature} if has_one else {}))

    def ready(self, network: nn.Module, probe: Callable[[], Batch]) -> nn.Module:  # noqa: ARG002
        """A network prepared for training on these labels; usually unchanged.

        Args:
            network: With its initial weights.
            probe: Reads a few training samples.
        """
        return network

    @torch.inference_mode()
    def predict(
        self, model: nn.Module, batches: Iterable[Batch], device: torch.device
    ) -> Predictions:
        """Scores and labels of all items, on the CPU, with the network in eval mode.

        Raises:
            DataError: There are no samples, or no labels.
            ModelError: A score is not a number; the message names the sample.
        """
        rows, labels, ids = [], [], []
        with preserve_mode(model):
            model.eval()
            for batch in batches:
                truth, numbers = self.truth(batch), self.items(batch).sample_ids
                if truth is None:
                    raise DataError(
                        "Evaluation needs labels, but the validation or test data has none."
                    )
                scores = self.run(model, batch.to(device)).logits.float().cpu()
                may_be_impossible = self.gives is Signal.LOGITS  # of no other may a part be -inf
                checked = scores if may_be_impossible else scores.abs()
                check_numbers(model, checked, numbers)
                rows.append(self.for_people(held_impossible(scores)))
                labels.append(truth)
                ids.append(numbers)
        if not rows:
            raise DataError("Evaluation needs samples, but the data set is empty.")
        return Predictions(Outputs(torch.cat(rows)), torch.cat(labels), torch.cat(ids))

    @abstractmethod
    def validate(self, said: Predictions) -> tuple[float, float]:
        """The leading metric and the task loss on validation data."""

    @abstractmethod
    def chance(self, labels: Shaped[Tensor, "items ..."]) -> float:
        """The metric of a guess without inputs, which a network must beat.

        Args:
            labels: Labels of the data that networks are judged on.
        """

    def scores(self, said: Predictions) -> Shaped[Tensor, " samples"]:
        """Score of each sample, higher being better, for paired comparison.

        Its mean over samples is the metric, or, for a metric that is no mean, what the metric is
        made from (minus the negative log-likelihood, for perplexity).
        """
        measure = self.measures[self.leading]
        return measure.per_sample(said.logits, said.labels, said.sample_ids)

    @abstractmethod
    def evaluate(self, said: Predictions, teacher: Predictions | None = None) -> Evaluation:
        """All metrics of one network's predictions.

        Args:
            said: Predictions of the network.
            teacher: The teacher's predictions on the same data; None for the teacher itself.
        """

    def mean_of(
        self, scores: Float[Tensor, "members rows width"], log_weights: Float[Tensor, " members"]
    ) -> Float[Tensor, "rows width"]:
        """Combined output of several networks: for classes the mean of their probabilities.

        Args:
            scores: Scores of each network, as it gives them.
            log_weights: Logarithms of weights that sum to 1.
        """
        return log_mean_probabilities(scores, log_weights)

    def say(self, scores: Float[Tensor, " width"], names: Sequence[str]) -> str:  # noqa: ARG002
        """A network's output for one sample in words; empty where soft targets show it.

        Args:
            scores: As networks give them.
            names: Names of the classes, labels or values.
        """
        return ""

    def say_label(self, label: Shaped[Tensor, "..."], names: Sequence[str]) -> str:  # noqa: ARG002
        """The label of one sample in words; empty where `say` is."""
        return ""

    def agreement(
        self, expected: Float[Tensor, "items width"], given: Float[Tensor, "items width"]
    ) -> float:
        """Share of items on which two networks agree: for classes, the same prediction."""
        return float((given.argmax(dim=-1) == expected.argmax(dim=-1)).double().mean())
