"""Where a network's head comes from: the names of its classes, and whether it is newly drawn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

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
    for key in NAMED:
        if isinstance(facts.get(key), list | tuple):
            return _telling(list(facts[key]))
    for key in NUMBERED:
        if isinstance(facts.get(key), Mapping):
            numbered = {int(number): name for number, name in facts[key].items()}
            return _telling([numbered[number] for number in sorted(numbered)])
    for key in COUNTED:
        if isinstance(facts.get(key), Mapping):
            return _telling(sorted(facts[key], key=facts[key].__getitem__))
    return None


def _telling(names: list[Any]) -> tuple[str, ...] | None:
    texts = tuple(str(name) for name in names)
    is_default = texts == tuple(f"LABEL_{number}" for number in range(len(texts)))
    return None if is_default or not texts else texts
