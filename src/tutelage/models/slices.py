"""Narrower and shallower copies of a network, with the most important of its weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from tutelage.errors import ConfigError, ModelError
from tutelage.models.channels import ChannelMap, Channels, map_channels
from tutelage.models.copies import copied

EPSILON = 1e-12
CHANNEL_COUNTS = {
    nn.Conv2d: ("out_channels", "in_channels"),
    nn.Linear: ("out_features", "in_features"),
    nn.modules.batchnorm._BatchNorm: ("num_features",),
}


def slice_network(
    model: nn.Module,
    example: Shaped[Tensor, "batch ..."],
    *,
    width: float = 1.0,
    depth: float = 1.0,
) -> nn.Module:
    """A copy with fewer channels and fewer repeated blocks, with weights of the original.

    Of the channels that layers share, those stay whose incoming and outgoing weights are largest.
    Of blocks that stand in a row and keep the shape of what goes through them, as the layers of a
    transformer and the blocks of a residual network do, an evenly spaced part stays, the first and
    the last among it. Inputs and outputs keep their widths, and so does whatever is computed in a
    way that is not understood.

    Args:
        model: The original, left as it is.
        example: Inputs as it takes them, two samples or more.
        width: Share of each layer's channels to keep, above 0 and at most 1.
        depth: Share of each row of blocks to keep, likewise.

    Returns:
        The copy, in eval mode on the CPU.

    Raises:
        ConfigError: A share is out of range.
        ModelError: Nothing of the network can be sliced so, or its forward needs its old widths.

    Source:
        Li et al. 2016, "Pruning Filters for Efficient ConvNets", arXiv:1608.08710 (norms as
        importance); Sanh et al. 2019, "DistilBERT", arXiv:1910.01108 (layers kept).
    """
    for name, share in (("width", width), ("depth", depth)):
        if not 0 < share <= 1:
            raise ConfigError(f"slice: {name} must be above 0 and at most 1, got {share}.")
    own = copied(model).cpu().eval()
    if depth < 1:
        _drop_blocks(own, example, depth)
    if width < 1:
        _narrow(own, example, width)
    _check_runs(own, example, f"width {width:g}, depth {depth:g}")
    return own


def _check_runs(model: nn.Module, example: Tensor, how: str) -> None:
    try:
        with torch.no_grad():
            model(example)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__}: cannot be sliced to {how} ({type(error).__name__}: {error}). "
            "Its forward needs its own widths; choose another student."
        ) from error


def _drop_blocks(model: nn.Module, example: Tensor, share: float) -> None:
    rows = _rows_of_blocks(model, example)
    if not rows:
        raise ModelError(
            f"{type(model).__name__}: has no row of blocks of one shape, so it cannot be made "
            "shallower. Leave depth at 1 and take a smaller width."
        )
    for container, names in rows:
        count = max(1, round(share * len(names)))
        places = torch.linspace(0, len(names) - 1, count).round().int().tolist()
        kept = {names[place] for place in places}
        left = {n: m for n, m in container._modules.items() if n not in names or n in kept}
        if all(name.isdecimal() for name in container._modules):
            left = {str(place): module for place, module in enumerate(left.values())}
        container._modules = left


def _rows_of_blocks(model: nn.Module, example: Tensor) -> list[tuple[nn.Module, list[str]]]:
    """Runs of two or more blocks of one class whose input and output shapes are equal."""
    containers = [m for m in model.modules() if isinstance(m, nn.Sequential | nn.ModuleList)]
    keeps_shape = _blocks_that_keep_shape(model, example, containers)
    rows: list[tuple[nn.Module, list[str]]] = []
    for container in containers:
        row: list[str] = []
        kind: type[nn.Module] | None = None
        for name, block in container.named_children():
            fits = id(block) in keeps_shape
            if row and not (fits and type(block) is kind):
                rows.append((container, row))
                row = []
            if fits:
                row = [*row, name]
                kind = type(block)
        rows.append((container, row))
    return [(container, names) for container, names in rows if len(names) > 1]


def _blocks_that_keep_shape(
    model: nn.Module, example: Tensor, containers: Sequence[nn.Module]
) -> set[int]:
    found: set[int] = set()

    def look(block: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if given and isinstance(given[0], Tensor) and isinstance(first, Tensor):
            (found.add if given[0].shape == first.shape else found.discard)(id(block))

    blocks = [child for c in containers for child in c.children() if next(child.children(), None)]
    handles = [block.register_forward_hook(look) for block in blocks]
    try:
        _check_runs(model, example, "its own size")
    finally:
        for handle in handles:
            handle.remove()
    return found


def _narrow(model: nn.Module, example: Tensor, share: float) -> None:
    found = map_channels(model, example)
    groups = found.groups()
    if not groups:
        raise ModelError(
            f"{type(model).__name__}: none of its widths can be sliced. Leave width at 1 and take "
            "a smaller depth, or choose another student."
        )
    worth = _importance(model, found)
    gone: set[int] = set()
    for group in groups:
        count = max(1, round(share * len(group)))
        gone.update(sorted(group, key=lambda c: -worth.get(c, 0.0))[count:])
    for name, dims in found.weights.items():
        _take(model, name, {dim: _kept(found, row, gone) for dim, row in dims.items()})


def _kept(found: ChannelMap, channels: Channels, gone: set[int]) -> Tensor:
    return torch.tensor([i for i, c in enumerate(channels) if found.root(c) not in gone])


def _importance(model: nn.Module, found: ChannelMap) -> dict[int, float]:
    """Product of the norms of all weights into and out of a channel, relative to each layer."""
    parameters = dict(model.named_parameters())
    worth: dict[int, float] = {}
    for name, dims in found.weights.items():
        weight = parameters.get(name)
        if weight is None or name.endswith("bias"):
            continue
        for dim, channels in dims.items():
            rows = weight.detach().double().movedim(dim, 0).reshape(len(channels), -1)
            norms = rows.norm(dim=1)
            scaled = (norms / norms.mean().clamp_min(EPSILON)).clamp_min(EPSILON).log().tolist()
            for channel, value in zip(channels, scaled, strict=True):
                root = found.root(channel)
                worth[root] = worth.get(root, 0.0) + value
    return worth


def _take(model: nn.Module, name: str, kept: Mapping[int, Tensor]) -> None:
    """Keep some rows and columns of a weight, and update its layer."""
    path, _, leaf = name.rpartition(".")
    layer = model.get_submodule(path)
    old = getattr(layer, leaf)
    new = old.detach()
    for dim, places in kept.items():
        new = new.index_select(dim, places)
    new = new.clone()
    needed = old.requires_grad
    setattr(layer, leaf, nn.Parameter(new, needed) if isinstance(old, nn.Parameter) else new)
    if leaf != "weight":
        return
    for kind, counts in CHANNEL_COUNTS.items():
        if isinstance(layer, kind):
            for dim, attribute in enumerate(counts):
                setattr(layer, attribute, new.shape[dim])
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        layer.groups = layer.in_channels = new.shape[0] // (layer.out_channels // new.shape[0])


def initialise(model: nn.Module) -> nn.Module:
    """Initialise every layer that supports it, in place."""
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return model
