"""Losses on embeddings: one vector per sample, compared by value, direction or neighbours."""

import math
from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.errors import ConfigError, ShapeError, SignalError
from tutelage.losses.divergences import kl_per_item
from tutelage.losses.features import check_several, valid_rows
from tutelage.losses.lengths import cosine_gaps, unit
from tutelage.models.axes import principal_axes, rotation_onto
from tutelage.objective import DryRun, Loss
from tutelage.types import Batch, Outputs, Signal

PCA_ROWS = 4096
TURN_ROWS = 2048


def squared_distance(
    student: Float[Tensor, "rows width"], teacher: Float[Tensor, "rows width"]
) -> Float[Tensor, ""]:
    """Squared distance of two vectors, summed over their width, mean over samples."""
    return (student - teacher).square().sum(dim=1).mean()


def cosine_distance(
    student: Float[Tensor, "rows width"], teacher: Float[Tensor, "rows width"]
) -> Float[Tensor, ""]:
    """One minus the cosine of the angle between two vectors, mean over samples."""
    return cosine_gaps(student, teacher).mean()


def similarity_kl(
    student: Float[Tensor, "rows width"], teacher: Float[Tensor, "rows width2"], temperature: float
) -> Float[Tensor, ""]:
    """KL(teacher || student) of each sample's similarities to the rest of the batch.

    A sample's cosines with all others, divided by a temperature, are logits over these others.

    Args:
        student: At least two rows.
        teacher: The teacher's, with as many rows; the width may differ.
        temperature: Above 0, of cosines: 0.05 is usual.

    Returns:
        The mean over samples, in nats.
    """
    ours, theirs = [_cosines(side) / temperature for side in (student, teacher)]
    return kl_per_item(ours, theirs).mean()


def margin_distance(
    student: Float[Tensor, "rows width"], teacher: Float[Tensor, "rows width2"]
) -> Float[Tensor, ""]:
    """Mean squared difference of margins: how much closer one sample is than another.

    Over all triples of a sample and two others, the margin is the difference of two inner
    products. The mean over pairs of (d_j - d_k)^2 is twice the variance of d, so it takes no more
    than the inner products of all pairs.

    Args:
        student: At least three rows.
        teacher: The teacher's, with as many rows; the width may differ.
    """
    gaps = _without_diagonal(student @ student.T - teacher @ teacher.T)
    return 2 * gaps.var(dim=1).mean()


def _cosines(vectors: Tensor) -> Tensor:
    directions = unit(vectors, dim=1)
    return _without_diagonal(directions @ directions.T)


def _without_diagonal(square: Tensor) -> Tensor:
    """Each row without its diagonal entry."""
    rows = torch.arange(len(square), device=square.device)
    others = rows[:-1] + (rows[:-1] >= rows[:, None])
    return square.gather(dim=1, index=others)


def between_embeddings(
    loss: Loss,
    student: Outputs,
    teacher: Outputs | None,
    batch: Batch,
    distance: Callable[[Tensor, Tensor], Tensor],
    *,
    least: int = 1,
) -> Float[Tensor, ""]:
    """A distance between the valid vectors of both sides, in float32 or better.

    Args:
        loss: Who asks.
        student: With gradient.
        teacher: A constant.
        batch: Its mask chooses the rows.
        distance: Distance of the student's rows and the teacher's.
        least: Rows without which there is nothing to compare.

    Returns:
        The distance; 0 where fewer rows count.

    Raises:
        SignalError: There is no teacher.
    """
    if teacher is None:
        raise SignalError(f"Loss {loss.title!r} needs a teacher's embeddings, but there is none.")
    ours = valid_rows(student.embeddings, batch.mask)
    theirs = valid_rows(teacher.embeddings.detach(), batch.mask).to(ours.dtype)
    if len(ours) < least:
        return ours[:0].sum()
    with torch.autocast(ours.device.type, enabled=False):
        return distance(ours, theirs)


class _Regression(Loss):
    """Base of losses on the teacher's vectors, along principal axes if widths differ."""

    needs = frozenset({Signal.EMBEDDINGS})

    def __init__(self) -> None:
        """Start without principal axes, which a dry run adds if widths differ."""
        super().__init__()
        self.axes: Tensor | None
        self.register_buffer("axes", None)

    def setup(self, dry: DryRun) -> None:
        """Find the teacher's principal axes, if it is wider than the student.

        They are turned so that the teacher's vectors lie as near as can be to where the student's
        lie at first: cosines do not change by that, and a student that was made from the teacher
        need not turn.

        Raises:
            ShapeError: The student is wider than the teacher.
        """
        assert dry.teacher is not None
        ours, theirs = dry.student.embeddings.shape[1], dry.teacher.embeddings.shape[1]
        if ours == theirs:
            return
        if ours > theirs:
            raise ShapeError(
                f"{self.title}: the student's vectors are {ours} wide, the teacher's {theirs}. "
                "Make the student as wide as the teacher or narrower, or use similarity_kl."
            )
        seen = dry.teacher if dry.teacher_outputs is None else dry.teacher_outputs(PCA_ROWS)
        axes = principal_axes(seen.embeddings, ours)
        if dry.teacher_outputs is not None and dry.student_outputs is not None:
            theirs_at_first = dry.teacher_outputs(TURN_ROWS).embeddings @ axes
            ours_at_first = dry.student_outputs(TURN_ROWS).embeddings.to(theirs_at_first)
            axes = axes @ rotation_onto(theirs_at_first, ours_at_first)
        self.axes = axes

    def _along_axes(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """The student's vectors, and the teacher's in the student's width."""
        if self.axes is not None:
            teacher = teacher @ self.axes.to(teacher)
        if student.shape != teacher.shape:
            raise ShapeError(
                f"{self.title}: the student gives {tuple(student.shape)}, the teacher "
                f"{tuple(teacher.shape)}. Call its build with a dry run first, as "
                "tutelage.engine.prepare does: it finds the teacher's principal axes."
            )
        return student, teacher


@final
class EmbeddingMSE(_Regression):
    """The student's vectors regress the teacher's.

    The first choice for sentence embeddings. Where the teacher is wider, its vectors are taken
    along as many of their principal axes as the student is wide.

    Usual weight: 1; for vectors of unit length it is twice `embedding_cosine`.

    Source:
        Reimers & Gurevych 2020, "Making Monolingual Sentence Embeddings Multilingual using
        Knowledge Distillation", arXiv:2004.09813, equation 1; the principal axes are the practice
        of sentence-transformers.

    Differs from other libraries:
        The sum over the width instead of the mean: sentence-transformers' MSELoss is this divided
        by the width, so a weight there is this weight times the width.
    """

    title = "embedding_mse"

    def __init__(self) -> None:
        """Take no settings."""
        super().__init__()

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The mean squared distance over the valid samples; 0 if there are none."""
        return between_embeddings(self, student, teacher, batch, self._distance)

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return squared_distance(*self._along_axes(student, teacher))


@final
class EmbeddingCosine(_Regression):
    """The student's vectors point in the direction of the teacher's, whatever their lengths.

    For vectors that are compared by cosine. Where the teacher is wider, its vectors are taken
    along as many of their principal axes as the student is wide.

    Usual weight: 1.

    Source:
        Sanh et al. 2019, "DistilBERT, a distilled version of BERT", arXiv:1910.01108, section 2,
        there on hidden states.
    """

    title = "embedding_cosine"

    def __init__(self) -> None:
        """Take no settings."""
        super().__init__()

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The mean over the valid samples; 0 if there are none."""
        return between_embeddings(self, student, teacher, batch, self._distance)

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return cosine_distance(*self._along_axes(student, teacher))


@final
class SimilarityKL(Loss):
    """Match the distribution of each sample's similarities to the rest of the batch.

    Widths may differ. It sees one batch alone, so it wants batches of 64 or more; beside
    `embedding_mse` it sharpens the order of near neighbours.

    Args:
        temperature: Temperature of the cosines, above 0; 0.02 to 0.1 is usual.

    Usual weight: 0.1 to 1.

    Source:
        Fang et al. 2021, "SEED: Self-supervised Distillation for Visual Representation",
        arXiv:2101.04731, equation 4, there with a queue; Yang et al. 2023, "CLIP-KD",
        arXiv:2307.12732, contrastive relational distillation.

    Differs from the paper:
        The other samples of the batch take the place of a queue, the sample itself left out; one
        temperature for both sides; the KL divergence instead of the cross-entropy, which differs
        by a constant. There is no factor of the temperature squared, as in the papers.
    """

    needs = frozenset({Signal.EMBEDDINGS})
    title = "similarity_kl"
    whole_batch = True

    def __init__(self, temperature: float | int = 0.05) -> None:
        """Keep the temperature."""
        super().__init__()
        self.temperature = cosine_temperature(self.title, temperature)

    def setup(self, dry: DryRun) -> None:
        """Refuse batches of one."""
        check_several(self, dry)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The divergence, in nats; 0 for fewer than two samples."""
        return between_embeddings(self, student, teacher, batch, self._distance, least=2)

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return similarity_kl(student, teacher, self.temperature)


@final
class MarginMSE(Loss):
    """Match the teacher's margins: how much closer one sample is than another.

    Widths may differ, and a constant that is added to all of the teacher's scores changes
    nothing. For retrieval, beside or instead of `embedding_mse`.

    Usual weight: 1.

    Source:
        Hofstätter et al. 2020, "Improving Efficient Neural Ranking Models with Cross-Architecture
        Knowledge Distillation", arXiv:2010.02666, equation 6.

    Differs from the paper:
        Every sample of the batch is a query and every two others are its passages; the teacher's
        scores are inner products of its own vectors rather than those of a cross-encoder.
    """

    needs = frozenset({Signal.EMBEDDINGS})
    title = "margin_mse"
    whole_batch = True

    def setup(self, dry: DryRun) -> None:
        """Refuse batches of one."""
        check_several(self, dry)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The mean over all triples; 0 for fewer than three samples."""
        return between_embeddings(self, student, teacher, batch, margin_distance, least=3)


def cosine_temperature(title: str, temperature: float | int) -> float:
    """A temperature of cosines.

    Raises:
        ConfigError: It is not above 0.
    """
    if not 0 < temperature < math.inf:
        raise ConfigError(
            f"{title}: temperature must be above 0, got {temperature}. Usual values: 0.02 to 0.1."
        )
    return float(temperature)
