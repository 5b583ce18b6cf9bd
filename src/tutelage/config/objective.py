"""From the objective of a recipe to losses with their weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tutelage.config.making import make
from tutelage.config.schema import Recipe
from tutelage.config.schema import Term as TermConfig
from tutelage.errors import ConfigError, find
from tutelage.losses import LOSSES
from tutelage.models.own import is_own, own_object
from tutelage.objective import Loss, Objective, Ramp, Term
from tutelage.tasks import Task

WEIGHT, TEMPERATURE = 0.9, 4.0


def build_objective(recipe: Recipe, task: Task, folder: Path = Path()) -> Objective:
    """The task loss and the distillation losses of a recipe.

    Args:
        recipe: Checked.
        task: Says what its task loss is, and what distilling means where no term is given.
        folder: Where a relative file.py of an own loss is looked for.

    Raises:
        ConfigError: A loss is unknown, or cannot be made with its settings.
    """
    on_labels = task.task_loss()
    terms = [Term(on_labels, recipe.objective.task_weight, on_labels.title)]
    if recipe.objective.terms is None:
        usual = task.distillation_loss(TEMPERATURE)
        return Objective([*terms, Term(usual, WEIGHT, usual.title)])
    terms += [_term(term, number, folder) for number, term in enumerate(recipe.objective.terms)]
    return Objective(terms)


def _term(term: TermConfig, number: int, folder: Path) -> Term:
    place = f"objective.terms[{number}]"
    loss = _loss(term.loss, term.model_extra or {}, place, folder)
    weight = term.weight if isinstance(term.weight, float) else Ramp(**term.weight.model_dump())
    return Term(loss, weight, loss.title)


def _loss(name: str, settings: Mapping[str, Any], place: str, folder: Path) -> Loss:
    values = {key: _setting(value, f"{place}.{key}", folder) for key, value in settings.items()}
    return make(f"{place}: loss {name!r}", _loss_class(name, place, folder), values)


def _setting(value: Any, place: str, folder: Path) -> Any:
    """A setting as a loss takes it: a loss inside a loss, a ramp, a tuple, or the plain value."""
    match value:
        case {"loss": str(name)}:
            inside = {key: v for key, v in value.items() if key != "loss"}
            return _loss(name, inside, place, folder)
        case {"start": _, "end": _, **_rest}:
            return make(place, Ramp, value)
        case list():
            return tuple(_setting(item, f"{place}[{n}]", folder) for n, item in enumerate(value))
        case _:
            return value


def _loss_class(name: str, place: str, folder: Path) -> Callable[..., Loss]:
    if not is_own(name):
        return find("loss", name, LOSSES)
    found = own_object(name, f"{place}: loss {name!r}", folder)
    if not (isinstance(found, type) and issubclass(found, Loss)):
        raise ConfigError(f"{place}: {name!r} is no subclass of tutelage.Loss.")
    return found
