"""Matching of a pretrained teacher's classes to the data's by name."""

import unicodedata
from collections.abc import Sequence

from tutelage.errors import ConfigError


def class_order(own: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...]:
    """The index of a teacher's logit for each class of the data.

    Names are compared as they are, and, where that is not enough, without case, with plain spaces,
    in one Unicode form, and numbers as numbers.

    Args:
        own: The teacher's class names, in the order of its logits.
        wanted: The data's class names, in the order of the labels.

    Raises:
        ConfigError: They are not the same classes.
    """
    for form in (str, _folded):
        places = {form(name): number for number, name in enumerate(own)}
        names = [form(name) for name in wanted]
        is_clear = len(places) == len(own) and len(set(names)) == len(names)
        if is_clear and places.keys() == set(names):
            return tuple(places[name] for name in names)
    ours, theirs = {_folded(name) for name in wanted}, {_folded(name) for name in own}
    only_data = [name for name in wanted if _folded(name) not in theirs]
    only_own = [name for name in own if _folded(name) not in ours]
    raise ConfigError(
        f"class_names: the teacher was trained on {len(own)} classes, the data have "
        f"{len(wanted)}; the data's {_some(only_data)} it does not know, of its own the data lack "
        f"{_some(only_own)}. Name its classes in the order of its logits as the data name them, or "
        "train a new head (head: new and training)."
    )


def is_numbered(names: Sequence[str]) -> bool:
    """Whether class names are their numbers, so that a teacher's names may apply to them."""
    return list(names) == [str(number) for number in range(len(names))]


def _folded(name: str) -> str:
    plain = " ".join(unicodedata.normalize("NFC", name).casefold().split())
    try:
        return repr(float(plain))
    except ValueError:
        return unicodedata.normalize("NFC", plain)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:3])) or "none"
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
