"""Embeddings: one vector per sample, evaluated by its similarity structure to the teacher's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from tutelage.embedding_metrics import (
    jackknife_values,
    pair_correlation,
    rank_correlations,
    shared_neighbours,
)
from tutelage.errors import ShapeError
from tutelage.losses import EmbeddingCosine, SimCSE
from tutelage.models.calling import call_checked
from tutelage.models.taps import tapped
from tutelage.objective import Loss
from tutelage.records import Evaluation, Metric
from tutelage.tasks.base import Predictions, Task
from tutelage.types import Batch, Outputs, Signal

DROPOUT = 0.1
SAME_WAY = 0.99
RANK_CORRELATION = Metric(
    name="rank_correlation",
    title="rank correlation",
    is_share=True,
    is_higher_better=True,
    unit="points of rank correlation",
    meaning="Spearman's correlation of a sample's cosines with all others, in the network's "
    "vectors and in the teacher's; mean over samples.",
    task_loss="Mean squared difference from the teacher's of the cosines of all pairs",
    reach=2.0,
)


@dataclass(frozen=True, slots=True)
class Embedding(Task):
    """How a network with one vector per sample is run and evaluated.

    The ground truth is the teacher's own word: its vectors are the labels of validation and test
    data (`teachers/reference.py`).

    Attributes:
        num_classes: Width of the teacher's vectors; a student's may be narrower.
    """

    num_classes: int
    gives: ClassVar[Signal] = Signal.EMBEDDINGS
    distillation: ClassVar[type[Loss]] = EmbeddingCosine

    @property
    def width(self) -> int:
        """Width of the teacher's vectors."""
        return self.num_classes

    @property
    def metric(self) -> Metric:
        """The rank correlation of cosines."""
        return RANK_CORRELATION

    @property
    def metrics(self) -> list[Metric]:
        """The rank correlation of cosines."""
        return [RANK_CORRELATION]

    def run(self, model: nn.Module, batch: Batch, layers: Sequence[str] = ()) -> Outputs:
        """Call a network on a batch.

        Args:
            model: The network.
            batch: Its inputs.
            layers: Parts whose features are wanted too.

        Raises:
            ModelError: Its forward failed, or a layer cannot be read.
            ShapeError: It did not give one vector a sample.
        """
        with tapped(model, layers) as features:
            given = call_checked(model, batch.inputs)
        if given.ndim != 2 or len(given) != len(batch):
            raise ShapeError(
                f"{type(model).__name__} returned shape {tuple(given.shape)} for {len(batch)} "
                "samples; one vector a sample is needed. Pool its tokens or maps at its end."
            )
        return Outputs(given, features)

    def task_loss(self) -> SimCSE:
        """The loss without a teacher; during it, dropout has the paper's probability."""
        return SimCSE(dropout=DROPOUT)

    def validate(self, said: Predictions) -> tuple[float, float]:
        """The rank correlation, and the mean squared difference of cosines."""
        ours, theirs = (F.normalize(side[:1024], dim=1) for side in _sides(said))
        return float(rank_correlations(*_sides(said)).mean()), float(
            F.mse_loss(ours @ ours.T, theirs @ theirs.T)
        )

    def chance(self, labels: Shaped[Tensor, "items ..."]) -> float:  # noqa: ARG002 - as for any
        """Rank correlation of vectors that are unrelated to the teacher's."""
        return 0.0

    def scores(self, said: Predictions) -> Float[Tensor, " samples"]:
        """Contribution of each sample to the mean rank correlation, also as a neighbour."""
        return jackknife_values(*_sides(said))

    def evaluate(self, said: Predictions, teacher: Predictions | None = None) -> Evaluation:
        """Rank correlations, shared neighbours, and the cosine with the teacher's vector."""
        ours, labels = _sides(said)
        theirs = labels if teacher is None else teacher.outputs.embeddings
        others = {
            RANK_CORRELATION.name: float(rank_correlations(ours, labels).mean()),
            "pair_correlation": pair_correlation(ours, theirs),
            "shared_neighbours": shared_neighbours(ours, theirs),
        }
        if ours.shape == theirs.shape:
            others["cosine"] = float(F.cosine_similarity(ours, theirs, dim=1).mean())
        return Evaluation.of(len(ours), others)

    def agreement(
        self, expected: Float[Tensor, "items width"], given: Float[Tensor, "items width"]
    ) -> float:
        """Share of samples whose two vectors almost coincide in direction (cosine of 0.99)."""
        return float((F.cosine_similarity(given, expected, dim=1) > SAME_WAY).double().mean())


def _sides(said: Predictions) -> tuple[Tensor, Tensor]:
    return said.outputs.embeddings, said.labels
