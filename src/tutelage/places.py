"""Where data and networks lie that are looked for by name, and a limit for silent downloads."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DOWNLOAD_TIMEOUT_S = 30.0
# Given to every call that loads from a folder or hub: without it transformers asks at the terminal
# whether Python files that lie there may run.
NO_CODE = {"trust_remote_code": False}


def user_cache() -> Path:
    """The folder of all that is brought once and kept for this user."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "tutelage"


def cache_dir(name: str) -> Path:
    """Where a data set lies in the user's cache (scripts/get-data writes to the same place).

    Args:
        name: Of the data set, as in a recipe.
    """
    return user_cache() / "datasets" / name


def find_place(name: str | Path) -> Path | None:
    """A file or folder: as given, below TUTELAGE_DATA, or in the user's cache; None if nowhere."""
    below = os.environ.get("TUTELAGE_DATA", "")
    places = [
        Path(name).expanduser(),
        *([Path(below) / name] if below else []),
        cache_dir(str(name)),
    ]
    return next((place for place in places if place.exists()), None)


def place_or_name(name: str | Path) -> str:
    """Where a file or folder lies that is named so; the name itself, for a hub, if nowhere."""
    return str(find_place(name) or name)


@contextmanager
def socket_timeout(seconds: float = DOWNLOAD_TIMEOUT_S) -> Iterator[None]:
    """A silent network shall end in an error; torchvision has no setting for it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
