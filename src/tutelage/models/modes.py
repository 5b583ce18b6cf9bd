"""Use of a network that leaves it unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def frozen(model: nn.Module) -> nn.Module:
    """The same network with parameters that need no gradient, compiled networks included."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


@contextmanager
def preserve_mode(model: nn.Module) -> Iterator[None]:
    """Restore mode and `requires_grad` of every module afterwards, whatever happens."""
    modes = {module: module.training for module in model.modules()}
    needs = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        yield
    finally:
        for module, was_training in modes.items():
            module.training = was_training
        for parameter, needed in needs.items():
            parameter.requires_grad_(needed)
