"""Sharded networks, one shard per process, for trainings too large for one device (FSDP).

PyTorch's part is imported when something is cut: it would add a fifth to the start of each command.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

UNIT = 1_000_000


def shard(root: nn.Module, network: nn.Module) -> None:
    """Shard the parameters of a network among processes, in place; names stay the same.

    Layers of a list or a sequence that hold `UNIT` parameters or more are put together one after
    another while they work; what is left is together from the root's call to the backward's end.

    Args:
        root: What is called; it holds the network, and its other parameters are cut too.
        network: Its layers are found by their containers.
    """
    from torch.distributed.fsdp import fully_shard

    for layer in _layers(network):
        fully_shard(layer)
    fully_shard(root)


def is_sharded(module: nn.Module) -> bool:
    """Whether a module's parameters are sharded."""
    return isinstance(module, _known("torch.distributed.fsdp", "FSDPModule"))


def is_shard(tensor: object) -> bool:
    """Whether this is one process's shard of a tensor."""
    return isinstance(tensor, _known("torch.distributed.tensor", "DTensor"))


def set_requires_gradient_sync(module: Any, *, now: bool) -> None:
    """Set whether the next backward of a sharded module sums gradients over processes."""
    if is_sharded(module):
        module.set_requires_gradient_sync(now)


def full(tensor: Any) -> Shaped[Tensor, "..."]:
    """The full tensor from all shards (every process must call this); a full one is unchanged."""
    together: Tensor = tensor.full_tensor() if is_shard(tensor) else tensor
    return together


def local(tensor: Any) -> Shaped[Tensor, "..."]:
    """This process's shard of a tensor."""
    own: Tensor = tensor.to_local() if is_shard(tensor) else tensor
    return own


def sharded_like(tensor: Shaped[Tensor, "..."], like: Any) -> Shaped[Tensor, "..."]:
    """A full tensor that every process has, sharded like another one of its shape."""
    if not is_shard(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    placed = tensor.to(like.device)
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None)


def load_full(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Load full tensors into a module, sharded or not."""
    own = module.state_dict()
    module.load_state_dict(
        {
            name: sharded_like(value, own[name]) if is_shard(own.get(name)) else value
            for name, value in state.items()
        }
    )


@torch.no_grad()
def gather(network: nn.Module, into: nn.Module) -> nn.Module:
    """Fill an unsharded network with another's weights; every process must call this."""
    own = into.state_dict()
    for name, value in network.state_dict().items():
        if isinstance(value, Tensor):
            own[name].copy_(full(value))
    return into


def _layers(network: nn.Module) -> Iterator[nn.Module]:
    """The outermost large members of containers."""
    for child in network.children():
        is_container = isinstance(network, nn.ModuleList | nn.Sequential)
        if is_container and sum(weight.numel() for weight in child.parameters()) >= UNIT:
            yield child
        else:
            yield from _layers(child)


def _known(module: str, name: str) -> Any:
    """A class of an imported module; otherwise one without instances."""
    return getattr(sys.modules.get(module), name, ())
