"""Several networks as one, by the mean of their probabilities."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.errors import ConfigError
from tutelage.losses.divergences import log_mean_probabilities
from tutelage.models.calling import call, own_copies


class Ensemble(nn.Module):
    """Networks that predict together: for classes by the mean of their probabilities.

    Args:
        members: Networks that give scores of one kind.
        weights: One a member, above 0; they are made to sum to 1. None weighs all alike.
        mean_of: Makes one network's scores of all of theirs, given the logarithms of the weights
            (`Task.mean_of`); of logits those of the mean probabilities if not given.

    Raises:
        ConfigError: There is no member, or the weights do not fit.

    Source:
        The arithmetic mean: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2 ("the
        arithmetic or geometric mean of their individual predictive distributions").
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        weights: Sequence[float | int] | None = None,
        mean_of: Callable[[Tensor, Tensor], Tensor] = log_mean_probabilities,
    ) -> None:
        """Hold the members and the logarithms of their weights."""
        super().__init__()
        chosen = [1.0] * len(members) if weights is None else list(weights)
        if not members or len(chosen) != len(members) or min(chosen) <= 0:
            raise ConfigError(
                f"ensemble: {len(members)} networks with the weights {chosen}. Give at least one "
                "network, and one weight above 0 for each."
            )
        if not 0 < min(chosen) / sum(chosen) <= 1:
            raise ConfigError(
                f"ensemble: the weights {chosen} are too far apart, or too large, to be compared."
            )
        self.members = nn.ModuleList(members)
        self.log_weights = [math.log(weight / sum(chosen)) for weight in chosen]
        self.mean_of = mean_of

    def extra_repr(self) -> str:
        """The weights, for the fingerprint."""
        return f"log_weights={self.log_weights}"

    def forward(self, *inputs: Tensor, **named: Tensor) -> Float[Tensor, "batch classes"]:
        """Combined scores of all members."""
        given = inputs[0] if inputs else named
        scores = torch.stack([_precise(call(member, own_copies(given))) for member in self.members])
        return self.mean_of(scores, torch.tensor(self.log_weights, device=scores.device))


def _precise(scores: Tensor) -> Tensor:
    return scores if scores.dtype == torch.float64 else scores.float()
