"""A moving average of a network's weights during training."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tutelage.models.copies import copied


class Average(nn.Module):
    """An exponential moving average of weights and of statistics such as batch norm's.

    What counts or names something is no quantity to average: whole numbers and truth values are
    copied, and so are buffers that hold an infinity, as masks of attention do.

    Args:
        network: Whose average it is; it is copied.
        decay: Share of the average that an update keeps, between 0 and 1.

    Attributes:
        module: The network with averaged weights.
        n_averaged: Updates so far.
    """

    n_averaged: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Begin with the network's initial weights, which the first update replaces."""
        super().__init__()
        self.module = copied(network)
        self.register_buffer("n_averaged", torch.tensor(0, dtype=torch.long))
        self._fade = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Average in the current weights; the first update copies them."""
        is_first = bool(self.n_averaged == 0)
        groups: defaultdict[torch.dtype, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for own, now in _pairs(self.module.named_parameters(), network.named_parameters()):
            groups[own.dtype].append((own, now))
        buffers = _pairs(self.module.named_buffers(), network.named_buffers())
        for own, now in buffers:
            groups[own.dtype].append((own, now))
        for dtype, pairs in groups.items():
            averages, values = map(list, zip(*pairs, strict=True))
            if is_first or not (dtype.is_floating_point or dtype.is_complex):
                for own, now in pairs:  # one by one: pieces have no rule for a copy of many
                    own.copy_(now)
            else:
                self._fade(averages, values, self.n_averaged)
        for own, now in buffers:  # between two infinities lies no number
            own.copy_(torch.where(own.isfinite(), own, now))
        self.n_averaged += 1


def _pairs(
    own: Iterable[tuple[str, Tensor]], other: Iterable[tuple[str, Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """Tensors with the same name and shape; a network may replace some at run time."""
    found = dict(other)
    pairs = ((value, found.get(name)) for name, value in own)
    return [
        (value.detach(), now.detach())
        for value, now in pairs
        if now is not None and now.shape == value.shape
    ]
