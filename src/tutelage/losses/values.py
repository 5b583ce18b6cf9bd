"""Losses on real values: regression by one network or taught by another."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.errors import ConfigError, DataError, ShapeError, SignalError
from tutelage.losses.divergences import check_same_shape, cleared, masked_mean
from tutelage.objective import Loss
from tutelage.types import Batch, Outputs, Signal

MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -12.0, 12.0  # exp of it stays a number that training survives


@final
class SquaredError(Loss):
    """The task loss of regression: the mean squared error.

    Values are in units of the labels' standard deviation, so that 1 is the loss of whoever gives
    the mean for everything.

    Source:
        Least squares; beside a teacher's values: Saputra, Gusmao, Almalioglu, Markham & Trigoni
        2019, "Distilling Knowledge From a Deep Pose Regressor Network", arXiv:1908.00858.
    """

    needs = frozenset({Signal.LABELS})
    takes: frozenset[Signal] = frozenset({Signal.VALUES})
    title = "squared_error"
    skips_unlabelled = True

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the values of an item and over the valid items."""
        mask = batch.label_mask
        values = _precise(student.logits)
        return _mean_square(values, label_values(self, batch, values), mask)


@final
class ValueMSE(Loss):
    """Regression distillation: the mean squared difference from the teacher's values.

    Use it as KD is used for classes. A teacher's value says what the label would be without its
    noise, so it helps most where labels are noisy or few.

    Source:
        Ba & Caruana 2014, "Do Deep Nets Really Need to be Deep?", arXiv:1312.6184, equation 1, on
        values in the place of logits.

    Differs from other libraries:
        Values are in units of the labels' standard deviation, and the mean is over the values of an
        item too, as in `torch.nn.MSELoss`.
    """

    needs = frozenset({Signal.VALUES})
    title = "value_mse"

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the values of an item and over the valid items."""
        values = _precise(student.logits)
        return _mean_square(values, _taught(self, student, teacher).to(values.dtype), batch.mask)


@final
class BoundedRegression(Loss):
    """Teacher-bounded regression: the squared error, only where the student is worse.

    The student learns from the label until it is better than the teacher by a margin, and not
    beyond.

    Args:
        margin: How much better, in squared units of the labels' standard deviation; 0 or more.

    Source:
        Chen, Choi, Yu, Han & Chandraker 2017, "Learning Efficient Object Detection Models with
        Knowledge Distillation", equation 5; compared with others in Saputra et al. 2019,
        arXiv:1908.00858, section 4.

    Differs from the paper:
        Squared errors are means over the values of an item, not sums.
    """

    needs = frozenset({Signal.LABELS, Signal.VALUES})
    title = "bounded_regression"
    skips_unlabelled = True

    def __init__(self, margin: float | int = 0.0) -> None:
        """Hold the margin."""
        super().__init__()
        if not 0 <= margin < float("inf"):
            raise ConfigError(f"margin must be 0 or more and finite, got {margin}. Usual: 0.")
        self.margin = float(margin)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the valid items; 0 for an item on which the student is good enough."""
        mask = batch.label_mask
        values = _precise(student.logits)
        labels = label_values(self, batch, values)
        theirs = _taught(self, student, teacher).to(values.dtype)
        values, labels, theirs = (cleared(each, mask) for each in (values, labels, theirs))
        own = (values - labels).square().mean(dim=-1)
        bound = (theirs - labels).square().mean(dim=-1)
        return masked_mean(torch.where(own + self.margin > bound, own, 0.0), mask)


@final
class GaussianNLL(Loss):
    """The task loss of regression with a spread: the negative log-likelihood of a Gaussian.

    The network gives the mean of each value, then the logarithm of each variance, in units of the
    labels' standard deviation.

    Source:
        Nix & Weigend 1994, "Estimating the mean and variance of the target probability
        distribution", doi:10.1109/ICNN.1994.374138.
    """

    needs = frozenset({Signal.LABELS})
    takes: frozenset[Signal] = frozenset({Signal.GAUSSIANS})
    title = "gaussian_nll"
    skips_unlabelled = True

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """In nats without the constant, mean over the values of an item and the valid items."""
        mask = batch.label_mask
        means, log_variances = _gaussians(cleared(_precise(student.logits), mask))
        labels = cleared(label_values(self, batch, means), mask)
        surprise = 0.5 * (log_variances + (means - labels).square() / log_variances.exp())
        return masked_mean(surprise.mean(dim=-1), mask)


@final
class GaussianKL(Loss):
    """Regression distillation with a spread: KL(teacher || student) of two Gaussians.

    The student learns the teacher's doubt as well as its values: where the teacher is unsure, its
    value weighs less.

    Source:
        The closed form of the KL divergence of two normal distributions, e.g. Kingma & Welling
        2013, arXiv:1312.6114, appendix B.
    """

    needs = frozenset({Signal.GAUSSIANS})
    title = "gaussian_kl"

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """In nats, mean over the values of an item and over the valid items."""
        means, logs = _gaussians(cleared(_precise(student.logits), batch.mask))
        wanted = _taught(self, student, teacher).to(means.dtype)
        their_means, their_logs = _gaussians(cleared(wanted, batch.mask))
        gap = their_logs - logs
        distance = (means - their_means).square() / logs.exp()
        # expm1 keeps what would be rounded away where the two are nearly alike.
        divergence = 0.5 * (distance + torch.expm1(gap) - gap)
        return masked_mean(divergence.mean(dim=-1), batch.mask)


def label_values(
    loss: Loss, batch: Batch, values: Float[Tensor, "items values"]
) -> Float[Tensor, "items values"]:
    """The labels of a batch in the shape of the student's values.

    Raises:
        SignalError: The data has none.
        DataError: There is not one real number for each value.
    """
    labels = batch.labels
    if labels is None:
        raise SignalError(
            f"Loss {loss.title!r} needs labels, but this batch has none. Use labelled data, or a "
            "loss that looks at the teacher's values alone, as value_mse, with task_weight: 0."
        )
    if labels.shape != values.shape or not labels.is_floating_point():
        raise DataError(
            f"Loss {loss.title!r} takes real numbers of shape {tuple(values.shape)} as labels, got "
            f"{labels.dtype} of shape {tuple(labels.shape)}. Give one number for each value."
        )
    return labels.to(values.dtype)


def _taught(loss: Loss, student: Outputs, teacher: Outputs | None) -> Tensor:
    if teacher is None:
        raise SignalError(f"Loss {loss.title!r} needs a teacher's values, but no teacher is given.")
    check_same_shape(student.shape, teacher.shape)
    return teacher.logits.detach()


def _precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _mean_square(values: Tensor, wanted: Tensor, mask: Tensor | None) -> Float[Tensor, ""]:
    gap = cleared(values, mask) - cleared(wanted, mask)
    return masked_mean(gap.square().mean(dim=-1), mask)


def _gaussians(scores: Float[Tensor, "items outputs"]) -> tuple[Tensor, Tensor]:
    """Means and log-variances.

    Raises:
        ShapeError: There is an odd number of outputs.
    """
    if scores.shape[-1] % 2:
        raise ShapeError(
            f"A Gaussian for each value takes an even number of outputs, means and then logarithms "
            f"of variances, got {scores.shape[-1]}. Give the network two outputs a value."
        )
    means, logs = scores.chunk(2, dim=-1)
    return means, logs.clamp(min=MIN_LOG_VARIANCE, max=MAX_LOG_VARIANCE)
