"""Copies of networks, and their state as tensors, for any network."""

import copy
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from tutelage.errors import ModelError, one_line

EXTRA = "_extra_state"  # what PyTorch calls what `get_extra_state` gives


def copied(network: nn.Module) -> nn.Module:
    """A copy of a network that shares no memory with it.

    Activations that it stores, as old `weight_norm` stores a weight, are copied without their
    graph, which belongs to a forward pass that is over.

    Raises:
        ModelError: It cannot be copied, or its lazy layers are not made yet.
    """
    check_is_made(network)
    try:
        with torch.no_grad(), _WithoutGraphs():
            twin = copy.deepcopy(network)
    except Exception as error:  # the network is the user's own: anything can happen
        raise ModelError(
            f"{type(network).__name__}: the network cannot be copied ({type(error).__name__}: "
            f"{one_line(error)}). Its attributes must survive copy.deepcopy: keep no open files, "
            "locks or generators in it."
        ) from error
    for own, other in zip(twin.parameters(), network.parameters(), strict=True):
        own.requires_grad_(other.requires_grad)  # scripted networks lose it
    return twin


class _WithoutGraphs(TorchFunctionMode):
    """Lets `copy.deepcopy` copy tensors that a forward pass produced."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Copy such a tensor by value, everything else as PyTorch does."""
        if func is not Tensor.__deepcopy__ or args[0].is_leaf:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        return memo.setdefault(id(tensor), tensor.detach().clone())


def check_is_made(network: nn.Module) -> None:
    """Refuse lazy layers that have no weights yet.

    Raises:
        ModelError: A weight's shape is not known; the message names its layer.
    """
    held = [*network.named_parameters(), *network.named_buffers()]
    for name, tensor in held:
        if is_lazy(tensor):
            raise ModelError(
                f"{type(network).__name__}: the lazy layer {name.rpartition('.')[0]!r} has no "
                "weights yet. Call the network once on a batch of your data, which makes them, or "
                "use the layer that is not lazy."
            )


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """A network's state dict as tensors alone; extra state becomes the bytes of its JSON.

    Raises:
        ModelError: Its extra state is no plain data.
    """
    state: Mapping[str, Any] = network.state_dict()
    return {
        name: value if isinstance(value, Tensor) else _bytes(network, name, value)
        for name, value in state.items()
    }


def load_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the state of `state_of` into a network; every name must match."""
    network.load_state_dict(as_it_was(network, state))


def as_it_was(network: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """A state of `state_of`, with extra state in the network's own form."""
    extra = {name for name, value in network.state_dict().items() if not isinstance(value, Tensor)}
    return {
        name: json.loads(bytes(value.tolist()))
        if name in extra and isinstance(value, Tensor)
        else value
        for name, value in state.items()
    }


def _bytes(network: nn.Module, name: str, value: object) -> Tensor:
    try:
        text = json.dumps(value, sort_keys=True)
        is_kept = json.loads(text) == value
    except (TypeError, ValueError):
        is_kept = False
    if not is_kept:
        raise ModelError(
            f"{type(network).__name__}: the extra state {name!r} is a {type(value).__name__} that "
            "no checkpoint can hold. Let get_extra_state give a tensor, or plain data: numbers, "
            "strings, lists, and dicts with strings as keys."
        )
    return torch.tensor(list(text.encode()), dtype=torch.uint8)
