"""Simulated int8: a network that computes in floats as its int8 file will, with gradients."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tutelage.errors import ModelError
from tutelage.models.copies import copied

WEIGHT_STEPS = 64  # each side: seven bits, as ONNX files have them (docs/decisions/0009)
ACTIVATION_STEPS = 255
SMALLEST = 1e-8
MEMORY = 0.95  # of a range, from batch to batch
DYNAMIC = "dynamic"

_WITH_WEIGHT = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class WeightGrid(nn.Module):
    """Weights rounded to steps per output channel, with straight-through gradients.

    A batch norm that is folded into a convolution later scales each output channel as a whole, and
    its steps with it: the rounding here is the rounding of the folded weights.

    Args:
        steps: From 0 to the largest weight of a channel, as the file will have them.
    """

    def __init__(self, steps: int = WEIGHT_STEPS) -> None:
        """Store the number of steps."""
        super().__init__()
        self.steps = steps

    def forward(self, weight: Float[Tensor, "out *rest"]) -> Float[Tensor, "out *rest"]:
        """The rounded weights."""
        largest = weight.detach().flatten(1).abs().amax(dim=1)
        return torch.fake_quantize_per_channel_affine(
            weight,
            largest.clamp(min=SMALLEST) / self.steps,
            torch.zeros(len(weight), dtype=torch.int32, device=weight.device),
            0,
            -self.steps,
            self.steps,
        )


class Range(nn.Module):
    """Activations rounded to 256 steps over the range seen in training.

    Args:
        is_dynamic: Take each call's own range, as a dynamic file does.
    """

    def __init__(self, *, is_dynamic: bool) -> None:
        """Start without a range; nothing is rounded until training has set one."""
        super().__init__()
        self.low: Tensor
        self.high: Tensor
        self.is_dynamic = is_dynamic
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, activations: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The rounded activations."""
        low, high = self._ends(activations.detach().float())
        if not bool(high > low):
            return activations
        scale = (high - low) / ACTIVATION_STEPS
        zero = (-low / scale).round().to(torch.int32)
        rounded = torch.fake_quantize_per_tensor_affine(
            activations.float(), scale, zero, 0, ACTIVATION_STEPS
        )
        return rounded.to(activations.dtype)

    def _ends(self, values: Tensor) -> tuple[Tensor, Tensor]:
        low, high = values.min().clamp(max=0), values.max().clamp(min=0)
        if self.is_dynamic:
            return low, high
        if self.training:
            share = MEMORY if bool(self.high > self.low) else 0.0
            self.low.lerp_(low, 1 - share)
            self.high.lerp_(high, 1 - share)
        return self.low, self.high


def simulate_int8(network: nn.Module, scheme: str, steps: int = WEIGHT_STEPS) -> nn.Module:
    """A copy whose linear and convolutional layers simulate int8, ready for training.

    Its parts keep their names, so that losses find its layers; `settled` takes the simulation out.

    Args:
        network: A student; it is not changed.
        scheme: How activations will be scaled: "dynamic", or a static way.
        steps: Steps of weights, as in `WeightGrid`.

    Raises:
        ModelError: It has no such layer.
    """
    network = copied(network)
    weighted = [(module, "weight") for module in network.modules() if _is_weighted(module)]
    if not weighted:
        raise ModelError(
            f"{type(network).__name__}: it has no linear or convolutional layer to fine-tune for "
            "int8. Leave export.finetune out."
        )
    for module, _ in weighted:
        module.input_range = Range(is_dynamic=scheme == DYNAMIC)
        module.register_forward_pre_hook(_round_input)
    weighted += [(m, "in_proj_weight") for m in network.modules() if _has_joint_weight(m)]
    for module, name in weighted:
        parametrize.register_parametrization(module, name, WeightGrid(steps))
    return network


@torch.no_grad()
def remove_fake_quant(network: nn.Module, like: nn.Module) -> nn.Module:
    """A simulated network as a plain one, with its weights on the int8 grid.

    Args:
        network: From `simulate_int8`, trained; it is not changed.
        like: The plain network that it was made from, for its structure.
    """
    state = {}
    for name, value in network.state_dict().items():
        path, found, rest = name.rpartition("parametrizations.")
        if found:
            (grid,) = network.get_submodule(name.removesuffix(".original")).children()
            state[path + rest.removesuffix(".original")] = grid(value)
        else:
            state[name] = value
    plain = copied(like)
    own = plain.state_dict()
    plain.load_state_dict({name: value for name, value in state.items() if name in own})
    return plain.eval()


def _round_input(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (module.input_range(inputs[0]), *inputs[1:])


def _is_weighted(module: nn.Module) -> bool:
    return isinstance(module, _WITH_WEIGHT)


def _has_joint_weight(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None
