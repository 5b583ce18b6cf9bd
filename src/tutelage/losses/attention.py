"""Losses on where and how maps respond: attention, neuron selectivity, flow, channels."""

from itertools import pairwise
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.errors import ConfigError, ShapeError
from tutelage.losses.adapters import Adapter
from tutelage.losses.divergences import check_temperature, kl_divergence, not_below_zero
from tutelage.losses.features import (
    Features,
    LayerLoss,
    Layers,
    as_map,
    built,
    dry_features,
    layer_pairs,
    maps_of_one_size,
    over_counted,
    shrink,
    width_of,
)
from tutelage.losses.lengths import shrunk, unit
from tutelage.objective import DryRun, Loss
from tutelage.types import Batch, Outputs, Signal


def attention_map(
    feature: Float[Tensor, "batch channels height width"], power: int = 2
) -> Float[Tensor, "batch places"]:
    """Attention map: mean over channels of the absolute value to a power, at unit length."""
    scaled, _ = shrunk(feature)
    strength = scaled.abs().pow(power).mean(dim=1).flatten(start_dim=1)
    return unit(strength, dim=1)


@final
class AttentionTransfer(Loss):
    """Attention transfer: the student learns where the teacher's maps respond.

    No parameters; channels may differ. It helps within a family of networks and can hurt across.

    Args:
        student_layers: One layer or several that give maps or tokens.
        teacher_layers: The teacher's layers, as many; None takes the student's names. The larger of
            two maps is pooled to the smaller.
        power: Exponent of the absolute values; 2 in the paper.

    Usual weight: 1000.

    Source:
        Zagoruyko & Komodakis 2016, "Paying More Attention to Attention: Improving the
        Performance of Convolutional Neural Networks via Attention Transfer", arXiv:1612.03928,
        equation 2.

    Differs from the paper:
        The mean of the squared differences over places, as in the authors' code, instead of
        the norm; so the weight goes with the resolution. Summed over layers.
    """

    needs = frozenset({Signal.FEATURES})
    title = "attention_transfer"

    def __init__(
        self, student_layers: Layers, teacher_layers: Layers | None = None, power: int = 2
    ) -> None:
        """Keep the settings."""
        super().__init__()
        if power < 1:
            raise ConfigError(f"attention_transfer: power must be 1 or more, got {power}.")
        self.student_layers, self.teacher_layers = layer_pairs(
            self.title, student_layers, teacher_layers
        )
        self.power = power

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The sum of the layers' mean squared differences of attention."""
        return over_counted(self, student, teacher, batch, self._distance)

    def _distance(self, student: Features, teacher: Features) -> Tensor:
        parts = []
        for one, other in zip(student, teacher, strict=True):
            ours, theirs = maps_of_one_size(one, other, self.title)
            gap = attention_map(ours, self.power) - attention_map(theirs, self.power)
            parts.append(gap.square().mean())
        return torch.stack(parts).sum()


def selectivity_distance(
    student: Float[Tensor, "batch channels height width"],
    teacher: Float[Tensor, "batch channels2 height width"],
) -> Float[Tensor, ""]:
    """Squared maximum mean discrepancy between the channels of two maps, kernel (a . b)^2.

    Each channel is a sample: its responses over the places, at unit length.

    Returns:
        The mean over the batch; 0 where both hold the same channels in any order.
    """
    ours = unit(student.flatten(start_dim=2), dim=2)
    theirs = unit(teacher.flatten(start_dim=2), dim=2)
    squared = _kernel(ours, ours) + _kernel(theirs, theirs) - 2 * _kernel(ours, theirs)
    return not_below_zero(squared)


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other.transpose(1, 2)).square().mean()


@final
class NST(Loss):
    """Neuron selectivity transfer: match the distribution of the teacher's channels.

    No parameters; channels may differ in number.

    Args:
        student_layers: One layer or several that give maps or tokens.
        teacher_layers: The teacher's layers, as many; None takes the student's names. The larger of
            two maps is pooled to the smaller.

    Usual weight: 50.

    Source:
        Huang & Wang 2017, "Like What You Like: Knowledge Distill via Neuron Selectivity
        Transfer", arXiv:1707.01219, equation 4 with the polynomial kernel of degree 2.

    Differs from the paper:
        The kernel has no offset, as in the code that published tables were made with. Summed
        over layers.
    """

    needs = frozenset({Signal.FEATURES})
    title = "nst"

    def __init__(self, student_layers: Layers, teacher_layers: Layers | None = None) -> None:
        """Keep the layers."""
        super().__init__()
        self.student_layers, self.teacher_layers = layer_pairs(
            self.title, student_layers, teacher_layers
        )

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The sum of the layers' discrepancies."""
        return over_counted(self, student, teacher, batch, self._distance)

    def _distance(self, student: Features, teacher: Features) -> Tensor:
        pairs = zip(student, teacher, strict=True)
        return torch.stack(
            [selectivity_distance(*maps_of_one_size(s, t, self.title)) for s, t in pairs]
        ).sum()


def flow(
    bottom: Float[Tensor, "batch channels _h _w"], top: Float[Tensor, "batch channels2 _h2 _w2"]
) -> Float[Tensor, "batch channels channels2"]:
    """Correlation of a layer's channels with a later layer's: mean product over positions."""
    height, width = min(bottom.shape[2], top.shape[2]), min(bottom.shape[3], top.shape[3])
    first = shrink(bottom, height, width).flatten(start_dim=2)
    second = shrink(top, height, width).flatten(start_dim=2)
    return first @ second.transpose(1, 2) / (height * width)


@final
class FSP(Loss):
    """Flow of solution procedure: match how features change from layer to layer.

    No parameters; each student layer needs as many channels as its teacher layer.

    Args:
        student_layers: Two layers or more that give maps, from bottom to top; the flow is taken
            from each to the next.
        teacher_layers: The teacher's layers, as many, of the same numbers of channels; None takes
            the student's names.

    Usual weight: 50.

    Source:
        Yim et al. 2017, "A Gift from Knowledge Distillation: Fast Optimization, Network
        Minimization and Transfer Learning", CVPR, doi:10.1109/CVPR.2017.754, equations 1 and 2.

    Differs from the paper:
        The mean over a matrix's entries instead of their sum (times the product of the channel
        counts gives the paper's); learned together with the task, not in a stage before it.
    """

    needs = frozenset({Signal.FEATURES})
    title = "fsp"

    def __init__(self, student_layers: Layers, teacher_layers: Layers | None = None) -> None:
        """Keep the layers."""
        super().__init__()
        self.student_layers, self.teacher_layers = layer_pairs(
            self.title, student_layers, teacher_layers
        )
        if len(self.student_layers) < 2:
            raise ConfigError("fsp: it goes from layer to layer, got one. Name two or more.")

    def setup(self, dry: DryRun) -> None:
        """Refuse different numbers of channels, before the first step."""
        self._check(*dry_features(self, dry))

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The sum over steps of the mean squared differences of flow."""
        return over_counted(self, student, teacher, batch, self._distance)

    def _distance(self, student: Features, teacher: Features) -> Tensor:
        self._check(student, teacher)
        ours, theirs = self._flows(student), self._flows(teacher)
        return torch.stack(
            [F.mse_loss(one, other) for one, other in zip(ours, theirs, strict=True)]
        ).sum()

    def _flows(self, features: Features) -> list[Tensor]:
        maps = [as_map(feature, self.title) for feature in features]
        return [flow(one, next_one) for one, next_one in pairwise(maps)]

    def _check(self, student: Features, teacher: Features) -> None:
        ours, theirs = [[width_of(f) for f in features] for features in (student, teacher)]
        if ours != theirs:
            raise ShapeError(
                f"fsp: the student's layers have {ours} channels, the teacher's {theirs}. It "
                "needs as many in each pair; name other layers, or use another loss."
            )


@final
class CWD(LayerLoss):
    """Channel-wise distillation: each channel's response as a distribution over positions.

    Made for dense prediction; softened over the places of each channel, not over classes.

    Args:
        student_layer: Gives maps or tokens.
        teacher_layer: Gives the same kind; None takes the student's name. The larger of two maps
            is pooled to the smaller.
        temperature: Above 0; 4 for features and 1 for score maps are usual.

    Usual weight: 3 for score maps, up to 50 for features.

    Source:
        Shu et al. 2020, "Channel-wise Knowledge Distillation for Dense Prediction",
        arXiv:2011.13256, equations 3 to 5.
    """

    needs = frozenset({Signal.FEATURES})
    title = "cwd"

    def __init__(
        self, student_layer: str, teacher_layer: str | None = None, temperature: float | int = 4.0
    ) -> None:
        """Store the settings."""
        super().__init__(student_layer, teacher_layer)
        self.temperature = check_temperature(temperature)
        self.adapter: nn.Module | None = None

    def setup(self, dry: DryRun) -> None:
        """Build an adapter where the numbers of channels differ."""
        (ours,), (theirs,) = dry_features(self, dry)
        widths = width_of(ours), width_of(theirs)
        self.adapter = nn.Identity() if widths[0] == widths[1] else Adapter(*widths)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """T squared times the KL divergence over positions, mean over channels and samples."""
        return over_counted(self, student, teacher, batch, self._distance)

    def _distance(self, student: Features, teacher: Features) -> Tensor:
        ours, theirs = maps_of_one_size(student[0], teacher[0], self.title)
        wide = built(self.adapter, self.title)(ours)
        places = wide.flatten(start_dim=2), theirs.flatten(start_dim=2)
        return kl_divergence(*places, self.temperature)
