"""Reading a recipe: YAML, one level of `base`, overrides, and one clear error."""

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from tutelage.config.schema import Recipe
from tutelage.errors import ConfigError, find

MAX_BYTES = 1_000_000
MAX_DEPTH = 20


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
        _override(content, override)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_explain(error, path)) from error


def recipe_path(name: str | Path) -> Path:
    """Where a recipe lies: a path as given, or the name of a shipped one."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"recipe: {path}: no such file.")
        return path
    return find("recipe", str(name), shipped_recipes())


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes: not a recipe.")
        text = path.read_text(encoding="utf-8")
        _check_plain(text, path)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        place = " ".join(str(error).split())[:300]
        raise ConfigError(f"{path}: not readable as YAML: {place}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path}: a recipe is a mapping of keys; see a shipped one for its form.")
    return content


def _check_plain(text: str, path: Path) -> None:
    """Refuse what a recipe never needs and what can blow up: aliases, depth."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{path}: the alias *{event.anchor} is not allowed; write it out.")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{path}: nested deeper than {MAX_DEPTH} levels.")


def _with_base(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Lay a recipe over the one that it names as its base."""
    name = content.pop("base", None)
    if name is None:
        return content
    beside = path.parent / str(name)
    base = _read_yaml(beside if beside.is_file() else recipe_path(str(name)))
    if "base" in base:
        raise ConfigError(f"{path}: base: {name} has a base itself; one level is allowed.")
    return _merge(base, content)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _merge(below[key], value) if both else value
    return merged


def _override(content: dict[str, Any], text: str) -> None:
    dotted, sign, value = text.partition("=")
    if not sign or not dotted:
        raise ConfigError(f"override {text!r}: write it as key=value, for example train.epochs=5.")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {text!r}: the value is not readable as YAML.") from error
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


def _explain(error: ValidationError, path: Path) -> str:
    """The first things that are wrong, each with place, value and what is allowed."""
    lines = []
    for problem in error.errors(include_url=False)[:5]:
        place = _place(problem["loc"])
        hint = _known_keys(problem["loc"]) if problem["type"] == "extra_forbidden" else ""
        shown = "" if problem["type"] == "missing" else f" (got {_short(problem['input'])})"
        lines.append(f"{place}: {problem['msg']}{shown}.{hint}")
    return f"{path}: " + " ".join(lines)


def _place(loc: Sequence[int | str]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _known_keys(loc: Sequence[int | str]) -> str:
    """Did you mean, and the keys that are allowed at that place."""
    model = _model_at(Recipe, loc[:-1])
    if model is None:
        return ""
    known = sorted(model.model_fields)
    near = difflib.get_close_matches(str(loc[-1]), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{hint} Known: {', '.join(known)}."


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


def _has_kind(model: type[BaseModel], kind: int | str) -> bool:
    field = model.model_fields.get("kind")
    return field is not None and kind in typing.get_args(field.annotation)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [m for part in typing.get_args(annotation) for m in _models(part)]
    return []
