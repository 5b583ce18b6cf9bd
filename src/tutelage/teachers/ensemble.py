"""Several networks as one: the mean of what they hold likely."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.errors import ConfigError
from tutelage.losses.divergences import log_soften
from tutelage.models.calling import call, own_copies


class Ensemble(nn.Module):
    """Networks whose probabilities are averaged; the logarithms of the means are its logits.

    Args:
        members: Networks that give logits of the same classes.
        weights: One a member, above 0; they are made to sum to 1. None weighs all alike.

    Raises:
        ConfigError: There is no member, or the weights do not fit.

    Source:
        The arithmetic mean: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2 ("the
        arithmetic or geometric mean of their individual predictive distributions").
    """

    def __init__(
        self, members: Sequence[nn.Module], weights: Sequence[float | int] | None = None
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

    def extra_repr(self) -> str:
        """The weights, so that a fingerprint tells them."""
        return f"log_weights={self.log_weights}"

    def forward(self, *inputs: Tensor, **named: Tensor) -> Float[Tensor, "batch classes"]:
        """Logarithm of the mean probability of each class."""
        weighted = [
            log_soften(call(member, own_copies(inputs[0] if inputs else named))) + log_weight
            for member, log_weight in zip(self.members, self.log_weights, strict=True)
        ]
        return torch.logsumexp(torch.stack(weighted), dim=0)
