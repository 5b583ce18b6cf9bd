"""Optimizers other than the built-in ones: classes of torch.optim, and a user's own."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tutelage.errors import ConfigError, find, one_line
from tutelage.models.own import is_own, own_object

BUILT_IN = ("sgd", "adam", "adamw", "dot")
UNFIT = ("Optimizer", "SGD", "Adam", "AdamW")
OF_TORCH: Mapping[str, type[Optimizer]] = {
    name: found
    for name, found in vars(torch.optim).items()
    if isinstance(found, type) and issubclass(found, Optimizer) and name not in UNFIT
}
FILLED_IN = ("params", "lr", "weight_decay")


def check_other(
    kind: str | type[Optimizer], options: Mapping[str, Any], others: Mapping[str, Any]
) -> type[Optimizer]:
    """The class that is meant, after its arguments were looked at.

    Args:
        kind: Name of a class of `torch.optim`, module:Class, or a class.
        options: Its keyword arguments.
        others: Settings of built-in optimizers alone that were given.

    Raises:
        ConfigError: There is no such class, or it cannot be used here.
    """
    what = _what(kind)
    found = _class_of(kind, what)
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        raise ConfigError(f"{what}: it is no subclass of torch.optim.Optimizer.")
    closure = inspect.signature(found.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(
            f"{what}: its step needs a closure that computes the loss again, which a training "
            "here does not give. Take one that steps from gradients, such as adamw."
        )
    if others:
        name, value = next(iter(others.items()))
        raise ConfigError(
            f"optimizer.{name}: {value!r} is for the built-in optimizers. Give arguments of "
            f"{found.__name__} in optimizer.options."
        )
    taken = inspect.signature(found).parameters
    is_open = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values())
    for name in options:
        if name in FILLED_IN:
            raise ConfigError(f"optimizer.options: {name} is a key of optimizer itself.")
        if not is_open:
            known = [key for key in taken if key not in FILLED_IN]
            find(f"option of {what}", name, dict.fromkeys(known))
    return found


def make_other(
    kind: str | type[Optimizer],
    parameters: Sequence[Tensor],
    options: Mapping[str, Any],
    *,
    lr: float,
    weight_decay: float,
) -> Optimizer:
    """An optimizer of another class.

    Args:
        kind: As in `check_other`.
        parameters: What it trains.
        options: Its keyword arguments.
        lr: Peak learning rate.
        weight_decay: Passed on where it has such an argument.

    Raises:
        ConfigError: It cannot be made so.
    """
    found, what = check_other(kind, options, {}), _what(kind)
    taken = inspect.signature(found).parameters
    settings: dict[str, Any] = {"lr": lr, **{k: _as_tuple(v) for k, v in options.items()}}
    if "weight_decay" in taken:
        settings["weight_decay"] = weight_decay
    elif weight_decay:
        raise ConfigError(
            f"optimizer.weight_decay: {found.__name__} has none, got {weight_decay}. Leave it out."
        )
    try:
        return found(list(parameters), **settings)
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        raise ConfigError(
            f"{what} cannot be made with {given}: {type(error).__name__}: {one_line(error)}."
        ) from error


def check_state(optimizer: Optimizer) -> None:
    """Refuse an optimizer whose state a checkpoint could not hold.

    Args:
        optimizer: After a step.

    Raises:
        ConfigError: A part of its state is neither a tensor nor a number.
    """
    for state in optimizer.state_dict()["state"].values():
        for name, value in state.items():
            if value is not None and not isinstance(value, Tensor | bool | int | float):
                raise ConfigError(
                    f"optimizer {type(optimizer).__name__}: it keeps {name!r}, a "
                    f"{type(value).__name__}, for each parameter, which a checkpoint cannot hold. "
                    "Tensors and numbers can be kept."
                )


def _class_of(kind: str | type[Optimizer], what: str) -> Any:
    if not isinstance(kind, str):
        return kind
    if is_own(kind):
        return own_object(kind, what)
    return find("optimizer", kind, {**dict.fromkeys(BUILT_IN), **OF_TORCH})


def _what(kind: str | type[Optimizer]) -> str:
    return f"optimizer {kind!r}" if isinstance(kind, str) else f"optimizer {kind.__name__}"


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # as betas from a recipe
