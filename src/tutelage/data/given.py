"""Data that a user's own function or call gives, as the parts of a run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from tutelage.data.forms import as_source, loader_note
from tutelage.data.items import LABEL_NAMES
from tutelage.data.labels import LabelKind
from tutelage.data.sources import Source, Splits, split_off
from tutelage.errors import ConfigError, DataError, find
from tutelage.inputs import InputKind

LOOKED_AT = 4096  # labels, spread over data that name no classes
PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test",),
}
OTHERS = ("class_names", "inputs", "notes")
RANDOM_NOTE = (
    "The training data are random: an item differs from call to call, as under random transforms. "
    "Teacher and student see the same draw, but a training that goes on after an interruption sees "
    "other draws than one without. SeededViews makes augmentation repeatable."
)


def splits_of(
    found: Any,
    what: str,
    kind: LabelKind,
    *,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> Splits:
    """The parts of a run from what an own function gave.

    Args:
        found: `Splits`; a mapping with the parts train and, if there are any, valid and test, and
            with class_names, inputs (an `InputKind`) and notes if they are to be said; or training
            data alone. A part is in any form that `as_source` takes.
        what: The function, for messages.
        kind: What labels are.
        valid_fraction: Share held out for model selection, where there is no valid part.
        test_fraction: Share held out for the reported numbers, where there is no test part.
        seed: Random seed of the parts held out.

    Raises:
        DataError: It gave something else.
    """
    if isinstance(found, Splits):
        return found
    parts, others = _parts(found, what)
    notes = list(map(str, others.get("notes") or ()))
    sources = {name: as_source(data, f"{what}, {name}", kind) for name, data in parts.items()}
    for name, data in parts.items():
        notes += loader_note(data, f"{what}, {name}")
    train = sources["train"]
    if train.is_random:
        notes.append(RANDOM_NOTE)
    if "test" not in sources:
        train, sources["test"] = split_off(train, test_fraction, seed)
        notes.append(f"No test part was given: {test_fraction:.0%} of the samples were held out.")
    if "valid" not in sources:
        train, sources["valid"] = split_off(train, valid_fraction, seed)
        notes.append(
            f"No validation part was given: {valid_fraction:.0%} of the samples were held out."
        )
    valid = judged_on(sources["valid"], f"{what}, valid", notes)
    test = judged_on(sources["test"], f"{what}, test", notes)
    names = _class_names(others.get("class_names"), parts["train"], sources["train"], kind, what)
    inputs = others.get("inputs")
    if inputs is not None and not isinstance(inputs, InputKind):
        raise DataError(
            f"{what}: inputs is a {type(inputs).__name__}. Give one of tutelage.inputs, such as "
            "ImageInputs(), or an InputKind of your own."
        )
    own = {} if inputs is None else {"inputs": inputs}
    return Splits(train, valid, test, names, notes=tuple(notes), **own)  # type: ignore[arg-type]


def _parts(found: Any, what: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Data by the name of their part, and what else was given."""
    spellings = {name: part for part, names in PARTS.items() for name in names}
    if not isinstance(found, Mapping) or not any(name in found for name in PARTS["train"]):
        if found is None:
            raise DataError(f"{what}: it gave None. Return {{'train': ..., 'test': ...}}.")
        return {"train": found}, {}
    parts: dict[str, Any] = {}
    for name in found:
        find(f"part of {what}", str(name), dict.fromkeys((*spellings, *OTHERS)))
        if name in spellings and found[name] is not None:
            if spellings[name] in parts:
                raise DataError(f"{what}: the part {spellings[name]} is given twice.")
            parts[spellings[name]] = found[name]
    return parts, {name: found[name] for name in OTHERS if name in found}


def _class_names(
    given: Sequence[str] | None, data: Any, source: Source, kind: LabelKind, what: str
) -> tuple[str, ...]:
    """Names of the outputs: the given ones, those of the data set, or numbers."""
    if given is not None:
        names = tuple(map(str, given))
        if not names or len({*names}) < len(names):
            raise DataError(f"{what}: class_names are {list(names)}. Give a name of its own each.")
        return names
    _, labels = source.fetch(torch.tensor([0]))
    if labels is None:
        raise DataError(f"{what}: its samples have no labels. Give (input, label) pairs.")
    count = kind.count(labels)
    names = () if count is not None else names_of(data)
    if names:
        return names
    if count is None:
        count = 1 + (highest_label(source, among=len(source)) or 0)
    if count < 1:
        raise ConfigError(f"{what}: no class can be found in its labels. Give class_names.")
    return tuple(map(str, range(count)))


def names_of(data: Any) -> tuple[str, ...]:
    """A data set's own class names, looked up through subsets and loaders; None if it has none."""
    for one in _inside(data):
        if getattr(one, "target_transform", None) is not None:
            return ()  # its labels need not be the numbers of these names
        for found in _lists_in(one):
            names = tuple(map(str, found))
            if names and len({*names}) == len(names):
                return names
    return ()


def _lists_in(data: Any) -> Iterator[Sequence[Any]]:
    """Lists of class names in torchvision and `datasets`."""
    features = getattr(data, "features", None)
    columns = [features.get(name) for name in LABEL_NAMES] if isinstance(features, Mapping) else []
    lists = [getattr(data, "classes", None), *(getattr(one, "names", None) for one in columns)]
    yield from (found for found in lists if isinstance(found, list | tuple))


def _inside(data: Any) -> Iterator[Any]:
    """A data set and all data sets that it wraps."""
    while data is not None:
        yield data
        parts = getattr(data, "datasets", None)  # of one that joins several, the first names them
        data = parts[0] if isinstance(parts, list) and parts else getattr(data, "dataset", None)


def highest_label(source: Source, among: int = LOOKED_AT) -> int | None:
    """The highest class number of some labels, spread evenly; None if there are none.

    Args:
        source: The samples.
        among: How many labels are looked at, at most.
    """
    ids = torch.linspace(0, len(source) - 1, min(among, len(source))).long()
    highest = None
    for some in ids.split(256):
        _, labels = source.fetch(some)
        if labels is not None and labels.ndim == 1:
            highest = max(int(labels.max()), -1 if highest is None else highest)
    return highest


def judged_on(source: Source, name: str, notes: list[str]) -> Source:
    """Samples for validation or test, which must be the same for every network."""
    if not source.is_random:
        return source
    notes.append(
        f"What was held out of or given as {name} draws random numbers for each item, as under "
        "random transforms: each item's draw was fixed, so that all networks are judged on the "
        "same. Give validation and test data without random transforms."
    )
    try:
        return source.with_fixed_draws()
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
