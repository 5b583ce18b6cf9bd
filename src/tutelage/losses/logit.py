"""Losses on logits: the task loss, knowledge distillation, and logit matching."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from tutelage.losses.divergences import (
    check_scheduled_temperature,
    cross_entropy,
    kl_per_item,
    log_of_labels,
    log_soften,
    squared_logit_distance,
)
from tutelage.losses.per_sample import Rows, checked_labels, class_logits, mean_per_row
from tutelage.losses.per_sample import teacher_logits as teacher_logits
from tutelage.objective import Loss, Scheduled, value_at
from tutelage.types import Batch, Outputs, Signal


@final
class CrossEntropy(Loss):
    """The task loss: cross-entropy against the labels at temperature 1.

    The baseline of every comparison, and one part of most objectives. It is a mean over the
    samples that have a label. Leave it out (task_weight 0) where labels are missing or poor and the
    teacher is good.

    Source:
        The hard term of Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2.
    """

    needs = frozenset({Signal.LABELS})
    title = "cross_entropy"
    skips_unlabelled = True

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """Mean negative log-probability of the labels, in nats."""
        logits, mask = class_logits(self, student), batch.label_mask
        return cross_entropy(logits, checked_labels(self, batch, logits.shape[1], mask), mask)

    def per_row(self, rows: Rows) -> Float[Tensor, " rows"]:
        """Negative log-probability of each row's label."""
        return -log_of_labels(log_soften(rows.student), rows.labels)


@final
class KD(Loss):
    """Knowledge distillation: T squared times KL(teacher || student) at temperature T.

    Use it first: it needs logits alone, and well weighted it is hard to beat.

    Args:
        temperature: Above 0; 4 is usual for CIFAR-100, 20 for Hinton's MNIST nets, 1 for ImageNet.
            A ramp moves it: `Ramp(8, 1, until=0.5)`.

    Source:
        Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network",
        arXiv:1503.02531, section 2.

    Differs from other libraries:
        Summed over classes and mean over counted items; `nn.KLDivLoss()` divides by the classes
        too, some leave out T squared, and some weights called alpha multiply the task loss.
    """

    needs = frozenset({Signal.LOGITS})
    title = "kd"

    def __init__(self, temperature: Scheduled = 4.0) -> None:
        """Hold the temperature."""
        super().__init__()
        self.temperature = check_scheduled_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The divergence, in nats times T squared."""
        return mean_per_row(self, student, teacher, batch)

    def per_row(self, rows: Rows) -> Float[Tensor, " rows"]:
        """The divergence of each row."""
        temperature = value_at(self.temperature, self.progress)
        return temperature**2 * kl_per_item(*rows.pair, temperature)


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
        return squared_logit_distance(class_logits(self, student), wanted, batch.mask)
