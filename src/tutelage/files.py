"""Files written whole or not at all, read with one clear error, and fingerprints."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tutelage.errors import WriteError

FORGOTTEN_S = 3600.0
FOR_FILES = 0o666
_HERE = re.sub(r"\W", "-", socket.gethostname())
_TEMPORARY = re.compile(r"\..+\.([\w-]+)\.(\d{1,9})\.tmp")


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file under a temporary name beside its place, then rename it.

    Args:
        path: Where the file shall lie; its folder is made.
        write: Called with the temporary path; writes the content there.

    Raises:
        WriteError: The disk is full or the place cannot be written; nothing is left behind.
    """
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        _settle(temporary, mode, path)
        _keep_name(path.parent)
    except (OSError, SafetensorError) as error:
        raise _cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def staged(
    path: Path, files: Callable[[Path], Sequence[Path]] = lambda path: [path]
) -> Iterator[Path]:
    """A place beside a file's to write it and try it; it moves there only if nothing is raised.

    Args:
        path: Where it shall lie; its folder is made.
        files: All that belongs to such a file, in the order in which they are moved.

    Raises:
        WriteError: The disk is full or the place cannot be written.
    """
    with _staging(path) as folder:
        yield folder / path.name
        _settle_all(zip(files(folder / path.name), files(path), strict=True), folder, path)


@contextlib.contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """A place beside a folder to fill; its files move into the folder only if nothing is raised.

    What lies in the folder under other names stays.

    Args:
        folder: Where they shall lie; it is made, and folders below it as they are there.

    Raises:
        WriteError: The disk is full or the place cannot be written.
    """
    with _staging(folder) as staging:
        yield staging
        made = sorted(path for path in staging.rglob("*") if path.is_file())
        places = [folder / path.relative_to(staging) for path in made]
        _settle_all(zip(made, places, strict=True), staging, folder)


@contextlib.contextmanager
def _staging(path: Path) -> Iterator[Path]:
    folder = _temporary(path)
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(path, error) from error
        yield folder
    except (OSError, SafetensorError) as error:
        if _is_full(error):
            raise _cannot_write(path, error) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _settle_all(moves: Iterable[tuple[Path, Path]], staging: Path, path: Path) -> None:
    try:
        mode = staging.stat().st_mode
        for made, place in moves:
            place.parent.mkdir(parents=True, exist_ok=True)
            _settle(made, mode, place)
        _keep_name(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _settle(made: Path, mode: int, place: Path) -> None:
    """Bring a file to the disk and to its place, for those to read whom the user lets read.

    Some libraries give what they write to its owner alone.
    """
    with made.open("rb+") as file:
        os.fsync(file.fileno())
    made.chmod(stat.S_IMODE(mode) & FOR_FILES)
    made.replace(place)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_HERE}.{os.getpid()}.tmp")


def _cannot_write(path: Path, error: Exception) -> WriteError:
    reason = getattr(error, "strerror", None) or error
    return WriteError(
        f"{path}: cannot be written ({reason}). What was there before is unchanged. Free "
        "space or choose another place, then run the same command again."
    )


def _is_full(error: Exception) -> bool:
    """Whether an error, of the system or of safetensors, says that a disk has no more room."""
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT))


def _keep_name(folder: Path) -> None:
    """Bring a folder's names to the disk, where the system has a way to."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sweep(folder: Path) -> None:
    """Remove half-written files that killed processes left below a folder.

    Those of another machine are left alone for an hour: their writer may live.
    """
    for path in folder.rglob(".*.tmp"):
        found = _TEMPORARY.fullmatch(path.name)
        if found is None:
            continue
        with contextlib.suppress(OSError):
            is_old = time.time() - path.stat().st_mtime > FORGOTTEN_S
            if is_old or (found[1] == _HERE and not is_running(int(found[2]))):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def is_running(number: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    write_whole(path, lambda temporary: _write_bytes(temporary, content))


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    write_whole(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write plain data as indented JSON, whole or not at all; NaN is refused by the format."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """A short, stable fingerprint of plain data (16 hexadecimal digits)."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
