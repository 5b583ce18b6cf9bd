"""Losses that regress a teacher's features from the student's: FitNets, VID, AB."""

import math
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.errors import ConfigError
from tutelage.losses.adapters import Adapter, adapters
from tutelage.losses.features import (
    Features,
    LayerLoss,
    Layers,
    built,
    dry_features,
    layer_pairs,
    of_one_kind,
    over_counted,
    width_of,
)
from tutelage.objective import DryRun, Loss
from tutelage.types import Batch, Outputs, Signal

VARIANCE_FLOOR = 1e-5


@final
class FitNets(LayerLoss):
    """A hint: the student's features, through an adapter, regress the teacher's.

    The simplest feature loss; one layer in the middle or the last one before the classifier.

    Args:
        student_layer: Gives maps, tokens or vectors.
        teacher_layer: Gives the same kind; None takes the student's name. The larger of two maps
            is pooled to the smaller.

    Usual weight: 100.

    Source:
        Romero et al. 2014, "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550, equation 3.

    Differs from the paper:
        The mean over all elements instead of half their sum; the hint is learned together with
        the task, not in a stage before it; the adapter is one linear map of each place (a 1x1
        convolution) without a ReLU behind it.
    """

    needs = frozenset({Signal.FEATURES})
    title = "fitnets"

    def __init__(self, student_layer: str, teacher_layer: str | None = None) -> None:
        """Keep the layers."""
        super().__init__(student_layer, teacher_layer)
        self.adapter: nn.Module | None = None

    def setup(self, dry: DryRun) -> None:
        """Build the adapter from the student's width to the teacher's."""
        (ours,), (theirs,) = dry_features(self, dry)
        self.adapter = Adapter(width_of(ours), width_of(theirs))

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The mean squared difference."""
        return over_counted(self, student, teacher, batch, self._distance)

    def _distance(self, student: Features, teacher: Features) -> Tensor:
        ours, theirs = of_one_kind(student[0], teacher[0], self.title)
        return F.mse_loss(built(self.adapter, self.title)(ours), theirs)


def gaussian_surprise(
    mean: Float[Tensor, "batch channels ..."],
    wanted: Float[Tensor, "batch channels ..."],
    variance: Float[Tensor, " channels"],
) -> Float[Tensor, ""]:
    """Negative log-likelihood under a normal distribution, one variance a channel.

    Args:
        mean: Predicted.
        wanted: Seen.
        variance: Above 0.

    Returns:
        The mean over all elements, without the constant log(2 pi) / 2; it may be negative.
    """
    spread = variance.view(-1, *[1] * (mean.ndim - 2))
    return 0.5 * ((mean - wanted).square() / spread + spread.log()).mean()


@final
class VID(Loss):
    """Variational information distillation: regression with a learned variance.

    Each of the teacher's channels has a variance of its own, so that channels which the student
    cannot predict count less.

    Args:
        student_layers: One layer or several; each gives maps, tokens or vectors.
        teacher_layers: The teacher's layers, as many, of the same kinds; None takes the student's
            names.
        variance: Initial variance of every channel, above 0.00001; 5 in the authors' code.

    Usual weight: 1.

    Source:
        Ahn et al. 2019, "Variational Information Distillation for Knowledge Transfer",
        arXiv:1904.05835, equations 5 to 7.

    Differs from other libraries:
        The variances are trained; one widespread version forgets to give them to the optimizer.
    """

    needs = frozenset({Signal.FEATURES})
    title = "vid"

    def __init__(
        self,
        student_layers: Layers,
        teacher_layers: Layers | None = None,
        variance: float | int = 5.0,
    ) -> None:
        """Keep the settings."""
        super().__init__()
        if not VARIANCE_FLOOR < variance < math.inf:
            raise ConfigError(f"vid: variance must be above {VARIANCE_FLOOR}, got {variance}.")
        self.student_layers, self.teacher_layers = layer_pairs(
            self.title, student_layers, teacher_layers
        )
        self.variance = float(variance)
        self.adapters: nn.ModuleList | None = None
        self.spreads = nn.ParameterList()

    def setup(self, dry: DryRun) -> None:
        """Build a regressor of three layers, and the variances, for each pair."""
        ours, theirs = dry_features(self, dry)
        widths = [(width_of(s), width_of(t)) for s, t in zip(ours, theirs, strict=True)]
        self.adapters = nn.ModuleList(Adapter(s, t, t, t, bias=False) for s, t in widths)
        start = math.log(math.expm1(self.variance - VARIANCE_FLOOR))
        self.spreads = nn.ParameterList(torch.full((width,), start) for _, width in widths)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The sum over layers of the mean negative log-likelihoods, in nats; it may be negative."""
        return over_counted(self, student, teacher, batch, self._distance)

    def _distance(self, student: Features, teacher: Features) -> Tensor:
        regressors = built(self.adapters, self.title)
        assert isinstance(regressors, nn.ModuleList)
        parts = []
        for one, other, adapter, spread in zip(
            student, teacher, regressors, self.spreads, strict=True
        ):
            ours, theirs = of_one_kind(one, other, self.title)
            variance = F.softplus(spread) + VARIANCE_FLOOR
            parts.append(gaussian_surprise(adapter(ours), theirs, variance))
        return torch.stack(parts).sum()


def boundary_distance(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    margin: float = 1.0,
) -> Float[Tensor, ""]:
    """Squared hinge around zero: the student must be active where the teacher is.

    Args:
        student: Before the activation.
        teacher: Before the activation; only its signs count.
        margin: How far beyond zero the student shall be, above 0.

    Returns:
        The mean over all elements; 0 where every sign agrees by the margin.
    """
    sides = torch.where(teacher > 0, 1.0, -1.0)
    return torch.relu(margin - sides * student).square().mean()


@final
class ActivationBoundaries(Loss):
    """The student's neurons, through an adapter, learn to be active where the teacher's are.

    Name layers that give values before the activation: a batch norm, or the activation's input
    (`layer1.relu:input`).

    Args:
        student_layers: One layer or several; each gives maps, tokens or vectors.
        teacher_layers: The teacher's layers, as many, of the same kinds; None takes the student's
            names.
        margin: How far beyond zero the student shall be, above 0; 1 in the paper.

    Usual weight: 1 to 10.

    Source:
        Heo et al. 2018, "Knowledge Transfer via Distillation of Activation Boundaries Formed by
        Hidden Neurons", arXiv:1811.03233, equation 6.

    Differs from the paper:
        The mean over elements, every layer alike, instead of sums with factors that halve from
        layer to layer; learned together with the task instead of in 30 epochs before it.
    """

    needs = frozenset({Signal.FEATURES})
    title = "activation_boundaries"

    def __init__(
        self, student_layers: Layers, teacher_layers: Layers | None = None, margin: float | int = 1
    ) -> None:
        """Keep the settings."""
        super().__init__()
        if not 0 < margin < math.inf:
            raise ConfigError(f"activation_boundaries: margin must be above 0, got {margin}.")
        self.student_layers, self.teacher_layers = layer_pairs(
            self.title, student_layers, teacher_layers
        )
        self.margin = float(margin)
        self.adapters: nn.ModuleList | None = None

    def setup(self, dry: DryRun) -> None:
        """Build an adapter for each pair."""
        ours, theirs = dry_features(self, dry)
        pairs = zip(ours, theirs, strict=True)
        self.adapters = adapters((width_of(s), width_of(t)) for s, t in pairs)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The sum of the layers' mean squared hinges."""
        return over_counted(self, student, teacher, batch, self._distance)

    def _distance(self, student: Features, teacher: Features) -> Tensor:
        made = built(self.adapters, self.title)
        assert isinstance(made, nn.ModuleList)
        parts = []
        for one, other, adapter in zip(student, teacher, made, strict=True):
            ours, theirs = of_one_kind(one, other, self.title)
            parts.append(boundary_distance(adapter(ours), theirs, self.margin))
        return torch.stack(parts).sum()
