"""Locations of data and networks that are found by name, and a timeout of downloads."""

import functools
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

CONNECT_TIMEOUT_S = 5.0
DOWNLOAD_TIMEOUT_S = 30.0
# Given to every call that loads from a folder or hub: without it transformers asks at the terminal
# whether Python files that lie there may run.
NO_CODE = {"trust_remote_code": False}


def user_cache() -> Path:
    """This user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "tutelage"


def cache_dir(name: str) -> Path:
    """A data set's folder in the user's cache, into which scripts/get-data writes.

    Args:
        name: Name of the data set, as in a recipe.
    """
    return user_cache() / "datasets" / name


def resolve_path(name: str | Path) -> Path | None:
    """Find a file or folder: as given, in TUTELAGE_DATA, or in the user's cache; else None."""
    below = os.environ.get("TUTELAGE_DATA", "")
    places = [
        Path(name).expanduser(),
        *([Path(below) / name] if below else []),
        cache_dir(str(name)),
    ]
    return next((place for place in places if place.exists()), None)


def path_or_hub_name(name: str | Path) -> str:
    """Path of a file or folder with this name; if there is none, the name itself, for a hub."""
    return str(resolve_path(name) or name)


@contextmanager
def hub_asked_once(name: str | Path) -> Iterator[None]:
    """Load something by name from the Hugging Face hub, or from its local cache.

    Where the hub cannot be reached, libraries look at once into their caches; left to themselves,
    they ask it again for a minute first, with a line of their own each time.

    Args:
        name: Name as in a recipe; a place on this machine asks no hub.
    """
    constants = None if resolve_path(name) else _hub_constants()
    if (
        constants is None
        or constants.HF_HUB_OFFLINE
        or _is_reachable(constants.ENDPOINT, _minute())
    ):
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


def _hub_constants() -> Any:
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    return constants


def _minute() -> int:
    return int(time.monotonic() // 60)


@functools.cache
def _is_reachable(address: str, minute: int) -> bool:  # noqa: ARG001 - asked once in each
    """Whether a server answers at an address; assumed behind a proxy."""
    parts = urlsplit(address)
    if parts.hostname is None or parts.scheme in getproxies():
        return True
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


@contextmanager
def socket_timeout(seconds: float = DOWNLOAD_TIMEOUT_S) -> Iterator[None]:
    """Timeout for a silent network, because torchvision has no setting for it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
