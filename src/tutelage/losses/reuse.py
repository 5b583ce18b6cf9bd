"""SimKD: the student is delivered with the teacher's own classifier."""

from collections import OrderedDict
from typing import final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.errors import ConfigError, ShapeError, SignalError, find
from tutelage.losses.features import (
    Features,
    Layers,
    layer_names,
    over_counted,
    pooled,
    shrink,
    width_of,
)
from tutelage.models.copies import copied
from tutelage.objective import DryRun, Loss
from tutelage.types import Batch, Outputs, Signal

INPUT = ":input"
PROJECTOR = "projector"


class _Still(nn.Module):
    """A part of the teacher that stays in eval mode when the student trains."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part.eval().requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> "_Still":
        """Stay in eval mode."""
        return self

    def forward(self, feature: Tensor) -> Tensor:
        result: Tensor = self.part(feature)
        return result


def projector(narrow: int, wide: int, shrink_by: int, *, is_map: bool) -> nn.Module:
    """A bottleneck from the student's width to the teacher's, with batch norms and ReLUs."""
    middle = max(1, wide // shrink_by)
    if not is_map:
        return nn.Sequential(
            nn.Linear(narrow, middle),
            nn.BatchNorm1d(middle),
            nn.ReLU(),
            nn.Linear(middle, wide),
            nn.ReLU(),
        )
    layers: list[nn.Module] = []
    for before, after, size in ((narrow, middle, 1), (middle, middle, 3), (middle, wide, 1)):
        layers += [
            nn.Conv2d(before, after, size, padding=size // 2, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


@final
class SimKD(Loss):
    """The student's features, projected, go through the teacher's own last modules.

    The network that is trained and delivered is the student with a projector and a frozen copy of
    the teacher's classifier in the place of its own: a little larger, and often much better.
    Labels are not needed: a task weight of 0 is the paper's choice.

    Args:
        student_parts: The student's last parts, in order, that are replaced: `("head",)`, or
            `("pool", "head")` to project maps before they are pooled.
        teacher_parts: The teacher's parts that replace them; None takes the student's names.
        shrink_by: The projector's inner width is the teacher's divided by it; 2 in the paper.

    Usual weight: 1.

    Source:
        Chen et al. 2022, "Knowledge Distillation with the Reused Teacher Classifier",
        arXiv:2203.14001, equation 3 and section 3.2.

    Differs from the paper:
        For vectors the projector is two linear layers instead of three convolutions.
    """

    needs = frozenset({Signal.FEATURES})
    title = "simkd"
    changes_student = True

    def __init__(
        self,
        student_parts: Layers = "head",
        teacher_parts: Layers | None = None,
        shrink_by: int = 2,
    ) -> None:
        """Keep the settings."""
        super().__init__()
        self.student_parts = layer_names(self.title, student_parts)
        self.teacher_parts = layer_names(
            self.title, teacher_parts or self.student_parts, self.student_parts
        )
        if shrink_by < 1:
            raise ConfigError(f"simkd: shrink_by must be 1 or more, got {shrink_by}.")
        self.shrink_by = shrink_by
        self.student_layers = (self.student_parts[0] + INPUT,)
        self.teacher_layers = (self.teacher_parts[0] + INPUT,)

    def modify_student(self, student: nn.Module, dry: DryRun) -> nn.Module:
        """A copy of the student with the projector and the teacher's modules in place of its own.

        Raises:
            SignalError: The teacher is no live network.
            ShapeError: One's part takes vectors, the other's maps.
            UnknownNameError: There is no such part.
        """
        if dry.teacher_part is None or dry.teacher is None:
            raise SignalError(
                "Loss 'simkd' needs features and parts of a teacher that is a live network. Teach "
                "live (cache: null)."
            )
        ours = dry.student.features[self.student_layers[0]]
        theirs = dry.teacher.features[self.teacher_layers[0]]
        if ours.ndim != theirs.ndim or ours.ndim not in (2, 4):
            raise ShapeError(
                f"simkd: {self.student_layers[0]} is {tuple(ours.shape)}, the teacher's "
                f"{self.teacher_layers[0]} is {tuple(theirs.shape)}. Name parts that take vectors, "
                "or parts that take maps."
            )
        adapter = projector(width_of(ours), width_of(theirs), self.shrink_by, is_map=ours.ndim == 4)
        wrapped = copied(student)
        device = next((weight.device for weight in student.parameters()), None)
        for number, (own, other) in enumerate(
            zip(self.student_parts, self.teacher_parts, strict=True)
        ):
            part: nn.Module = _Still(dry.teacher_part(other))
            if number == 0:
                part = nn.Sequential(OrderedDict([(PROJECTOR, adapter), ("classifier", part)]))
            _replace(wrapped, own, part.to(device))
        self.student_layers = (f"{self.student_parts[0]}.{PROJECTOR}",)
        return wrapped

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The mean squared difference of the features before the classifier."""
        return over_counted(self, student, teacher, batch, self._distance)

    def _distance(self, student: Features, teacher: Features) -> Tensor:
        ours, theirs = student[0], teacher[0]
        if ours.ndim == theirs.ndim == 4:
            size = (min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3]))
            ours, theirs = shrink(ours, *size), shrink(theirs, *size)
        elif ours.ndim != theirs.ndim:
            ours, theirs = pooled(ours, self.title), pooled(theirs, self.title)
        if ours.shape != theirs.shape:
            raise ShapeError(
                f"simkd: the student gives {tuple(ours.shape)}, the teacher {tuple(theirs.shape)}. "
                "Train the network that its wrap gives, as tutelage.engine.prepare does."
            )
        return F.mse_loss(ours, theirs)


def _replace(network: nn.Module, name: str, part: nn.Module) -> None:
    find(f"part of {type(network).__name__}", name, dict(network.named_modules()))
    network.set_submodule(name, part)
