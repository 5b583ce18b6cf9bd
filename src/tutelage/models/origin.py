"""Origin of a network's head: its class names, and whether it is newly initialised."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from tutelage.errors import ModelError

NAMED = ("class_names", "classes", "labels", "label_names", "categories")
NUMBERED = ("id2label", "idx_to_class")
COUNTED = ("class_to_idx", "label2id")


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of a loaded network.

    Attributes:
        class_names: In the order of its logits; None where nothing names them.
        drawn: Weights that nothing was loaded for.
    """

    class_names: tuple[str, ...] | None = None
    drawn: tuple[str, ...] = ()


_ORIGINS: WeakKeyDictionary[nn.Module, Origin] = WeakKeyDictionary()


def remember(model: nn.Module, origin: Origin) -> None:
    """Record what is known of a network, for as long as it lives."""
    _ORIGINS[model] = origin


def origin_of(model: nn.Module) -> Origin:
    """The record of a network."""
    return _ORIGINS.get(model, Origin())


def class_names_in(facts: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Class names in the order of logits, by the usual keys of libraries.

    Args:
        facts: A checkpoint or a configuration.

    Returns:
        None where there are none, or they say no more than numbers (`LABEL_0`).
    """
    for key in (*NAMED, *NUMBERED, *COUNTED):
        found = facts.get(key)
        if isinstance(found, list | tuple):
            return _telling(list(found))
        if isinstance(found, Mapping):
            return _telling(_in_order(found, key))
    return None


def _in_order(names: Mapping[Any, Any], key: str) -> list[Any]:
    """Names in order, from a mapping of names to numbers or numbers to names.

    Raises:
        ModelError: It is neither, so that no order can be told.
    """
    pairs = list(names.items())
    for numbered in (pairs, [(number, name) for name, number in pairs]):
        by_number = {int(n): name for n, name in numbered if str(n).isdecimal()}
        if len(by_number) == len(pairs):
            return [by_number[number] for number in sorted(by_number)]
    raise ModelError(
        f"{key}: {_shown(names)} does not number its {len(pairs)} classes, so the order of the "
        "logits is not known. Give teacher.class_names, or correct the file."
    )


def _shown(names: Mapping[Any, Any]) -> str:
    text = repr(dict(names))
    return text if len(text) <= 80 else f"{text[:77]}..."


def _telling(names: list[Any]) -> tuple[str, ...] | None:
    texts = tuple(str(name) for name in names)
    is_default = texts == tuple(f"LABEL_{number}" for number in range(len(texts)))
    return None if is_default or not texts else texts
