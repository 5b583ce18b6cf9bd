"""Knowledge review: earlier layers of the student learn together with later ones."""

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.errors import ConfigError
from tutelage.losses.features import (
    Features,
    Layers,
    as_map,
    built,
    dry_features,
    layer_pairs,
    over_counted,
    shrink,
)
from tutelage.objective import DryRun, Loss
from tutelage.types import Batch, Outputs, Signal

PYRAMID = (4, 2, 1)


def pyramid_distance(
    student: Float[Tensor, "batch channels height width"],
    teacher: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, ""]:
    """Mean squared difference at full size and pooled to 4, 2 and 1, with decreasing weight.

    Weights are 1, then 1/2, 1/4, ... for each size below the map's; their sum divides.

    Source:
        Chen et al. 2021, arXiv:2104.09044, section 3.4 (hierarchical context loss).
    """
    total, weight, weights = F.mse_loss(student, teacher), 1.0, 1.0
    for size in PYRAMID:
        if size >= student.shape[2]:
            continue
        weight /= 2
        pooled = shrink(student, size, size), shrink(teacher, size, size)
        total, weights = total + weight * F.mse_loss(*pooled), weights + weight
    return total / weights


class _Fusion(nn.Module):
    """Fuses a layer with the result of the later layers by attention, and adapts its width."""

    def __init__(self, channels_in: int, width: int, channels_out: int, *, is_last: bool) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Conv2d(channels_in, width, kernel_size=1, bias=False), nn.BatchNorm2d(width)
        )
        self.attention = None if is_last else nn.Conv2d(2 * width, 2, kernel_size=1)
        self.expand = nn.Sequential(
            nn.Conv2d(width, channels_out, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(
        self, feature: Tensor, later: Tensor | None, size: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """The adapted map, and the fused one for the layer before."""
        joined = self.reduce(feature)
        if self.attention is not None and later is not None:
            larger = F.interpolate(later, size=joined.shape[2:], mode="nearest")
            shares = torch.sigmoid(self.attention(torch.cat([joined, larger], dim=1)))
            joined = joined * shares[:, :1] + larger * shares[:, 1:]
        sized = F.interpolate(joined, size=tuple(size), mode="nearest")
        return self.expand(sized), joined


@final
class ReviewKD(Loss):
    """Each layer of the teacher is learned from the student's layer and all later ones.

    Use it for convolutional networks whose maps shrink from stage to stage; it is among the best
    where maps can be compared, and the dearest of the losses here: its fusing layers can cost more
    than a small student. Across unlike architectures a loss on logits does as well for less.

    Args:
        student_layers: Two layers or more that give maps (vectors count as maps of one place),
            from bottom to top.
        teacher_layers: The teacher's layers, as many; None takes the student's names. Sizes may
            differ.
        width: Channels of the fused maps; None takes the most that the student has, at most 512.

    Usual weight: 0.6 to 8; warm it up over the first epochs.

    Source:
        Chen et al. 2021, "Distilling Knowledge via Knowledge Review", arXiv:2104.09044, sections
        3.2 to 3.4 and equation 6.
    """

    needs = frozenset({Signal.FEATURES})
    title = "review_kd"

    def __init__(
        self,
        student_layers: Layers,
        teacher_layers: Layers | None = None,
        width: int | None = None,
    ) -> None:
        """Keep the settings."""
        super().__init__()
        self.student_layers, self.teacher_layers = layer_pairs(
            self.title, student_layers, teacher_layers
        )
        if len(self.student_layers) < 2:
            raise ConfigError("review_kd: it reviews earlier layers, got one. Name two or more.")
        if width is not None and width < 1:
            raise ConfigError(f"review_kd: width must be 1 or more, got {width}.")
        self.width = width
        self.fusions: nn.ModuleList | None = None

    def setup(self, dry: DryRun) -> None:
        """Build a fusion for each layer; their batch norms need two rows."""
        ours, theirs = [self._maps(features) for features in dry_features(self, dry)]
        channels = [(one.shape[1], other.shape[1]) for one, other in zip(ours, theirs, strict=True)]
        width = self.width or min(512, max(one for one, _ in channels))
        last = len(channels) - 1
        self.fusions = nn.ModuleList(
            _Fusion(one, width, other, is_last=number == last)
            for number, (one, other) in enumerate(channels)
        )

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The sum of the layers' distances; 0 for one sample, which batch norm refuses."""
        return over_counted(self, student, teacher, batch, self._distance, least=2)

    def _distance(self, student: Features, teacher: Features) -> Tensor:
        fusions = built(self.fusions, self.title)
        assert isinstance(fusions, nn.ModuleList)
        later: Tensor | None = None
        parts = []
        pairs = zip(self._maps(student), self._maps(teacher), fusions, strict=True)
        for ours, theirs, fusion in reversed(list(pairs)):
            fitted, later = fusion(ours, later, theirs.shape[2:])
            parts.append(pyramid_distance(fitted, theirs))
        return torch.stack(parts).sum()

    def _maps(self, features: Features) -> list[Tensor]:
        return [
            feature[:, :, None, None] if feature.ndim == 2 else as_map(feature, self.title)
            for feature in features
        ]
