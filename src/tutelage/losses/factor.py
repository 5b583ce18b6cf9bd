"""Factor transfer: teacher and student are compared in a compressed form."""

from typing import final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.errors import ConfigError
from tutelage.losses.adapters import Adapter
from tutelage.losses.features import (
    Features,
    LayerLoss,
    built,
    dry_features,
    of_one_kind,
    over_counted,
    width_of,
)
from tutelage.losses.lengths import unit
from tutelage.objective import DryRun
from tutelage.types import Batch, Outputs, Signal


def factor_distance(
    student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]
) -> Float[Tensor, ""]:
    """Mean absolute difference of two factors, each sample's at unit length."""
    ours = unit(student.flatten(start_dim=1), dim=1)
    theirs = unit(teacher.flatten(start_dim=1), dim=1)
    return F.l1_loss(ours, theirs)


class _Paraphraser(nn.Module):
    """Compresses the teacher's features so that they can be restored."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.compress = Adapter(width, factor)
        self.restore = Adapter(factor, width)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """The factor, and the error of the features reconstructed from it."""
        factor = self.compress(feature)
        return factor, F.mse_loss(self.restore(factor), feature)


@final
class FactorTransfer(LayerLoss):
    """The student, through a translator, learns the teacher's features in compressed form.

    A paraphraser learns to compress the teacher's features so that they can be restored, and a
    translator learns to give the same factors from the student's.

    Args:
        student_layer: Gives maps, tokens or vectors; usually the last map.
        teacher_layer: Gives the same kind; None takes the student's name.
        rate: Width of the factors by the teacher's width, above 0; 0.5 in the paper.

    Usual weight: 200 to 500.

    Source:
        Kim et al. 2018, "Paraphrasing Complex Network: Network Compression via Factor Transfer",
        arXiv:1802.04977, equations 1 to 3.

    Differs from the paper:
        The paper trains the paraphraser for 30 epochs first; here it learns along with the
        student, and its restoring error is added to the loss (no gradient of the transfer
        reaches it). Paraphraser and translator are linear at each place instead of three
        convolutions. The absolute difference is a mean over elements, as in the authors' code.
    """

    needs = frozenset({Signal.FEATURES})
    title = "factor_transfer"

    def __init__(
        self, student_layer: str, teacher_layer: str | None = None, rate: float | int = 0.5
    ) -> None:
        """Keep the settings."""
        super().__init__(student_layer, teacher_layer)
        if not 0 < rate <= 4:
            raise ConfigError(f"factor_transfer: rate must be above 0, at most 4, got {rate}.")
        self.rate = float(rate)
        self.paraphraser: nn.Module | None = None
        self.translator: nn.Module | None = None

    def setup(self, dry: DryRun) -> None:
        """Build both."""
        (ours,), (theirs,) = dry_features(self, dry)
        factor = max(1, round(self.rate * width_of(theirs)))
        self.paraphraser = _Paraphraser(width_of(theirs), factor)
        self.translator = Adapter(width_of(ours), factor)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The distance of the factors, and the paraphraser's reconstruction error."""
        return over_counted(self, student, teacher, batch, self._distance)

    def _distance(self, student: Features, teacher: Features) -> Tensor:
        ours, theirs = of_one_kind(student[0], teacher[0], self.title)
        wanted, restoring = built(self.paraphraser, self.title)(theirs)
        given = built(self.translator, self.title)(ours)
        distance: Tensor = factor_distance(given, wanted.detach()) + restoring
        return distance
