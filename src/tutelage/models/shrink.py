"""Networks of `transformers` with fewer layers and narrower MLPs."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tutelage.errors import ConfigError, ModelError

WIDTHS = ("intermediate_size", "ffn_dim", "hidden_dim")  # as configurations name the units
ATTENTION = re.compile(r"att(entio)?n")


class Mlp(NamedTuple):
    """The linear layers of one MLP.

    Attributes:
        into: Those that lead to its units: one, or two where one gates the other.
        out: The one that leads back.
    """

    into: tuple[nn.Linear, ...]
    out: nn.Linear


def shrink(
    model: nn.Module,
    keep_layers: Sequence[int] | None = None,
    num_layers: int | None = None,
    mlp_width: int | None = None,
) -> nn.Module:
    """The same network with fewer layers or narrower MLPs.

    Args:
        model: A network of `transformers`; it is changed.
        keep_layers: Numbers of the layers that stay, in order, from 0; None keeps all.
        num_layers: How many stay, evenly spread, first and last among them.
        mlp_width: Units that stay in each MLP, those whose weights are largest; None keeps all.

    Raises:
        ConfigError: What is to stay is not there, or layers were asked for in two ways.
        ModelError: Its layers or MLPs are not found.
    """
    keep = _chosen_layers(model, keep_layers, num_layers)
    if keep is not None:
        keep_some_layers(model, keep)
    if mlp_width is not None:
        narrow_mlps(model, mlp_width)
    return model


def _chosen_layers(
    model: nn.Module, keep_layers: Sequence[int] | None, num_layers: int | None
) -> Sequence[int] | None:
    """Numbers of the layers to keep, from any form of the setting; None for all.

    Raises:
        ConfigError: They were asked for in two ways, or there are not so many.
    """
    if keep_layers is not None and num_layers is not None:
        raise ConfigError("settings: give keep_layers or num_layers, not both.")
    if num_layers is None:
        return keep_layers
    return spread_evenly(len(layers_of(model)[1]), num_layers)


def spread_evenly(total: int, count: int) -> list[int]:
    """Evenly spaced layers, including the first and the last; a single one is the first.

    Raises:
        ConfigError: There are not so many.
    """
    if not 1 <= count <= total:
        raise ConfigError(f"settings.num_layers must be 1 to {total}, got {count}.")
    if count == 1:
        return [0]
    return [round(number * (total - 1) / (count - 1)) for number in range(count)]


def layers_of(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """A transformer's list of layers, and its name.

    Raises:
        ModelError: There is none.
    """
    config = getattr(model, "config", None)
    count = getattr(config, "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise ModelError(
        f"{type(model).__name__}: no list of {count} layers was found in it, so none can be left "
        "out or narrowed. Leave out keep_layers, num_layers and mlp_width."
    )


def keep_some_layers(model: nn.Module, keep: Sequence[int]) -> nn.Module:
    """The same network with only some of its layers, in the order given.

    Args:
        model: A network of `transformers`; it is changed.
        keep: Numbers of layers, from 0.

    Raises:
        ConfigError: A number is no layer's.
        ModelError: It has no list of layers.
    """
    name, layers = layers_of(model)
    if not keep or not all(0 <= number < len(layers) for number in keep):
        raise ConfigError(
            f"settings.keep_layers: {type(model).__name__} has the layers 0 to {len(layers) - 1}, "
            f"got {list(keep)}."
        )
    kept = nn.ModuleList(layers[number] for number in keep)
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, kept)
    for number, layer in enumerate(kept):
        for part in layer.modules():
            if hasattr(part, "layer_idx"):  # its place in the key-value cache
                part.layer_idx = number  # type: ignore[assignment]
    config: Any = model.config
    config.num_hidden_layers = len(kept)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        config.layer_types = [kinds[number] for number in keep]
    return model


@torch.no_grad()
def narrow_mlps(model: nn.Module, width: int) -> None:
    """Keep the units of each MLP with the largest weights, in place.

    A unit's size is the product of the norms of its weights: what it can add to the output.

    Args:
        model: A network of `transformers`, with or without a head.
        width: Units to keep.

    Raises:
        ConfigError: The width does not fit.
        ModelError: Its layers have no MLPs of linear layers, or several each.

    Source:
        Li et al. 2016, "Pruning Filters for Efficient ConvNets", arXiv:1608.08710 (norms as
        importance).
    """
    config: Any = getattr(model, "config", None)
    name = next((name for name in WIDTHS if isinstance(getattr(config, name, None), int)), None)
    if name is None:
        raise _without(model)
    full = getattr(config, name)
    if not 1 <= width <= full:
        raise ConfigError(f"settings.mlp_width must be from 1 to {full}, got {width}.")
    for mlp in [_mlp(model, layer, full) for layer in layers_of(model)[1]]:
        size = mlp.out.weight.norm(dim=0)
        for linear in mlp.into:
            size = size * linear.weight.norm(dim=1)
        units = size.topk(width).indices.sort().values
        for linear in mlp.into:
            _keep(linear, units, dim=0)
        _keep(mlp.out, units, dim=1)
    for part in (config, *model.modules()):
        if getattr(part, name, None) == full:
            setattr(part, name, width)


def _mlp(model: nn.Module, layer: nn.Module, full: int) -> Mlp:
    """The MLP of a layer."""
    linears = [
        part
        for name, part in layer.named_modules()
        if isinstance(part, nn.Linear) and not ATTENTION.search(name)
    ]
    into = tuple(linear for linear in linears if linear.out_features == full)
    out = [linear for linear in linears if linear.in_features == full and linear not in into]
    if not 1 <= len(into) <= 2 or len(out) != 1:
        raise _without(model)
    return Mlp(into, out[0])


def _without(model: nn.Module) -> ModelError:
    return ModelError(
        f"settings.mlp_width: in {type(model).__name__} no layer has one MLP of two or three "
        "linear layers. Leave it out; layers can be left out instead."
    )


def _keep(linear: nn.Linear, units: Tensor, *, dim: int) -> None:
    is_trained = linear.weight.requires_grad
    linear.weight = nn.Parameter(linear.weight.index_select(dim, units).contiguous(), is_trained)
    linear.out_features, linear.in_features = linear.weight.shape
    if dim == 0 and linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias[units].contiguous(), is_trained)
