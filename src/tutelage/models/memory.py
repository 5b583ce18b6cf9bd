"""Peak memory of a network's forward pass."""

import weakref
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tutelage.errors import ModelError
from tutelage.models.cost import frozen_copy


def count_memory_bytes(model: nn.Module, example: Shaped[Tensor, "batch ..."]) -> int:
    """Peak bytes of weights and live tensors in a forward pass on one sample.

    What a runtime needs at least, its own code not counted; PyTorch's order of operations, with
    each tensor freed after its last use.

    Args:
        model: Left as it is.
        example: A batch as the network takes it; its first sample is used.

    Raises:
        ModelError: The network cannot be copied, or its forward fails.
    """
    network = frozen_copy(model)
    weights = count_weight_bytes(network)
    sample = example[:1].cpu().clone()
    watch = _LiveBytes()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), watch:
            network(sample)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__}: forward fails on one sample of shape "
            f"{tuple(example.shape[1:])} ({type(error).__name__}: {error})."
        ) from error
    return weights + watch.peak + sample.numel() * sample.element_size()


def count_weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers; shared ones count once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class _LiveBytes(TorchDispatchMode):
    """Peak bytes of tensors that are created in the context and still alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self.users: dict[int, int] = {}
        self.live = 0

    def __torch_dispatch__(
        self,
        operation: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        given = operation(*args, **(kwargs or {}))
        taken = {_place(leaf) for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(given):
            if isinstance(leaf, Tensor):
                self._note(leaf, is_new=_place(leaf) not in taken)
        return given

    def _note(self, tensor: Tensor, *, is_new: bool) -> None:
        place, size = _place(tensor), tensor.untyped_storage().nbytes()
        if place not in self.users:
            if not is_new:  # a view of a weight or of the input
                return
            self.users[place] = 0
            self.live += size
            self.peak = max(self.peak, self.live)
        self.users[place] += 1
        weakref.finalize(tensor, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self.users[place] -= 1
        if not self.users[place]:
            del self.users[place]
            self.live -= size


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
