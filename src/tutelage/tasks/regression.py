"""Regression: one or several real numbers per sample, or a Gaussian for each."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from tutelage.data.values import ValueLabels
from tutelage.errors import find
from tutelage.losses import GaussianKL, GaussianNLL, SquaredError, ValueMSE
from tutelage.measures import Measure
from tutelage.models.rescaled import Rescaled
from tutelage.objective import Loss
from tutelage.records import Evaluation
from tutelage.tasks.base import Predictions, Task
from tutelage.types import Batch, Signal
from tutelage.value_measures import GAUSSIAN_MEASURES, VALUE_MEASURES, mean_square
from tutelage.wording import plain_number

NEAR = 0.1  # of the labels' standard deviation: two values as near agree
FAR, WIDE, NARROW = 2.0, 5.0, 0.2  # from where on labels are too far from what a new network gives


@dataclass(frozen=True, slots=True)
class ValueTask(Task):
    """Base of tasks with real values.

    Networks give values in the units of the labels. Losses see them, and the labels, less the
    labels' mean and divided by their standard deviation, so that weights and learning rates mean
    the same whatever the units are.

    Attributes:
        num_values: Values of a sample.
        label_mean: Mean of each value over the training labels; 0 if not given.
        label_std: Standard deviation of each value; 1 if not given.
        compared_by: The metric that leads: mae, rmse, r2 or spearman.
    """

    num_values: int
    label_mean: tuple[float, ...] = ()
    label_std: tuple[float, ...] = ()
    compared_by: str = "mae"
    label_kind: ClassVar[ValueLabels] = ValueLabels()

    def __post_init__(self) -> None:
        """Refuse an unknown metric."""
        find("metric", self.compared_by, self.measures)

    @property
    def leading(self) -> str:
        """The leading metric."""
        return self.compared_by

    @property
    def centre(self) -> Float[Tensor, " values"]:
        """Subtracted from each value before losses see it."""
        return torch.tensor(self.label_mean or (0.0,) * self.num_values)

    @property
    def scale(self) -> Float[Tensor, " values"]:
        """Divisor of each value before losses see it."""
        return torch.tensor(self.label_std or (1.0,) * self.num_values)

    @abstractmethod
    def rescaled(self, network: nn.Module) -> nn.Module:
        """A network with outputs around 0, rescaled to the labels' units."""

    def truth(self, batch: Batch) -> Shaped[Tensor, "items ..."] | None:
        """The labels in their own units."""
        return batch.labels

    def items(self, batch: Batch) -> Batch:
        """The batch with its labels as losses see them."""
        if batch.labels is None:
            return batch
        centre, scale = self.centre.to(batch.labels.device), self.scale.to(batch.labels.device)
        return batch.with_labels((batch.labels - centre) / scale)

    def ready(self, network: nn.Module, probe: Callable[[], Batch]) -> nn.Module:
        """The network, with its outputs rescaled to the labels' units if they are far off.

        A new network gives numbers around 0. Where the labels lie far from there, or spread much
        wider or less, and the network knows nothing of them yet, its outputs are multiplied by the
        labels' standard deviation and their mean is added.

        Args:
            network: With its initial weights.
            probe: Reads a few training samples.
        """
        far = (self.centre.abs() > FAR * self.scale) | (self.scale > WIDE) | (self.scale < NARROW)
        if not bool(far.any()):
            return network
        batch = probe()
        was_training = network.training
        with torch.no_grad():
            given = self.run(network.eval(), batch).logits[:, : self.num_values]
        network.train(was_training)
        labels = self.items(batch).labels
        knows_more_than_the_mean = labels is not None and bool((given - labels).square().mean() < 1)
        return network if knows_more_than_the_mean else self.rescaled(network)

    def chance(self, labels: Shaped[Tensor, "items ..."]) -> float:
        """The metric of always predicting the labels' mean."""
        constant = labels.mean(dim=0, keepdim=True).expand_as(labels)
        return self.measures[self.leading].value(self.as_sure(constant), labels)

    def say_label(self, label: Shaped[Tensor, "..."], names: Sequence[str]) -> str:
        """The values with their names."""
        return _listed(names, [plain_number(float(value)) for value in label])

    @abstractmethod
    def as_sure(self, values: Float[Tensor, "items values"]) -> Float[Tensor, "items width"]:
        """Predictions equal to the values, with the labels' overall variance."""

    def evaluate(self, said: Predictions, teacher: Predictions | None = None) -> Evaluation:
        """Errors, correlations, and the difference from the teacher's values."""
        others = {
            name: measure.value(said.logits, said.labels) for name, measure in self.measures.items()
        }
        if teacher is not None:
            others["agreement"] = self.agreement(teacher.logits, said.logits)
        return Evaluation.of(len(said.labels), others)

    def agreement(
        self, expected: Float[Tensor, "items width"], given: Float[Tensor, "items width"]
    ) -> float:
        """Share of values that differ by less than a tenth of the labels' standard deviation."""
        gap = (given - expected)[:, : self.num_values].abs()
        return float((gap <= NEAR * self.scale).double().mean())


@final
@dataclass(frozen=True, slots=True)
class Regression(ValueTask):
    """How a network with real values is run and evaluated."""

    gives: ClassVar[Signal] = Signal.VALUES
    distillation: ClassVar[type[Loss]] = ValueMSE
    measures: ClassVar[Mapping[str, Measure]] = VALUE_MEASURES
    row_is: ClassVar[str] = "one number a value"

    @property
    def width(self) -> int:
        """Values per sample."""
        return self.num_values

    def rescaled(self, network: nn.Module) -> nn.Module:
        """The network with its outputs scaled and shifted."""
        return Rescaled(network, self.centre, self.scale)

    def for_losses(self, scores: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """Values in units of the labels' standard deviation, from their mean."""
        return (scores.float() - self.centre.to(scores.device)) / self.scale.to(scores.device)

    def for_people(self, scores: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """Values in the labels' units."""
        return scores * self.scale + self.centre

    def as_sure(self, values: Float[Tensor, "items values"]) -> Float[Tensor, "items width"]:
        """The values themselves."""
        return values

    def mean_of(
        self, scores: Float[Tensor, "members rows width"], log_weights: Float[Tensor, " members"]
    ) -> Float[Tensor, "rows width"]:
        """The mean of the values."""
        return (scores * log_weights.exp()[:, None, None]).sum(dim=0)

    def say(self, scores: Float[Tensor, " width"], names: Sequence[str]) -> str:
        """The values with their names."""
        return self.say_label(scores, names)

    def task_loss(self) -> Loss:
        """The mean squared error."""
        return SquaredError()

    def validate(self, said: Predictions) -> tuple[float, float]:
        """The leading metric, and the mean squared error in squared standard deviations."""
        error = self.for_losses(said.logits) - self.for_losses(said.labels)
        return self.measures[self.leading].value(said.logits, said.labels), mean_square(error)


@final
@dataclass(frozen=True, slots=True)
class GaussianRegression(ValueTask):
    """How a network with a mean and a variance per value is run and evaluated.

    It gives the means of all values, then the logarithms of their variances, in the units of the
    labels.
    """

    gives: ClassVar[Signal] = Signal.GAUSSIANS
    distillation: ClassVar[type[Loss]] = GaussianKL
    measures: ClassVar[Mapping[str, Measure]] = GAUSSIAN_MEASURES
    row_is: ClassVar[str] = "a mean for each value, then the logarithm of each variance"

    @property
    def width(self) -> int:
        """Two numbers per value."""
        return 2 * self.num_values

    def rescaled(self, network: nn.Module) -> nn.Module:
        """The network with its means scaled and shifted, and its variances scaled alike."""
        centre = torch.cat([self.centre, 2 * self.scale.log()])
        return Rescaled(network, centre, torch.cat([self.scale, torch.ones_like(self.scale)]))

    def for_losses(self, scores: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """Means and variances in units of the labels' standard deviation."""
        means, logs = scores.float().chunk(2, dim=-1)
        centre, scale = self.centre.to(scores.device), self.scale.to(scores.device)
        return torch.cat([(means - centre) / scale, logs - 2 * scale.log()], dim=-1)

    def for_people(self, scores: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """Means and variances in the labels' units."""
        means, logs = scores.chunk(2, dim=-1)
        return torch.cat([means * self.scale + self.centre, logs + 2 * self.scale.log()], dim=-1)

    def as_sure(self, values: Float[Tensor, "items values"]) -> Float[Tensor, "items width"]:
        """The values with the labels' own variance."""
        return torch.cat([values, (2 * self.scale.log()).expand_as(values)], dim=-1)

    def mean_of(
        self, scores: Float[Tensor, "members rows width"], log_weights: Float[Tensor, " members"]
    ) -> Float[Tensor, "rows width"]:
        """The Gaussian with the mean and the variance of the members' mixture."""
        weights = log_weights.exp()[:, None, None]
        means, logs = scores.chunk(2, dim=-1)
        mean = (weights * means).sum(dim=0)
        variance = (weights * (logs.exp() + (means - mean).square())).sum(dim=0)
        return torch.cat([mean, variance.log()], dim=-1)

    def say(self, scores: Float[Tensor, " width"], names: Sequence[str]) -> str:
        """The values with their names and standard deviations."""
        means, logs = scores.chunk(2)
        pairs = zip(means.tolist(), (logs / 2).exp().tolist(), strict=True)
        return _listed(
            names,
            [
                f"{plain_number(mean)} \N{PLUS-MINUS SIGN} {plain_number(std)}"
                for mean, std in pairs
            ],
        )

    def task_loss(self) -> Loss:
        """The negative log-likelihood."""
        return GaussianNLL()

    def validate(self, said: Predictions) -> tuple[float, float]:
        """The leading metric, and the negative log-likelihood in standardised units."""
        means, logs = self.for_losses(said.logits).chunk(2, dim=-1)
        labels = (said.labels - self.centre) / self.scale
        surprise = 0.5 * (logs + (means - labels).square() / logs.exp() + math.log(2 * math.pi))
        value = self.measures[self.leading].value(said.logits, said.labels)
        return value, float(surprise.mean())


def _listed(names: Sequence[str], values: Sequence[str]) -> str:
    """Values with their names; a single one alone."""
    if len(values) == 1:
        return values[0]
    return ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
