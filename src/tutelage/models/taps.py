"""Reading a network's layers while it runs, without changing it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from tutelage.errors import ModelError, find

INPUT = ":input"


def find_layer(model: nn.Module, layer: str) -> nn.Module:
    """The submodule that a layer's name refers to.

    Args:
        model: The network.
        layer: A module path such as `layer3` or `blocks.2`; with `:input` behind it, what the
            part is called with rather than what it gives.

    Raises:
        UnknownNameError: There is no such part.
    """
    parts = dict(model.named_modules())
    del parts[""]
    found: nn.Module = find(f"layer of {type(model).__name__}", layer.removesuffix(INPUT), parts)
    return found


@contextmanager
def tapped(model: nn.Module, layers: Sequence[str]) -> Iterator[Mapping[str, Tensor]]:
    """Read layers in the forward calls within the context.

    Args:
        model: The network; it is left as it was.
        layers: Module paths, each with `:input` behind it if its input is meant.

    Yields:
        Features by layer, there after a forward; of several calls of a part the last one counts,
        and of several tensors the first one.

    Raises:
        UnknownNameError: There is no such part.
        ModelError: A part gives no tensor, was not called, or its features were overwritten in
            place by a later part.
    """
    parts = {layer: find_layer(model, layer) for layer in layers}
    taps = [_Tap(part, layer) for layer, part in parts.items()]
    features: dict[str, Tensor] = {}
    try:
        yield features
        features.update({tap.layer: tap.read() for tap in taps})
    finally:
        for tap in taps:
            tap.handle.remove()


class _Tap:
    """A layer that is read."""

    def __init__(self, part: nn.Module, layer: str) -> None:
        self.layer = layer
        self.kept: object = None
        self.version = 0
        if layer.endswith(INPUT):
            self.handle = part.register_forward_pre_hook(
                lambda _, args, named: self._keep(next(iter([*args, *named.values()]), None)),
                with_kwargs=True,
            )
        else:
            self.handle = part.register_forward_hook(lambda _, __, given: self._keep(given))

    def _keep(self, value: object) -> None:
        self.kept = _first_tensor(value)
        self.version = _version(self.kept)

    def read(self) -> Tensor:
        """The features, checked to be unchanged since the layer returned them."""
        if self.kept is None:
            raise ModelError(
                f"Layer {self.layer!r} was not called in the forward pass. Name one that is."
            )
        if not isinstance(self.kept, Tensor):
            raise ModelError(
                f"Layer {self.layer!r} gives a {type(self.kept).__name__}, not a tensor. Name a "
                "part inside it that gives one."
            )
        if _version(self.kept) != self.version:
            raise ModelError(
                f"Layer {self.layer!r}: a later part overwrites its features in place (a ReLU with "
                "inplace=True?). Name that later part, or set its inplace to False."
            )
        return self.kept


def _first_tensor(value: object) -> object:
    """The first tensor of a tuple or of a library's output object; other values unchanged."""
    inside = tuple(value.values()) if isinstance(value, Mapping) else value
    if not isinstance(inside, tuple):
        return value
    return next((part for part in inside if isinstance(part, Tensor)), value)


def _version(value: object) -> int:
    """How often a tensor was written to; 0 if that is not counted."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0
