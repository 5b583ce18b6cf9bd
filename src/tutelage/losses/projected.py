"""Losses through a projector with normalisation."""

import math
from typing import final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tutelage.errors import ConfigError, ShapeError
from tutelage.losses.features import (
    Features,
    LayerLoss,
    built,
    check_several,
    dry_features,
    over_counted,
    pooled,
    width_of,
)
from tutelage.objective import DryRun
from tutelage.types import Batch, Outputs, Signal

NORM_FLOOR = 1e-4
TINY = 1e-12


def log_distance(
    student: Float[Tensor, "batch width"],
    teacher: Float[Tensor, "batch width"],
    exponent: float = 4.0,
) -> Float[Tensor, ""]:
    """Logarithm of the distance of two batches, each dimension standardised over the batch.

    Args:
        student: One vector a sample, at least two.
        teacher: The teacher's, as many, of the same width.
        exponent: Exponent of the differences.

    Returns:
        The logarithm of the sum over dimensions, mean over samples; it may be negative.
    """
    gap = _standardised(student) - _standardised(teacher)
    return (gap.abs().pow(exponent).sum(dim=1).mean() + TINY).log()


def _standardised(embedding: Tensor) -> Tensor:
    centred = embedding - embedding.mean(dim=0)
    variance = centred.square().mean(dim=0)
    return centred / (variance + NORM_FLOOR).sqrt()


@final
class SRD(LayerLoss):
    """Simple recipe distillation: linear projector, batch norm on both sides, log of the distance.

    Use it on the last features, also across architectures and widths, since only vectors are
    compared; batches should be large enough for batch norm (32 or more). It does not teach the
    classifier: add KD.

    Args:
        student_layer: Any; maps and tokens are pooled. Usually the last before the classifier.
        teacher_layer: Any; None takes the student's name.
        exponent: Exponent of the differences, 1 or more; 4 in the authors' ImageNet code.

    Usual weight: 2, beside KD at temperature 1.

    Source:
        Miles & Mikolajczyk 2023, "Understanding the Role of the Projector in Knowledge
        Distillation", arXiv:2303.11098, equation 13.

    Differs from the paper:
        The mean over samples inside the logarithm instead of the sum: smaller by the logarithm
        of the batch size, with the same gradient. The KL term of their recipe is a term of its
        own here.
    """

    needs = frozenset({Signal.FEATURES})
    title = "srd"
    whole_batch = True

    def __init__(
        self, student_layer: str, teacher_layer: str | None = None, exponent: float | int = 4
    ) -> None:
        """Keep the settings."""
        super().__init__(student_layer, teacher_layer)
        if not 1 <= exponent < math.inf:
            raise ConfigError(f"srd: exponent must be 1 or more, got {exponent}.")
        self.exponent = float(exponent)
        self.projector: nn.Module | None = None

    def setup(self, dry: DryRun) -> None:
        """Build the projector."""
        check_several(self, dry)
        (ours,), (theirs,) = dry_features(self, dry)
        self.projector = nn.Linear(width_of(ours), width_of(theirs))

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The log distance; 0 for one sample."""
        return over_counted(self, student, teacher, batch, self._distance, least=2)

    def _distance(self, student: Features, teacher: Features) -> Tensor:
        ours = built(self.projector, self.title)(pooled(student[0], self.title))
        return log_distance(ours, pooled(teacher[0], self.title), self.exponent)


@final
class VkD(LayerLoss):
    """Orthogonal projector, which preserves distances between samples.

    The projector cannot do the student's work for it, for it can only turn.

    Args:
        student_layer: Any, no wider than the teacher's; maps and tokens are pooled.
        teacher_layer: Any; None takes the student's name.

    Usual weight: 1.

    Source:
        Miles et al. 2024, "VkD: Improving Knowledge Distillation using Orthogonal Projections",
        arXiv:2403.06213, sections 3.1 to 3.3.

    Differs from the paper:
        The normalisation of the teacher is layer norm without weights; whitening, for generative
        tasks, is not offered. The projector is kept orthogonal by Householder reflections.
    """

    needs = frozenset({Signal.FEATURES})
    title = "vkd"

    def __init__(self, student_layer: str, teacher_layer: str | None = None) -> None:
        """Keep the layers."""
        super().__init__(student_layer, teacher_layer)
        self.projector: nn.Module | None = None

    def setup(self, dry: DryRun) -> None:
        """Build the projector.

        Raises:
            ShapeError: The student is wider than the teacher.
        """
        (ours,), (theirs,) = dry_features(self, dry)
        narrow, wide = width_of(ours), width_of(theirs)
        if narrow > wide:
            raise ShapeError(
                f"vkd: the student's layer is {narrow} wide, the teacher's {wide}. An orthogonal "
                "projector needs a teacher at least as wide; use srd instead."
            )
        self.projector = parametrizations.orthogonal(
            nn.Linear(narrow, wide, bias=False),
            orthogonal_map="householder",
            use_trivialization=False,
        )
        for parameter in self.projector.parameters():
            parameter.data = parameter.data.contiguous()  # as checkpoints and processes want it

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The mean Huber distance to the teacher's normalised features."""
        return over_counted(self, student, teacher, batch, self._distance)

    def _distance(self, student: Features, teacher: Features) -> Tensor:
        ours = built(self.projector, self.title)(pooled(student[0], self.title))
        theirs = pooled(teacher[0], self.title)
        return F.smooth_l1_loss(ours, F.layer_norm(theirs, theirs.shape[1:]))
