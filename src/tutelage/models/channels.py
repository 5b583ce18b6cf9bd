"""Dependencies between a network's channels, traced in one forward pass.

Every channel that a layer gives gets a number of its own. Where two tensors are added, their
channels are made one; where an operation is not understood, its channels must stay. What is left
are groups of channels that can be taken out of every weight, one group without the others.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Channels = tuple[int, ...]

PASSED_ON = {
    "relu", "relu_", "hardtanh", "hardtanh_", "hardswish", "hardswish_", "hardsigmoid",
    "hardsigmoid_", "sigmoid", "sigmoid_", "silu", "silu_", "gelu", "tanh", "leaky_relu",
    "leaky_relu_", "elu", "elu_", "clamp", "clamp_", "clone", "alias", "detach", "_to_copy",
    "native_dropout", "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d",
    "adaptive_max_pool2d", "upsample_nearest2d", "upsample_bilinear2d", "neg",
}  # fmt: skip
ELEMENTWISE = {"add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "maximum", "minimum"}


@dataclass(frozen=True, slots=True)
class Axis:
    """A tensor's channel dimension, and the numbers of its channels."""

    dim: int
    channels: Channels


@dataclass(slots=True)
class ChannelMap:
    """Result of tracing a forward pass.

    Attributes:
        weights: Weights of each parameter and buffer, by name: the numbers along each of its
            dimensions.
        producers: The channels of each layer that gives new ones, in the order of the call.
    """

    weights: dict[str, dict[int, Channels]] = field(default_factory=dict)
    producers: list[Channels] = field(default_factory=list)
    _parent: list[int] = field(default_factory=list)
    _fixed: set[int] = field(default_factory=set)

    def new(self, count: int, *, fixed: bool = False) -> Channels:
        """New channel numbers."""
        first = len(self._parent)
        numbers = tuple(range(first, first + count))
        self._parent.extend(numbers)
        if fixed:
            self.fix(numbers)
        return numbers

    def root(self, channel: int) -> int:
        """Representative of all channels that are identified with this one."""
        while self._parent[channel] != channel:
            self._parent[channel] = self._parent[self._parent[channel]]
            channel = self._parent[channel]
        return channel

    def unite(self, first: Channels, second: Channels) -> None:
        """Identify two rows of channels, element by element."""
        if len(first) != len(second):
            self.fix((*first, *second))
            return
        for one, other in zip(first, second, strict=True):
            self._parent[self.root(one)] = self.root(other)

    def fix(self, channels: Iterable[int]) -> None:
        """Mark channels that cannot be removed."""
        self._fixed.update(channels)

    def note(self, name: str | None, dim: int, channels: Channels) -> None:
        """Record the channels of a weight's dimension; uses of a shared weight are identified."""
        if name is None:
            self.fix(channels)
            return
        known = self.weights.setdefault(name, {})
        if dim in known:
            self.unite(known[dim], channels)
        else:
            known[dim] = channels

    def groups(self) -> list[list[int]]:
        """Groups of removable channels, with all layers that share them."""
        layers = list(range(len(self.producers)))
        owner: dict[int, int] = {}
        for number, channels in enumerate(self.producers):
            for root in map(self.root, channels):
                other = owner.setdefault(root, number)
                mine = layers[number]
                layers = [layers[other] if kept == mine else kept for kept in layers]
        fixed = {self.root(channel) for channel in self._fixed}
        rows: dict[int, dict[int, None]] = {}
        for number, channels in enumerate(self.producers):
            row = rows.setdefault(layers[number], {})
            row.update(dict.fromkeys(map(self.root, channels)))
        return [list(row) for row in rows.values() if not fixed & row.keys()]


@torch.no_grad()
def map_channels(model: nn.Module, example: Shaped[Tensor, "batch ..."]) -> ChannelMap:
    """Trace a network's forward pass.

    Args:
        model: In eval mode; it is left as it is.
        example: Two samples or more, channels behind the first dimension.
    """
    watch = _Watch(model, example)
    with watch:
        outputs = model(example)
    for tensor in tree_leaves(outputs):
        watch.fix(tensor)
    return watch.map


class _Watch(TorchDispatchMode):
    """Follows channels from operation to operation."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.map = ChannelMap()
        named = [*model.named_parameters(), *model.named_buffers()]
        self.names = {id(tensor): name for name, tensor in named}
        self.axes: dict[int, Axis] = {}
        self.turned: dict[int, str] = {}  # transposed weights
        self.alive: list[Tensor] = []  # an id stands for a tensor only as long as it lives
        self.axes[id(example)] = Axis(1, self.map.new(example.shape[1], fixed=True))

    def __torch_dispatch__(
        self,
        operation: Any,
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = operation(*args, **(kwargs or {}))
        self.alive += [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
        name = operation._schema.name.removeprefix("aten::")
        output = given[0] if isinstance(given, tuple | list) and given else given
        if isinstance(output, Tensor):
            axis = self._follow(name, args, kwargs or {}, output)
            if axis is not None and axis.dim < output.ndim:
                self.axes[id(output)] = axis
        return given

    def fix(self, *values: Any) -> None:
        """Mark the channels of these tensors as not removable."""
        for tensor in tree_leaves(values):
            if axis := self.axes.get(id(tensor)):
                self.map.fix(axis.channels)
            for channels in self.map.weights.get(self.names.get(id(tensor), ""), {}).values():
                self.map.fix(channels)

    def _follow(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor
    ) -> Axis | None:
        if name in PASSED_ON:
            return self.axes.get(id(args[0]))
        if name in ELEMENTWISE:
            return self._elementwise(args[0], args[1])
        handler: Callable[..., Axis | None] | None = getattr(self, f"_on_{name.strip('_')}", None)
        if handler is not None:
            return handler(output, *args, **kwargs)
        self.fix(args, dict(kwargs))
        return None

    def _elementwise(self, first: Any, second: Any) -> Axis | None:
        one, other = self.axes.get(id(first)), self.axes.get(id(second))
        if one and other and first.ndim == second.ndim and one.dim == other.dim:
            if len(one.channels) == len(other.channels):
                self.map.unite(one.channels, other.channels)
                return one
        elif (one is None) != (other is None):
            axis, plain = (one, second) if one else (other, first)
            if not isinstance(plain, Tensor) or plain.numel() == 1:
                return axis
        self.fix(first, second)
        return None

    def _on_convolution(
        self, output: Tensor, inputs: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any
    ) -> Axis | None:
        axis, name, groups = self.axes.get(id(inputs)), self.names.get(id(weight)), rest[-1]
        if name is None or rest[3] or groups not in (1, inputs.shape[1]):
            self.fix(inputs, weight)
            return None
        before = axis.channels if axis else self.map.new(inputs.shape[1], fixed=True)
        if groups == 1:
            channels = self._produced(len(weight))
            self.map.note(name, 1, before)
        else:  # depthwise
            channels = _repeated(before, len(weight) // groups)
        self.map.note(name, 0, channels)
        self._note_vectors(channels, bias)
        return Axis(1, channels)

    def _on_native_batch_norm(self, output: Tensor, inputs: Tensor, *rest: Any) -> Axis | None:
        axis = self.axes.get(id(inputs))
        if axis is not None:
            self._note_vectors(axis.channels, *rest[:4])
        return axis

    def _on_addmm(self, output: Tensor, bias: Tensor, inputs: Tensor, weight: Tensor) -> Axis:
        return self._linear(output, inputs, weight, bias)

    def _on_mm(self, output: Tensor, inputs: Tensor, weight: Tensor) -> Axis:
        return self._linear(output, inputs, weight, None)

    def _linear(self, output: Tensor, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Axis:
        axis, name = self.axes.get(id(inputs)), self.turned.get(id(weight))
        if name is None or (axis is not None and axis.dim != inputs.ndim - 1):
            self.fix(inputs, weight, bias)
            name = None
        before = axis.channels if axis else self.map.new(inputs.shape[-1], fixed=True)
        channels = self._produced(output.shape[-1])
        self.map.note(name, 1, before)
        self.map.note(name, 0, channels)
        if bias is not None:
            self._note_vectors(channels, bias)
        return Axis(output.ndim - 1, channels)

    def _on_t(self, output: Tensor, inputs: Tensor) -> Axis | None:
        if id(inputs) in self.names:
            self.turned[id(output)] = self.names[id(inputs)]
        return self._turned(inputs, [1, 0] if inputs.ndim == 2 else [0])

    def _on_transpose(self, output: Tensor, inputs: Tensor, first: int, second: int) -> Axis | None:
        order = list(range(inputs.ndim))
        order[first], order[second] = order[second], order[first]
        return self._turned(inputs, order)

    def _on_permute(self, output: Tensor, inputs: Tensor, order: Sequence[int]) -> Axis | None:
        return self._turned(inputs, [place % inputs.ndim for place in order])

    def _turned(self, inputs: Tensor, order: Sequence[int]) -> Axis | None:
        axis = self.axes.get(id(inputs))
        return axis and Axis(list(order).index(axis.dim), axis.channels)

    def _on_cat(self, output: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> Axis | None:
        axes = [self.axes.get(id(tensor)) for tensor in tensors]
        known = [axis for axis in axes if axis is not None and axis.dim == dim % output.ndim]
        if len(known) < len(axes):
            self.fix(list(tensors))
            return None
        return Axis(known[0].dim, tuple(c for axis in known for c in axis.channels))

    def _on_mean(
        self, output: Tensor, inputs: Tensor, dims: Sequence[int], keepdim: bool = False, **_: Any
    ) -> Axis | None:
        axis = self.axes.get(id(inputs))
        gone = [dim % inputs.ndim for dim in dims]
        if axis is None or axis.dim in gone:
            self.fix(inputs)
            return None
        moved = 0 if keepdim else sum(dim < axis.dim for dim in gone)
        return Axis(axis.dim - moved, axis.channels)

    def _on_constant_pad_nd(
        self, output: Tensor, inputs: Tensor, pad: Sequence[int], *_: Any
    ) -> Axis | None:
        axis = self.axes.get(id(inputs))
        if axis is not None and inputs.ndim - len(pad) // 2 <= axis.dim:
            self.fix(inputs)
            return None
        return axis

    def _on_view(self, output: Tensor, inputs: Tensor, *_: Any) -> Axis | None:
        return self._reshaped(inputs, output)

    def _on_unsafe_view(self, output: Tensor, inputs: Tensor, *_: Any) -> Axis | None:
        return self._reshaped(inputs, output)

    def _reshaped(self, inputs: Tensor, output: Tensor) -> Axis | None:
        """Channels keep their dimension, or are flattened with all dimensions behind them."""
        axis = self.axes.get(id(inputs))
        if axis is None:
            return None
        before = prod(inputs.shape[: axis.dim])
        for dim, size in enumerate(output.shape):
            if prod(output.shape[:dim]) == before and size % len(axis.channels) == 0 and size:
                times = size // len(axis.channels)
                if prod(inputs.shape[axis.dim + 1 :]) % times == 0:
                    return Axis(dim, _repeated(axis.channels, times))
        self.fix(inputs)
        return None

    def _produced(self, count: int) -> Channels:
        channels = self.map.new(count)
        self.map.producers.append(channels)
        return channels

    def _note_vectors(self, channels: Channels, *vectors: Tensor | None) -> None:
        for vector in vectors:
            if vector is not None:
                self.map.note(self.names.get(id(vector)), 0, channels)


def _repeated(channels: Channels, times: int) -> Channels:
    return tuple(channel for channel in channels for _ in range(times))
