"""Losses on correlations of predictions across samples and classes."""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.errors import ConfigError, ShapeError
from tutelage.losses.decoupled import check_part
from tutelage.losses.divergences import (
    check_scheduled_temperature,
    check_temperature,
    kl_per_item,
    soften,
)
from tutelage.losses.per_sample import Rows, mean_of_rows
from tutelage.objective import Loss, Scheduled, value_at
from tutelage.types import Batch, Outputs, Signal

Probabilities = Float[Tensor, "rows classes"]

LENGTH_FLOOR = 1e-8
# A line whose centred length is below this share of its length is a constant and rounding.
CONSTANT = 1e-4


@final
class DIST(Loss):
    """Correlations instead of distances: the ranking matters, the exact probabilities do not.

    One minus the Pearson correlation of both networks' probabilities, over the classes of each
    sample and over the samples of each class. Use it where the teacher is much stronger than the
    student. It needs three classes or more: any two numbers correlate perfectly. Of the samples
    of a class it learns in batches of two or more.

    Args:
        inter_weight: Weight of the part over the classes of a sample (the paper's beta); 1 is
            usual.
        intra_weight: Weight of the part over the samples of a class (the paper's gamma); 1 is
            usual.
        temperature: Temperature of both networks, above 0; 1 for ImageNet, 4 for CIFAR-100. A ramp
            moves it.

    Source:
        Huang, You, Wang, Qian & Xu 2022, "Knowledge Distillation from A Stronger Teacher",
        arXiv:2205.10536, section 4; T squared as in its code.

    Differs from the paper:
        The official recipes multiply the whole by 2: give the term the weight 2. As in the
        official code, a line along which either network's probabilities do not vary (a class that
        the teacher never names, a batch of one sample) counts as 1 and teaches nothing; so the
        value at a perfect match is the share of such lines, and 0 where there is none.
    """

    needs = frozenset({Signal.LOGITS})
    title = "dist"
    whole_batch = True
    form = 2  # the first left out lines along which the teacher does not vary

    def __init__(
        self,
        inter_weight: float | int = 1.0,
        intra_weight: float | int = 1.0,
        temperature: Scheduled = 1.0,
    ) -> None:
        """Hold the settings."""
        super().__init__()
        self.inter_weight = check_part("inter_weight", inter_weight)
        self.intra_weight = check_part("intra_weight", intra_weight)
        self.temperature = check_scheduled_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """Both parts, times T squared; from 0 to 2 (inter_weight + intra_weight) times that."""
        rows = Rows(self, student, teacher, batch)
        check_three_classes(self, rows.student)
        temperature = value_at(self.temperature, self.progress)
        ours, theirs = soften(rows.student, temperature), soften(rows.teacher, temperature)
        inter = self.inter_weight * correlation_gap(ours, theirs, dim=1)
        intra = self.intra_weight * correlation_gap(ours, theirs, dim=0)
        return temperature**2 * (inter + intra)


def correlation_gap(student: Probabilities, teacher: Probabilities, dim: int) -> Float[Tensor, ""]:
    """One minus the Pearson correlation along an axis, averaged over the others.

    A line that hardly varies in either network correlates with nothing and has hardly a gradient:
    10^-8 is added to the product of the two lengths. So what is learned of a class fades as the
    teacher ceases to name it, instead of following the noise of its smallest probabilities.

    Args:
        student: Probabilities.
        teacher: Probabilities; a constant.
        dim: The axis that is correlated over.

    Returns:
        From 0 to 2; 0 where there are no rows.
    """
    if len(student) == 0:
        return student.sum()
    ours = student - student.mean(dim=dim, keepdim=True)
    theirs = teacher - teacher.mean(dim=dim, keepdim=True)
    lengths = _length(ours, student, dim) * _length(theirs, teacher, dim) + LENGTH_FLOOR
    return (1 - (ours * theirs).sum(dim=dim) / lengths).mean()


def _length(centred: Probabilities, values: Probabilities, dim: int) -> Tensor:
    """Norm of each centred line, or a small share of the line's own norm if that is larger.

    Without it a student that is not sure of anything yet, such as one whose head begins at 0, has
    lines of rounding errors and gradients of 10^8.
    """
    return torch.maximum(centred.norm(dim=dim), CONSTANT * values.detach().norm(dim=dim))


@final
class MLKD(Loss):
    """Multi-level distillation: KD and two correlations, each at several temperatures.

    Beside plain KD of each sample, the samples' likeness to one another (batch level) and the
    classes' (class level) are matched, as inner products of probabilities.

    Args:
        temperatures: One or several, above 0; what is done at each is summed.
        sample_weight: Weight of KD; 1 is usual.
        batch_weight: Weight of the likeness of samples; 1 is usual.
        class_weight: Weight of the likeness of classes; 1 is usual.

    Source:
        Jin, Wang & Lin 2023, "Multi-Level Logit Distillation", CVPR,
        doi:10.1109/CVPR52729.2023.02325.

    Differs from the paper:
        One view a sample; the paper pairs a weak view with a strong one. No choice of samples
        and classes by the teacher's confidence: in the official code its masks multiply means,
        so that they choose nothing. Much of the published gain comes from the strong views and
        a longer training.
    """

    needs = frozenset({Signal.LOGITS})
    title = "mlkd"
    whole_batch = True

    def __init__(
        self,
        temperatures: Sequence[float | int] = (2.0, 3.0, 4.0, 5.0, 6.0),
        sample_weight: float | int = 1.0,
        batch_weight: float | int = 1.0,
        class_weight: float | int = 1.0,
    ) -> None:
        """Hold the settings."""
        super().__init__()
        self.temperatures = tuple(check_temperature(each) for each in temperatures)
        if not self.temperatures:
            raise ConfigError("temperatures: there is none. Give one or several, as 2, 4, 6.")
        self.sample_weight = check_part("sample_weight", sample_weight)
        self.batch_weight = check_part("batch_weight", batch_weight)
        self.class_weight = check_part("class_weight", class_weight)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The three levels, summed over the temperatures."""
        rows = Rows(self, student, teacher, batch)
        return torch.stack([self._at(each, rows) for each in self.temperatures]).sum()

    def _at(self, temperature: float, rows: Rows) -> Float[Tensor, ""]:
        ours, theirs = soften(rows.student, temperature), soften(rows.teacher, temperature)
        kd = temperature**2 * mean_of_rows(kl_per_item(rows.student, rows.teacher, temperature))
        return (
            self.sample_weight * kd
            + self.batch_weight * likeness_distance(ours, theirs)
            + self.class_weight * likeness_distance(ours.T, theirs.T)
        )


def likeness_distance(
    student: Float[Tensor, "lines width"], teacher: Float[Tensor, "lines width"]
) -> Float[Tensor, ""]:
    """Squared distance of the matrices of inner products between lines, divided by the lines.

    Args:
        student: One line a sample, or one a class.
        teacher: Likewise, a constant.
    """
    with torch.autocast(student.device.type, enabled=False):
        gap = student @ student.T - teacher @ teacher.T
    return gap.square().sum() / max(1, len(student))


def check_three_classes(loss: Loss, logits: Float[Tensor, "rows classes"]) -> None:
    """Refuse two classes, where a correlation of two numbers carries no information.

    Raises:
        ShapeError: There are fewer than three.
    """
    if logits.shape[1] < 3:
        raise ShapeError(
            f"{loss.title}: the networks have {logits.shape[1]} classes; it compares the shape of "
            "a line of logits, which any two have in common, and needs 3 or more. Use kd."
        )
