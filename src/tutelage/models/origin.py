"""Where a network's head comes from: the names of its classes, and whether it is newly drawn."""

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
    """What is known of a network that was loaded.

    Attributes:
        class_names: In the order of its logits; None where nothing names them.
        drawn: Weights that nothing was loaded for.
    """

    class_names: tuple[str, ...] | None = None
    drawn: tuple[str, ...] = ()


_ORIGINS: WeakKeyDictionary[nn.Module, Origin] = WeakKeyDictionary()


def remember(model: nn.Module, origin: Origin) -> None:
    """Keep what is known of a network for as long as it lives."""
    _ORIGINS[model] = origin


def origin_of(model: nn.Module) -> Origin:
    """What is known of a network."""
    return _ORIGINS.get(model, Origin())


def class_names_in(facts: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Names of classes in the order of logits, by the keys that libraries store them under.

    Args:
        facts: Of a checkpoint or a configuration.

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
    """Names to numbers, or numbers to names, by the numbers.

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
        "logits is not known. Give teacher.class_names, or mend the file."
    )


def _shown(names: Mapping[Any, Any]) -> str:
    text = repr(dict(names))
    return text if len(text) <= 80 else f"{text[:77]}..."


def _telling(names: list[Any]) -> tuple[str, ...] | None:
    texts = tuple(str(name) for name in names)
    is_default = texts == tuple(f"LABEL_{number}" for number in range(len(texts)))
    return None if is_default or not texts else texts
