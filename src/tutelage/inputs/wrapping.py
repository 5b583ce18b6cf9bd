"""Networks as they are exported: one tensor of scores, and what was outside taken inside."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from tutelage.inputs.base import Norm
from tutelage.models.calling import call, own_copies


class NormalizedNetwork(nn.Module):
    """A network with its normalisation: takes inputs as a device has them, bytes as 0..1.

    Args:
        model: The network.
        norm: Mean and standard deviation of each channel.
        num_axes: Axes of its inputs, samples and channels among them.
    """

    def __init__(self, model: nn.Module, norm: Norm, num_axes: int) -> None:
        """Hold the normalisation as buffers."""
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.model = model
        shape = (-1, *(1,) * (num_axes - 2))
        self.register_buffer("mean", torch.tensor(norm[0]).view(shape))
        self.register_buffer("std", torch.tensor(norm[1]).view(shape))

    def forward(self, inputs: Float[Tensor, "batch channels ..."]) -> Tensor:
        """Logits."""
        return call(self.model, (inputs - self.mean) / self.std)


class LogitsNetwork(nn.Module):
    """A network that gives its logits alone, where its own forward gives them among others.

    Args:
        model: Gives `logits` as an attribute or by that key.
    """

    def __init__(self, model: nn.Module) -> None:
        """Hold the network."""
        super().__init__()
        self.model = model

    def forward(self, inputs: Shaped[Tensor, "batch ..."]) -> Tensor:
        """Logits."""
        return call(self.model, inputs)


def with_norm(model: nn.Module, norm: Norm | None, inputs: Tensor) -> nn.Module:
    """A network of one tensor as it is exported.

    Args:
        model: The network.
        norm: Mean and standard deviation of each channel; None where inputs are taken as they are.
        inputs: Samples as the file will take them.
    """
    if norm is not None:
        return NormalizedNetwork(model, norm, inputs.ndim)
    return model if _gives_a_tensor(model.cpu().eval(), inputs) else LogitsNetwork(model)


@torch.no_grad()
def _gives_a_tensor(model: nn.Module, inputs: Tensor) -> bool:
    return isinstance(model(own_copies(inputs)), Tensor)
