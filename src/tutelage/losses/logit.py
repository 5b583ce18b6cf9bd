"""Losses on logits: the task loss, knowledge distillation, and logit matching."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from tutelage.errors import SignalError
from tutelage.losses.divergences import (
    check_same_classes,
    check_temperature,
    cross_entropy,
    kl_divergence,
    squared_logit_distance,
)
from tutelage.objective import Loss
from tutelage.types import Batch, Outputs, Signal


@final
class CrossEntropy(Loss):
    """The task loss: cross-entropy against the labels at temperature 1.

    Source:
        The hard term of Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2.
    """

    needs = frozenset({Signal.LABELS})
    title = "cross_entropy"

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """Mean negative log-probability of the labels, in nats."""
        if batch.labels is None:
            raise SignalError(
                "Loss 'cross_entropy' needs labels, but this batch has none. Use task_weight: 0 "
                "for unlabelled data."
            )
        return cross_entropy(student.logits, batch.labels, batch.mask)


@final
class KD(Loss):
    """Knowledge distillation: T squared times KL(teacher || student) at temperature T.

    Use it first: it needs logits alone, and well weighted it is hard to beat.

    Args:
        temperature: Above 0; 4 is usual for CIFAR-100, 20 for Hinton's MNIST nets, 1 for ImageNet.

    Source:
        Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network",
        arXiv:1503.02531, section 2.

    Differs from other libraries:
        Summed over classes and mean over counted items; `nn.KLDivLoss()` divides by the classes
        too, some leave out T squared, and some weights called alpha multiply the task loss.
    """

    needs = frozenset({Signal.LOGITS})
    title = "kd"

    def __init__(self, temperature: float | int = 4.0) -> None:
        """Hold the temperature."""
        super().__init__()
        self.temperature = check_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The divergence, in nats times T squared."""
        wanted = teacher_logits(self, student, teacher)
        return kl_divergence(student.logits, wanted, self.temperature, batch.mask)


@final
class LogitMSE(Loss):
    """Logit matching: half the mean squared difference of centred logits.

    The limit of KD at high temperatures, without a temperature to choose.

    Source:
        Ba & Caruana 2014, "Do Deep Nets Really Need to be Deep?", arXiv:1312.6184, equation 1;
        the limit: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2.1.

    Differs from the paper:
        Logits are centred per sample (softmax does not see their mean), and the mean is over
        classes, not the sum, so that it equals KD's limit.
    """

    needs = frozenset({Signal.LOGITS})
    title = "logit_mse"

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The distance; 0 where the logits differ by a constant."""
        wanted = teacher_logits(self, student, teacher)
        return squared_logit_distance(student.logits, wanted, batch.mask)


def teacher_logits(
    loss: Loss, student: Outputs, teacher: Outputs | None
) -> Float[Tensor, "batch classes"]:
    """The teacher's logits, once they are known to be there and to fit the student's.

    Raises:
        SignalError: There is no teacher.
        ShapeError: The class counts differ.
    """
    if teacher is None:
        raise SignalError(f"Loss {loss.title!r} needs a teacher's logits, but no teacher is given.")
    check_same_classes(student.logits, teacher.logits)
    return teacher.logits
