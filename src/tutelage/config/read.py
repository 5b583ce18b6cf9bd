"""Reading a recipe: YAML, one level of `base`, overrides, and one clear error."""

import difflib
import math
import os
import re
import types
import typing
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tutelage.config.schema import Recipe
from tutelage.errors import ConfigError, find
from tutelage.files import read_text

MAX_BYTES = 1_000_000
RENAMED = {"data.block": "data.block_size"}  # read for one version, with a warning
MOST_PROBLEMS, LONGEST_NAME = 100, 80
MAX_DEPTH = 20
UNIONS = ("data",)  # pydantic puts the kind between such a key and the keys inside
OF_ITS_MODEL = ("settings", "weights")
UNREADABLE = (yaml.YAMLError, RecursionError, ValueError)  # a date of month 13 is a ValueError


def shipped_recipes() -> dict[str, Path]:
    """Recipes that come with Tutelage, by name."""
    folder = Path(str(files("tutelage.config") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        name: A path, or the name of a shipped recipe.
        overrides: `dotted.key=value`, values as in YAML; keys must exist in the schema.

    Raises:
        ConfigError: The file, a key or a value is wrong; the message gives its place.
    """
    path = recipe_path(name)
    content = _with_base(_read_yaml(path), path)
    for override in overrides:
        _override(content, _with_new_name(override))
    _check_finite(content, (), path)
    _check_truth(content, Recipe, (), path, overrides)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_explain(error, path, overrides)) from error


def recipe_path(name: str | Path) -> Path:
    """Path of a recipe: a path as given, or the name of a shipped one."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not os.path.exists(path):  # Path.exists raises on a name that is too long
            raise ConfigError(f"recipe: {str(path)[:200]}: no such file.")
        return path
    return find("recipe", str(name), shipped_recipes())


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path, largest=MAX_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read ({reason}).") from error
    content = _parse(text, str(path))
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path}: a recipe is a mapping of keys; see a shipped one for its form.")
    for old, new in RENAMED.items():
        (group, key), (_, fresh) = old.split("."), new.split(".")
        inside = content.get(group)
        if isinstance(inside, dict) and key in inside:
            _warn(old, new)
            inside.setdefault(fresh, inside.pop(key))
    return content


def _with_new_name(override: str) -> str:
    key, sign, value = override.partition("=")
    if key not in RENAMED:
        return override
    _warn(key, RENAMED[key])
    return f"{RENAMED[key]}{sign}{value}"


def _warn(old: str, new: str) -> None:
    text = f"recipe: {old} is now {new}; the old name is read in this version only."
    warnings.warn(text, FutureWarning, stacklevel=3)


class _Loader(yaml.SafeLoader):
    """YAML's plain data. A duplicate key is an error; YAML would keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        counts = Counter(keys)
        twice = next((key for key in keys if counts[key] > 1), None)
        if twice is not None:
            line = node.start_mark.line + 1
            raise yaml.YAMLError(
                f"the key {_short(twice)} occurs twice in the mapping of line {line}"
            )
        return super().construct_mapping(node, deep)


def _parse(text: str, where: str) -> Any:
    try:
        _check_plain(text, where)
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except ConfigError:
        raise
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{where}: not readable as YAML: {reason}.") from error


def _check_plain(text: str, where: str) -> None:
    """Refuse what a recipe never needs and what can exhaust memory: aliases, tags, depth."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{where}: the alias *{event.anchor} is not allowed; write it out.")
        if tag := getattr(event, "tag", None):
            raise ConfigError(f"{where}: the tag {_short(tag)} is not allowed; write plain values.")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}: nested deeper than {MAX_DEPTH} levels.")


def _with_base(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Lay a recipe over the one that it names as its base."""
    name = content.pop("base", None)
    if name is None:
        return content
    beside = path.parent / str(name)
    base = _read_yaml(beside if os.path.isfile(beside) else recipe_path(str(name)))
    if "base" in base:
        raise ConfigError(f"{path}: base: {name} has a base itself; one level is allowed.")
    return _merge(base, content)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge key by key; keys of another kind or another model are dropped."""
    merged = {key: value for key, value in below.items() if not _is_of_another(key, below, above)}
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _is_of_another(key: str, below: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    def differs(name: str) -> bool:
        return name in above and name in below and above[name] != below[name]

    return differs("kind") or (key in OF_ITS_MODEL and differs("model"))


def _override(content: dict[str, Any], text: str) -> None:
    dotted, sign, value = text.partition("=")
    if not sign or not dotted:
        raise ConfigError(f"override {text!r}: write it as key=value, for example train.epochs=5.")
    parsed = _parse(value, f"override {_short(text)}")
    place: Any = content
    *parents, last = dotted.split(".")
    for key in parents:
        place = _step(place, key, text)
    if isinstance(place, list):
        place[_index(place, last, text)] = parsed
    else:
        place[last] = parsed


def _step(place: Any, key: str, text: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, key, text)]
    inside = place.get(key)
    if not isinstance(inside, dict | list):
        place[key] = inside = {}
    return inside


def _index(place: list[Any], key: str, text: str) -> int:
    if not key.isdecimal() or int(key) >= len(place):
        raise ConfigError(
            f"override {text!r}: {key!r} is no place in a list of {len(place)}; count from 0."
        )
    return int(key)


def _check_finite(value: Any, loc: tuple[int | str, ...], path: Path) -> None:
    """Refuse .nan and .inf, which no setting accepts and JSON cannot store."""
    match value:
        case dict():
            for key, inside in value.items():
                _check_finite(inside, (*loc, key), path)
        case list():
            for number, inside in enumerate(value):
                _check_finite(inside, (*loc, number), path)
        case float() if not math.isfinite(value):
            raise ConfigError(f"{path}: {_place(loc)} must be a finite number, got {value}.")


def _check_truth(
    content: Mapping[Any, Any],
    model: type[BaseModel],
    loc: tuple[int | str, ...],
    path: Path,
    overrides: Sequence[str],
) -> None:
    """Refuse true where a number is expected; pydantic would read it as 1."""
    for key, value in content.items():
        field = model.model_fields.get(key)
        kinds = set() if field is None else _types_in(field.annotation)
        inside = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for number, item in items:
            place = (*loc, key) if number is None else (*loc, key, number)
            if isinstance(item, dict) and inside:
                chosen = next(
                    (one for one in inside if _has_kind(one, item.get("kind"))), inside[0]
                )
                _check_truth(item, chosen, place, path, overrides)
            if isinstance(item, bool) and kinds & {int, float} and bool not in kinds:
                raise ConfigError(
                    f"{_blamed(place, path, overrides)}: {_place(place)}: a number is needed, got "
                    f"{item}; YAML reads yes, no, on and off as truth."
                )


def _types_in(annotation: Any) -> set[Any]:
    """All plain types of an annotation."""
    parts = typing.get_args(annotation)
    return {annotation} if not parts else {kind for part in parts for kind in _types_in(part)}


def _explain(error: ValidationError, path: Path, overrides: Sequence[str]) -> str:
    """The first errors, each with location, value and what is allowed."""
    lines: dict[str, list[str]] = {}
    for problem in _innermost(error.errors(include_url=False)[:MOST_PROBLEMS])[:5]:
        place = _place(problem["loc"])
        shown = "" if problem["type"] == "missing" else f" (got {_short(problem['input'])})"
        blamed = _blamed(problem["loc"], path, overrides)
        line = f"{place}: {problem['msg']}{shown}.{_hint(problem)}"
        lines.setdefault(blamed, []).append(line)
    return " ".join(f"{blamed}: {' '.join(found)}" for blamed, found in lines.items())


def _blamed(loc: Sequence[int | str], path: Path, overrides: Sequence[str]) -> str:
    """Source of the value at a location: an override, or the file."""
    setting = (text for text in overrides if _sets(text, loc))
    return next((f"override {_short(text)}" for text in setting), str(path))


def _sets(override: str, loc: Sequence[int | str]) -> bool:
    """Whether an override set the value at a location, or one that contains it."""
    steps = iter([str(step) for step in loc])
    return all(key in steps for key in override.partition("=")[0].split("."))


def _innermost(problems: list[ErrorDetails]) -> list[ErrorDetails]:
    """Errors without those that only follow from a nested one."""
    places = [problem["loc"] for problem in problems]
    return [
        problem
        for problem, place in zip(problems, places, strict=True)
        if not any(other != place and other[: len(place)] == place for other in places)
    ]


def _hint(problem: ErrorDetails) -> str:
    """A suggestion for a typo, and the allowed values where pydantic does not list them."""
    context = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            return _known_keys(problem["loc"])
        case "union_tag_not_found":
            return " Give its kind, as in {kind: digits}; see tutelage recipe."
        case "union_tag_invalid":
            return _nearest(context["tag"], _quoted(context["expected_tags"]))
        case "literal_error":
            return _nearest(problem["input"], _quoted(context["expected"]))
        case _:
            return ""


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _nearest(name: Any, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(name)[:LONGEST_NAME], known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _place(loc: Sequence[int | str]) -> str:
    text = ""
    steps = [part for i, part in enumerate(loc) if i == 0 or loc[i - 1] not in UNIONS]
    for part in steps:
        name = str(part) if len(str(part)) <= LONGEST_NAME else f"{str(part)[:LONGEST_NAME]}..."
        text += f"[{part}]" if isinstance(part, int) else f".{name}" if text else name
    return text


def _short(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"a whole number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except ValueError:  # such a number deeper inside
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _known_keys(loc: Sequence[int | str]) -> str:
    """A suggestion for a typo, and the keys allowed at that location."""
    model = _model_at(Recipe, loc[:-1])
    if model is None:
        return ""
    known = sorted(model.model_fields)
    return f"{_nearest(loc[-1], known)} Known: {', '.join(known)}."


def _model_at(model: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel] | None:
    for part in loc:
        field = model.model_fields.get(str(part))
        options = _models(field.annotation) if field is not None else _tagged(model, part)
        if not options:
            return None
        model = options[0]
        if len(options) > 1:
            tag = loc[list(loc).index(part) + 1 : list(loc).index(part) + 2]
            model = next((o for o in options if tag and _has_kind(o, tag[0])), model)
    return model


def _tagged(model: type[BaseModel], part: int | str) -> list[type[BaseModel]]:
    return [model] if _has_kind(model, part) else []


def _has_kind(model: type[BaseModel], kind: object) -> bool:
    field = model.model_fields.get("kind")
    return field is not None and kind in typing.get_args(field.annotation)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [m for part in typing.get_args(annotation) for m in _models(part)]
    return []
