"""Calling what a recipe names with the settings that stand beside the name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tutelage.errors import ConfigError, TutelageError, find

Made = TypeVar("Made")


def make(what: str, factory: Callable[..., Made], settings: Mapping[str, Any]) -> Made:
    """Call a factory with settings that its signature has."""
    check_settings(what, factory, settings)
    try:
        return factory(**settings)
    except TutelageError:
        raise
    except Exception as error:  # what is made may be the user's own: anything can happen
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items()) or "no settings"
        raise ConfigError(
            f"{what} cannot be made with {given}: {type(error).__name__}: {error}."
        ) from error


def check_settings(what: str, factory: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Check settings against the constructor's signature, which holds the defaults."""
    parameters = inspect.signature(factory).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return
    known = dict.fromkeys(parameters)
    for key in settings:
        if not known:
            raise ConfigError(f"{what} takes no settings, got {key}.")
        find(f"setting of {what}", key, known)
