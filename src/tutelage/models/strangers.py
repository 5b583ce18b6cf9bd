"""Limits of a recipe whose finished run is opened, since it may come from a stranger."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from tutelage.errors import ConfigError

_CLOSED_FOR: ContextVar[Path | None] = ContextVar("closed_for", default=None)


@contextmanager
def without_own_code(recipe: Path) -> Iterator[None]:
    """Refuse a recipe's imports and server requests while a finished run is opened.

    Args:
        recipe: The run's, for the message.
    """
    token = _CLOSED_FOR.set(recipe)
    try:
        yield
    finally:
        _CLOSED_FOR.reset(token)


def check_code(library: str, what: str) -> None:
    """Refuse to import code while a finished run is opened.

    Args:
        library: Module or file.
        what: Which entry of the recipe names it.
    """
    recipe = _CLOSED_FOR.get()
    if recipe is not None:
        raise ConfigError(
            f"{recipe}: {what} names code, {library!r}, which this command would import and so "
            "run. Read it, then add --allow-code if you trust whoever wrote it."
        )


def check_requests(url: str, key_variable: str | None) -> None:
    """Refuse to send texts and a key to a server while a finished run is opened.

    Args:
        url: Address of the server.
        key_variable: Environment variable whose value would go along.
    """
    recipe = _CLOSED_FOR.get()
    if recipe is not None:
        key = "" if key_variable is None else f" and the value of {key_variable}"
        raise ConfigError(
            f"{recipe}: the teacher is served at {url!r}, and this command would send texts{key} "
            "there. Add --allow-code if you trust whoever wrote the recipe."
        )
