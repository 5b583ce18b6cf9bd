"""Networks of Python callers, prepared for a run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tutelage.errors import ConfigError, of_role
from tutelage.job import TeacherPlan
from tutelage.models.copies import check_is_made, copied
from tutelage.models.estimators import as_estimator, is_estimator
from tutelage.models.origin import Origin, class_names_in, remember
from tutelage.types import Signal


def named(teacher: object) -> list[tuple[str, object]]:
    """One or several teachers, each with its name for messages."""
    if not isinstance(teacher, list | tuple):
        return [("teacher", teacher)]
    if not teacher:
        raise ConfigError("teacher: the list is empty. Give a network, or several.")
    return [(f"teacher[{number}]", one) for number, one in enumerate(teacher)]


def as_teacher(given: object, name: str, notes: list[str], gives: Signal) -> nn.Module:
    """A teacher as it is run here: a network, or a fitted estimator as one.

    Args:
        given: By the caller.
        name: The argument, for messages.
        notes: Gets a note where the network is run in another precision than it came in.
        gives: The scores that the task needs.

    Raises:
        ConfigError: It is neither, or gives no such scores.
        ModelError: It cannot be run or copied.
    """
    if is_estimator(given):
        return as_estimator(given, gives)
    return as_network(given, name, notes)


def as_network(given: object, name: str, notes: list[str]) -> nn.Module:
    """A network ready for training here, in float32.

    Args:
        given: By the caller.
        name: The argument, for messages.
        notes: Gets a note where the network is run in another precision than it came in.

    Raises:
        ConfigError: It is no network.
        ModelError: It cannot be run or copied.
    """
    if not isinstance(given, nn.Module):
        raise ConfigError(
            f"{name}: it must be a torch.nn.Module, got a {type(given).__name__}. Put what it does "
            "into the forward of a module of your own, which holds the networks that it calls."
        )
    network = _unwrapped(given)
    with of_role(name):
        check_is_made(network)
        held = [*network.parameters(), *network.buffers()]
        others = {tensor.dtype for tensor in held if tensor.is_floating_point()} - {torch.float32}
        if not others:  # what was made in inference mode can never be trained
            return copied(network) if any(tensor.is_inference() for tensor in held) else network
        found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in others))
        notes.append(f"The {name} came in {found} and was run in float32, as everything here.")
        return copied(network).float()


def _unwrapped(network: nn.Module) -> nn.Module:
    """The network inside a wrapper for several devices or for compilation."""
    while True:
        inside = getattr(network, "_orig_mod", None)
        if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inside = network.module
        if not isinstance(inside, nn.Module):
            return network
        network = inside


def check_names(argument: str, names: object) -> None:
    """Refuse invalid class names.

    Args:
        argument: For the message.
        names: One text a class, each another; or None.

    Raises:
        ConfigError: It is something else.
    """
    if names is None:
        return
    if (
        not isinstance(names, Sequence)
        or isinstance(names, str)
        or not all(isinstance(name, str) for name in names)
    ):
        raise ConfigError(
            f"{argument}: it must be a list of texts, one a class, got {names!r:.80}. Write for "
            "example ['cat', 'dog']."
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(f"{argument}: {twice[0]!r} occurs twice. Give each class its own.")


def plan_of(teacher: nn.Module, class_names: Sequence[str] | None) -> TeacherPlan:
    """A given teacher, with the named classes or those of its own configuration.

    Args:
        teacher: A network.
        class_names: In the order of its logits.
    """
    config: Any = getattr(teacher, "config", None)
    numbered = getattr(config, "id2label", None)
    if isinstance(numbered, Mapping):
        remember(teacher, Origin(class_names_in({"id2label": numbered})))
    return TeacherPlan(
        make=lambda: teacher, class_names=None if class_names is None else tuple(class_names)
    )
