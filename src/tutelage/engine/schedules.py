"""Learning-rate schedules: the share of the peak learning rate at each update, without state."""

import functools
import inspect
import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim import lr_scheduler

from tutelage.errors import ConfigError, TutelageError, find, one_line, require
from tutelage.models.own import is_own, own_object

Kind = str | Callable[..., float]
SCHEDULES = ("constant", "cosine", "step")
TRANSFORMERS = "transformers:"
TOTAL = ("T_max", "total_steps", "total_iters")  # usual: the training's
UNFIT = ("ReduceLROnPlateau", "ChainedScheduler", "SequentialLR", "SWALR", "LRScheduler")
OF_TORCH: Mapping[str, type[Any]] = {
    name: found
    for name, found in vars(lr_scheduler).items()
    if isinstance(found, type)
    and issubclass(found, lr_scheduler.LRScheduler)
    and not name.startswith("_")
    and name not in UNFIT
}
TRIAL = 100  # updates of the training that a schedule is tried on
NEAR_ENOUGH = 10.0  # a factor above this is a mistake: lr is the peak


def check_schedule(kind: Kind, options: Mapping[str, Any]) -> None:
    """Refuse a schedule that there is not, or that cannot be made with its options.

    Args:
        kind: constant, cosine or step; a class of torch.optim.lr_scheduler; transformers:NAME of
            `transformers.get_scheduler`; or a function of one's own, itself or as
            module:function, which takes (step, total_steps) and the options and returns the share
            of the peak learning rate.
        options: Keyword arguments of the class or function.

    Raises:
        ConfigError: It is unknown, or cannot be made with these options.
    """
    if kind in SCHEDULES:
        if options:
            raise ConfigError(
                f"schedule.options: {kind!r} takes none; its settings are keys of schedule."
            )
        return
    table(kind, _as_json(options), TRIAL)


def table_factor(kind: Kind, options: Mapping[str, Any], step: int, total: int) -> float:
    """The factor of another schedule at update `step` (from 0) of `total`."""
    return table(kind, _as_json(options), max(1, total))[min(step, max(1, total) - 1)]


def _as_json(options: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(options), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"schedule.options: {dict(options)!r} is not made of plain values ({error}). Give "
            "numbers, texts, lists and mappings."
        ) from error


@functools.lru_cache(maxsize=32)
def table(kind: Kind, options: str, total: int) -> tuple[float, ...]:
    """Factors of all updates of a training.

    Schedulers of libraries count for themselves; they are run once beside a stand-in for the
    optimizer, so that a resumed training finds the same factor at the same step.

    Args:
        kind: As in `check_schedule`.
        options: The options as JSON.
        total: Number of updates.

    Raises:
        ConfigError: It is unknown, fails, or gives no numbers from 0 on.
    """
    settings: dict[str, Any] = json.loads(options)
    what = f"schedule {kind!r}" if isinstance(kind, str) else f"schedule {kind.__qualname__}"
    if not isinstance(kind, str):
        factors = _called(kind, what, settings, total)
    elif kind.startswith(TRANSFORMERS):
        name = kind.removeprefix(TRANSFORMERS)
        factors = _followed(_of_transformers(name, settings, total), total)
    elif is_own(kind):
        factors = _called(own_object(kind, what), what, settings, total)
    else:
        known: dict[str, Any] = {**dict.fromkeys(SCHEDULES), **OF_TORCH}
        made = find("schedule", kind, known)
        factors = _followed(_of_torch(made, settings, total, what), total)
    wrong = [factor for factor in factors if not 0 <= factor <= NEAR_ENOUGH]
    if wrong:
        raise ConfigError(
            f"{what}: at update {factors.index(wrong[0])} of {total} it gives {wrong[0]:g} times "
            f"optimizer.lr; 0 to {NEAR_ENOUGH:g} is allowed. lr is the peak learning rate."
        )
    return tuple(factors)


def _stand_in() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0, momentum=0.9)


def _of_torch(made: type[Any], settings: dict[str, Any], total: int, what: str) -> Any:
    taken = inspect.signature(made).parameters
    settings = {name: total for name in TOTAL if name in taken} | settings
    if "epochs" in settings or "steps_per_epoch" in settings:
        settings.pop("total_steps", None)
    if "max_lr" in taken:
        settings = {"max_lr": 1.0} | settings
    if "cycle_momentum" in taken:
        settings = {"cycle_momentum": False} | settings
    for name in settings:
        find(f"option of {what}", name, dict.fromkeys(n for n in taken if n != "optimizer"))
    try:
        return made(_stand_in(), **settings)
    except Exception as error:
        raise _unmade(what, settings, error) from error


def _of_transformers(name: str, settings: dict[str, Any], total: int) -> Any:
    library = require("transformers", "text", f"schedule '{TRANSFORMERS}{name}'")
    what = f"schedule '{TRANSFORMERS}{name}'"
    kinds = {one.value: one for one in library.SchedulerType}
    find(what, name, {key: one for key, one in kinds.items() if "reduce" not in key})
    specific = {k: v for k, v in settings.items() if k != "num_warmup_steps"}
    try:
        return library.get_scheduler(
            name,
            _stand_in(),
            num_warmup_steps=settings.get("num_warmup_steps", 0),
            num_training_steps=total,
            scheduler_specific_kwargs=specific,
        )
    except Exception as error:
        raise _unmade(what, settings, error) from error


def _followed(scheduler: Any, total: int) -> list[float]:
    factors = []
    with warnings.catch_warnings():  # the stand-in makes no step of its own
        warnings.simplefilter("ignore")
        for step in range(total):
            factors.append(float(scheduler.optimizer.param_groups[0]["lr"]))
            if step < total - 1:
                scheduler.step()
    return factors


def _called(
    function: Callable[..., Any], what: str, settings: dict[str, Any], total: int
) -> list[float]:
    factors = []
    for step in range(total):
        try:
            found = function(step, total, **settings)
        except TutelageError:
            raise
        except Exception as error:
            raise _unmade(what, settings, error, step) from error
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise ConfigError(
                f"{what}: it gives {found!r} at update {step} of {total}. Return a number, the "
                "share of the peak learning rate."
            )
        factors.append(float(found))
    return factors


def _unmade(
    what: str, settings: Mapping[str, Any], error: Exception, step: int | None = None
) -> ConfigError:
    given = ", ".join(f"{key}={value!r}" for key, value in settings.items()) or "no options"
    where = "cannot be made" if step is None else f"fails at update {step}"
    return ConfigError(f"{what} {where} with {given}: {type(error).__name__}: {one_line(error)}.")
