"""One writer per folder: a lock that the operating system releases when its holder dies."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from tutelage.errors import LockedError, WriteError
from tutelage.files import is_running, open_regular, refuse_links, sweep, write_text

LOCK, HOLDER = ".lock", ".lock.holder"
ORPHANS_S = 15.0


@contextlib.contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Lock a folder against other writers; readers need no lock.

    Of several processes of one launch only the first holds it, for all of them. A holder that is
    killed lets go at once; its data workers, which die a few seconds later, are waited for,
    and what it had half written is removed.

    Args:
        folder: It is made where it is missing.
        what: What is done there, for whoever finds it locked ("tutelage run").

    Raises:
        LockedError: Another process holds it; the message says which.
        RunFolderError: Something in it is a link that leads out of it.
        WriteError: The folder cannot be written.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    refuse_links(folder)
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _acquire(lock, folder)
        write_text(folder / HOLDER, f"{os.getpid()} {socket.gethostname()} {_now()} {what}\n")
        sweep(folder)
    except OSError as error:
        lock.release()
        raise WriteError(f"{folder}: cannot be locked ({error.strerror or error}).") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, folder: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        holder = _holder(folder)
        with contextlib.suppress(Timeout):
            if _is_dead(holder):
                lock.acquire(timeout=ORPHANS_S)
                return
        raise LockedError(_told(folder, holder)) from error


def _holder(folder: Path) -> list[str]:
    """Process number, machine, time and task of the holder, as far as known."""
    try:
        with open_regular(folder / HOLDER) as file:
            return file.read(300).decode("utf-8", "replace").split(maxsplit=3)
    except OSError:
        return []


def _is_dead(holder: list[str]) -> bool:
    """Whether the holder ran on this machine and no longer runs."""
    if (
        len(holder) < 2
        or not re.fullmatch(r"\d{1,9}", holder[0])
        or holder[1] != socket.gethostname()
    ):
        return False
    return not is_running(int(holder[0]))


def _told(folder: Path, holder: list[str]) -> str:
    who, stop = "another process", "stop it"
    if len(holder) == 4:
        number, machine, since, what = holder
        who = f"process {number} on {machine} since {since} ({what.strip()})"
        stop = f"stop it (kill {number})"
    return f"{folder}: in use by {who}. Wait for its end, {stop}, or name another folder."


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
