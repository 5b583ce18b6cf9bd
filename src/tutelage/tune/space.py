"""Searchable settings of a recipe, and their ranges."""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.config.schema import Recipe
from tutelage.errors import ConfigError, find
from tutelage.losses import LOSSES

Choice = str | int | float
WIDEN = 10.0
TEMPERATURES = (1.0, 20.0)
TASK_WEIGHTS = (0.01, 1.0)
WARMUPS = (0, 50, 200)


@dataclass(frozen=True, slots=True)
class Setting:
    """One searchable location of a recipe.

    Attributes:
        key: Dotted, as in an override.
        default: The recipe's own value.
        low, high: Of a number, searched by its logarithm; None for choices.
        choices: Names of what may stand there; empty for a number.
        values: What each choice writes, by dotted key; empty where the choice is the value.
    """

    key: str
    default: Choice
    low: float | None = None
    high: float | None = None
    choices: tuple[Choice, ...] = ()
    values: Mapping[Choice, Mapping[str, Any]] | None = None

    def write(self, content: dict[str, Any], chosen: Choice) -> None:
        """Write a chosen value into a recipe's content."""
        written = {self.key: chosen} if self.values is None else self.values[chosen]
        for key, value in written.items():
            _write(content, key, value)


def search_space(recipe: Recipe, groups: Sequence[str] = ()) -> list[Setting]:
    """All searchable settings of a recipe.

    Args:
        recipe: Its own values lie within every range.
        groups: Names from `GROUPS`; empty takes all.

    Raises:
        UnknownNameError: There is no such group.
        ConfigError: The recipe has nothing of them.
    """
    content = recipe.model_dump(mode="json")
    chosen = [find("group of settings", name, GROUPS) for name in groups] or GROUPS.values()
    space = [setting for group in chosen for setting in group(content)]
    if not space:
        raise ConfigError(
            f"The recipe has nothing to search in {', '.join(groups)}. Groups: {', '.join(GROUPS)}."
        )
    return space


def applied(recipe: Recipe, space: Sequence[Setting], chosen: Mapping[str, Any]) -> Recipe:
    """The recipe with chosen values."""
    content = recipe.model_dump(mode="json")
    for setting in space:
        setting.write(content, chosen[setting.key])
    return Recipe.model_validate(content)


def _write(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    place: Any = content
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    place[last] = copy.deepcopy(value)


def _number(key: str, default: float, low: float, high: float) -> Setting:
    return Setting(key, default, min(low, default), max(high, default))


def _terms(content: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, term in enumerate(content["objective"]["terms"] or ()):
        yield f"objective.terms.{number}", term


def _temperatures(content: Mapping[str, Any]) -> Iterator[Setting]:
    for place, term in _terms(content):
        parameters = inspect.signature(LOSSES[term["loss"]]).parameters if _known(term) else {}
        for name, parameter in parameters.items():
            value = term.get(name, parameter.default)
            if name == "temperature" and isinstance(value, int | float):
                yield _number(f"{place}.{name}", float(value), *TEMPERATURES)


def _known(term: Mapping[str, Any]) -> bool:
    return term["loss"] in LOSSES


def _weights(content: Mapping[str, Any]) -> Iterator[Setting]:
    task = content["objective"]["task_weight"]
    if task > 0:
        yield _number("objective.task_weight", task, *TASK_WEIGHTS)
    for place, term in _terms(content):
        weight = term["weight"]
        if isinstance(weight, int | float) and weight > 0:
            yield _number(f"{place}.weight", float(weight), weight / WIDEN, weight * WIDEN)


def _layers(content: Mapping[str, Any]) -> Iterator[Setting]:
    """Choices for lists of layers: all pairs, or a single one."""
    for place, term in _terms(content):
        lists = {n: term[n] for n in ("student_layers", "teacher_layers") if term.get(n)}
        lengths = {len(layers) for layers in lists.values()}
        if len(lengths) != 1 or max(lengths) < 2:
            continue
        values: dict[Choice, dict[str, Any]] = {"all": _at(place, lists, slice(None))}
        for number in range(max(lengths)):
            name = " and ".join(layers[number] for layers in lists.values())
            values[f"{name} alone"] = _at(place, lists, slice(number, number + 1))
        yield Setting(f"{place}.layers", "all", choices=tuple(values), values=values)


def _at(place: str, lists: Mapping[str, Sequence[str]], part: slice) -> dict[str, Any]:
    return {f"{place}.{name}": list(layers[part]) for name, layers in lists.items()}


def _schedule(content: Mapping[str, Any]) -> Iterator[Setting]:
    lr, schedule = content["optimizer"]["lr"], content["schedule"]
    yield _number("optimizer.lr", lr, lr / 4, lr * 4)
    kinds = dict.fromkeys((schedule["kind"], "cosine", "constant"))
    yield Setting("schedule.kind", schedule["kind"], choices=tuple(kinds))
    steps = dict.fromkeys((schedule["warmup_steps"], *WARMUPS))
    yield Setting("schedule.warmup_steps", schedule["warmup_steps"], choices=tuple(steps))


Group = Callable[[Mapping[str, Any]], Iterator[Setting]]

GROUPS: Mapping[str, Group] = {
    "temperature": _temperatures,
    "weights": _weights,
    "layers": _layers,
    "schedule": _schedule,
}
