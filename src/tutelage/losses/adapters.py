"""Trained maps from a student's width to the teacher's; never exported."""

from collections.abc import Iterable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Adapter(nn.Module):
    """Changes the width of vectors, of tokens, or of each position of a map.

    Args:
        widths: Widths of the input, of hidden layers (a ReLU after each), of the output.
        bias: Whether the layers have one.
    """

    def __init__(self, *widths: int, bias: bool = True) -> None:
        """Build the layers."""
        super().__init__()
        pairs = pairwise(widths)
        self.layers = nn.ModuleList(nn.Linear(before, after, bias=bias) for before, after in pairs)

    def forward(self, feature: Float[Tensor, "batch *sizes"]) -> Float[Tensor, "batch *others"]:
        """The same with another width."""
        is_map = feature.ndim == 4
        hidden = feature.movedim(1, -1) if is_map else feature
        for number, layer in enumerate(self.layers):
            hidden = layer(torch.relu(hidden) if number else hidden)
        return hidden.movedim(-1, 1) if is_map else hidden


class Head(nn.Module):
    """A small classifier on a layer's features: adapter, ReLU, pooling, one linear layer.

    Args:
        width: Width of the features.
        num_classes: Number of the logits.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        """Build the layers."""
        super().__init__()
        self.adapter = Adapter(width, width)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, feature: Float[Tensor, "batch *sizes"]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        hidden = torch.relu(self.adapter(feature))
        if hidden.ndim == 4:
            hidden = hidden.flatten(start_dim=2).transpose(1, 2)
        logits: Tensor = self.linear(hidden if hidden.ndim == 2 else hidden.mean(dim=1))
        return logits


def adapters(widths: Iterable[tuple[int, int]]) -> nn.ModuleList:
    """One adapter per pair of layers."""
    return nn.ModuleList(Adapter(before, after) for before, after in widths)
