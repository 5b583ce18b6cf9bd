"""Losses on relations between the samples of a batch, for any widths, without parameters."""

import math
from abc import abstractmethod
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tutelage.errors import ConfigError
from tutelage.losses.divergences import not_below_zero
from tutelage.losses.features import (
    Features,
    LayerLoss,
    check_several,
    over_counted,
    pooled,
)
from tutelage.losses.lengths import shrunk, unit
from tutelage.objective import DryRun
from tutelage.types import Batch, Outputs, Signal

LEAST_DISTANCE = 1e-8
PKT_FLOOR = 1e-7


class Relation(LayerLoss):
    """A loss on relations between the samples of a batch, in one layer of each network.

    Attributes:
        pools: Whether maps and tokens are pooled first.
    """

    needs = frozenset({Signal.FEATURES})
    whole_batch = True
    pools = True

    def setup(self, dry: DryRun) -> None:
        """Refuse batches of one."""
        check_several(self, dry)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The distance between the two batches; 0 for one sample."""
        return over_counted(self, student, teacher, batch, self._distance, least=2)

    @abstractmethod
    def between(
        self, student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]
    ) -> Float[Tensor, ""]:
        """The loss, from the features of two or more samples."""

    def _distance(self, student: Features, teacher: Features) -> Tensor:
        ours, theirs = student[0], teacher[0]
        if self.pools:
            ours, theirs = pooled(ours, self.title), pooled(theirs, self.title)
        return self.between(ours, theirs)


def similarity_distance(
    student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]
) -> Float[Tensor, ""]:
    """Mean squared difference of two batches' similarities, each row at unit length.

    Args:
        student: One row a sample; whatever a row holds is taken as one vector.
        teacher: The teacher's, with as many rows.

    Returns:
        The sum over pairs of samples, divided by their number.
    """
    return F.mse_loss(_similarities(student), _similarities(teacher))


def _similarities(feature: Tensor) -> Tensor:
    flat, _ = shrunk(feature.flatten(start_dim=1))
    return unit(flat @ flat.T, dim=1)


@final
class SimilarityPreserving(Relation):
    """Samples that are similar to the teacher become similar to the student.

    Cheap, without parameters, and free of widths and architectures. It sees who resembles whom in
    one batch alone, so it wants batches of 64 or more; beside KD it adds little.

    Args:
        student_layer: Any; usually the last map before pooling.
        teacher_layer: Any; None takes the student's name.

    Usual weight: 3000.

    Source:
        Tung & Mori 2019, "Similarity-Preserving Knowledge Distillation", arXiv:1907.09682,
        equations 1 to 4.

    Differs from other libraries:
        torchdistill's version scales rows by the sum of absolute values.
    """

    title = "similarity_preserving"
    pools = False

    def between(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean squared difference of similarities."""
        return similarity_distance(student, teacher)


def correlations(
    embedding: Float[Tensor, "batch width"], gamma: float = 0.4, order: int = 2
) -> Float[Tensor, "batch batch"]:
    """A Gaussian kernel between samples at unit length, by its Taylor series.

    exp(-gamma |a - b|^2) = exp(-2 gamma) exp(2 gamma a.b), the second factor cut at an order.

    Args:
        embedding: One vector a sample.
        gamma: Above 0; 0.4 in the paper.
        order: Highest power of the series; 2 in the paper.
    """
    directions = unit(embedding, dim=1)
    inner = directions @ directions.T
    powers = [(2 * gamma) ** p / math.factorial(p) * inner**p for p in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(powers).sum(dim=0)


@final
class CorrelationCongruence(Relation):
    """Correlations between samples, by a Gaussian kernel, match the teacher's.

    Widths and architectures may differ. On its own it moves little; it is meant beside KD, and
    wants batches that hold several samples of a class.

    Args:
        student_layer: Any; maps and tokens are pooled.
        teacher_layer: Any; None takes the student's name.
        gamma: Gamma of the kernel, above 0; 0.4 in the paper.
        order: Order of its Taylor series, 1 or more; 2 in the paper.

    Usual weight: 100 beside KD.

    Source:
        Peng et al. 2019, "Correlation Congruence for Knowledge Distillation", arXiv:1904.01802,
        equations 5, 10 and 11.

    Differs from other libraries:
        The form in RepDistiller and torchdistill's ancestors multiplies differences of samples
        that stand next to one another, so that it depends on their order; this is the paper's.
    """

    title = "correlation_congruence"

    def __init__(
        self,
        student_layer: str,
        teacher_layer: str | None = None,
        gamma: float | int = 0.4,
        order: int = 2,
    ) -> None:
        """Keep the settings."""
        super().__init__(student_layer, teacher_layer)
        if not 0 < gamma < math.inf or order < 1:
            raise ConfigError(
                "correlation_congruence: gamma must be above 0 and order 1 or more, got "
                f"{gamma} and {order}."
            )
        self.gamma, self.order = float(gamma), order

    def between(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean squared difference over pairs of samples."""
        ours, theirs = [
            correlations(feature, self.gamma, self.order) for feature in (student, teacher)
        ]
        return F.mse_loss(ours, theirs)


def relative_distances(embedding: Float[Tensor, "batch width"]) -> Float[Tensor, "batch batch"]:
    """Distances between samples, divided by the mean of those above 0."""
    scaled, scale = shrunk(embedding)
    centred = scaled - scaled.mean(dim=0)
    squares = centred.square().sum(dim=1)
    sums = squares[:, None] + squares[None, :]
    gap = sums - 2 * centred @ centred.T
    # What rounding leaves of equal rows is no distance, and the square root has no slope at 0.
    is_apart = (gap > 16 * torch.finfo(gap.dtype).eps * sums).fill_diagonal_(False)
    distance = torch.where(is_apart, torch.where(is_apart, gap, 1.0).sqrt(), 0.0)
    mean = distance.sum() / is_apart.sum().clamp(min=1)
    return distance / torch.maximum(mean, LEAST_DISTANCE * scale)


def angles(embedding: Float[Tensor, "batch width"]) -> Float[Tensor, "batch batch batch"]:
    """Cosines of the angles at each sample between each pair of the others."""
    sides = unit(embedding[None] - embedding[:, None], dim=2)
    return sides @ sides.transpose(1, 2)


@final
class RKDDistance(Relation):
    """Relational distillation: distances between samples, relative to their mean.

    Use it for embeddings and metric learning, most often together with `rkd_angle`. For
    classification it rarely beats KD: the scale and place of features are free, and the
    classifier learns nothing of the teacher.

    Args:
        student_layer: Any; maps and tokens are pooled.
        teacher_layer: Any; None takes the student's name.

    Usual weight: 25.

    Source:
        Park et al. 2019, "Relational Knowledge Distillation", arXiv:1904.05068, equations 4 to 6.

    Differs from the paper:
        The mean over all batch x batch pairs (a sample with itself adds 0), as in the authors'
        code, instead of the sum.
    """

    title = "rkd_distance"

    def between(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean Huber distance of relative distances."""
        return F.smooth_l1_loss(relative_distances(student), relative_distances(teacher))


@final
class RKDAngle(Relation):
    """Relational distillation: angles between triples of samples.

    Memory grows with the cube of the batch: 64 samples make 0.26 million angles, 512 make 134.

    Args:
        student_layer: Any; maps and tokens are pooled.
        teacher_layer: Any; None takes the student's name.

    Usual weight: 50.

    Source:
        Park et al. 2019, "Relational Knowledge Distillation", arXiv:1904.05068, equations 7 and 8.

    Differs from the paper:
        The mean over all batch x batch x batch triples, as in the authors' code, instead of the
        sum.
    """

    title = "rkd_angle"

    def between(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean Huber distance of cosines."""
        return F.smooth_l1_loss(angles(student), angles(teacher))


def neighbour_divergence(
    student: Float[Tensor, "batch width"], teacher: Float[Tensor, "batch width2"]
) -> Float[Tensor, ""]:
    """KL divergence of the probabilities that samples are neighbours, from their cosines.

    Args:
        student: One vector a sample.
        teacher: The teacher's, as many.

    Returns:
        In nats, summed over a sample's neighbours (itself among them), mean over samples.
    """
    ours, theirs = _chances(student), _chances(teacher)
    ratio = (theirs + PKT_FLOOR) / (ours + PKT_FLOOR)
    return not_below_zero((theirs * ratio.log()).sum(dim=1)).mean()


def _chances(embedding: Tensor) -> Tensor:
    directions = unit(embedding, dim=1, floor=PKT_FLOOR)
    likeness = (directions @ directions.T + 1) / 2
    chances: Tensor = likeness / likeness.sum(dim=1, keepdim=True)
    return chances


@final
class PKT(Relation):
    """Probabilistic knowledge transfer: the distribution of each sample's neighbours.

    Use it where features shall be searched or compared (embeddings), or beside KD; widths and
    architectures may differ and nothing has to be tuned but the weight. Batches should hold
    neighbours: small ones say little.

    Args:
        student_layer: Any; maps and tokens are pooled.
        teacher_layer: Any; None takes the student's name.

    Usual weight: 30000 divided by the batch size.

    Source:
        Passalis & Tefas 2018, "Learning Deep Representations with Probabilistic Knowledge
        Transfer", arXiv:1803.10837, equations 4 to 6.

    Differs from the paper:
        Cosines of a sample with itself take part, as in the authors' code. That code takes the
        mean over all pairs, which makes it smaller by the batch size; here it is a divergence.
    """

    title = "pkt"

    def between(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The divergence in nats."""
        return neighbour_divergence(student, teacher)
