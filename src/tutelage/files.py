"""Atomic writing of files, reading with one clear error, and fingerprints."""

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
from io import BufferedReader
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tutelage.errors import RunFolderError, UnreadableError, WriteError

FORGOTTEN_S = 3600.0
FOR_FILES = 0o666
LARGEST_TEXT = 64 * 2**20
KINDS: Sequence[tuple[Callable[[int], bool], str]] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_HERE = re.sub(r"\W", "-", socket.gethostname())
_TEMPORARY = re.compile(r"\..+\.([\w-]+)\.(\d{1,9})\.tmp")


def open_regular(path: Path, *, largest: int | None = None) -> BufferedReader:
    """Open a regular file for reading bytes; pipes and devices are refused.

    Args:
        path: A link is followed to what it names.
        largest: Bytes that such a file may have; None for any number.

    Raises:
        UnreadableError: It is no regular file, or it is larger.
        OSError: The system cannot open it.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer; for a regular file it changes nothing.
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_status(path, os.fstat(number), largest)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def check_regular(path: Path, *, largest: int | None = None) -> None:
    """Refuse what `open_regular` refuses, for a library that opens the path itself.

    Raises:
        UnreadableError, OSError: As for `open_regular`.
    """
    _check_status(path, path.stat(), largest)


def read_bytes(path: Path, *, largest: int | None = None) -> bytes:
    """The content of a regular file.

    Raises:
        UnreadableError, OSError: As for `open_regular`.
    """
    with open_regular(path, largest=largest) as file:
        return file.read()


def read_text(path: Path, *, encoding: str = "utf-8", largest: int | None = LARGEST_TEXT) -> str:
    """The text of a regular file, with its line endings unchanged.

    Raises:
        UnreadableError, OSError: As for `open_regular`.
        UnicodeDecodeError: It is no text of that encoding.
    """
    return read_bytes(path, largest=largest).decode(encoding)


def _check_status(path: Path, status: os.stat_result, largest: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((word for holds, word in KINDS if holds(status.st_mode)), "something else")
        raise UnreadableError(path, f"is {kind}, a file is needed.")
    if largest is not None and status.st_size > largest:
        raise UnreadableError(
            path,
            f"has {status.st_size:,} bytes, and no such file is larger than {largest:,} bytes.",
        )


def refuse_links(folder: Path) -> None:
    """Refuse to write through a link that leads out of a folder.

    The folder itself may be a link: whoever runs the command names it.

    Raises:
        RunFolderError: Something below it links elsewhere.
    """
    root = Path(os.path.realpath(folder))
    for place, folders, files in os.walk(root, followlinks=False):
        for path in (Path(place) / name for name in (*folders, *files)):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                raise RunFolderError(
                    f"{folder / path.relative_to(root)}: is a link to {os.readlink(path)}, and "
                    "nothing is read or written through links that leave the folder. Put what it "
                    "names in its place, or name another folder."
                )


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file under a temporary name in the same folder, then rename it.

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
    """A temporary path beside a file, renamed to it only if nothing is raised.

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
    """A temporary folder whose files move into a folder only if nothing is raised.

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
    """Sync a file to disk and rename it, with the user's default permissions.

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
    """Whether an error, of the system or of safetensors, means that the disk is full."""
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT))


def _keep_name(folder: Path) -> None:
    """Sync a folder's entries to disk, if the system supports it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sweep(folder: Path) -> None:
    """Remove half-written files that killed processes left in a folder.

    Those of another machine are left alone for an hour: their writer may live.
    """
    for path in folder.rglob(".*.tmp"):
        found = _TEMPORARY.fullmatch(path.name)
        if found is None:
            continue
        with contextlib.suppress(OSError):
            is_old = time.time() - path.lstat().st_mtime > FORGOTTEN_S
            if is_old or (found[1] == _HERE and not is_running(int(found[2]))):
                is_folder = path.is_dir() and not path.is_symlink()
                shutil.rmtree(path) if is_folder else path.unlink()


def is_running(number: int) -> bool:
    """Whether a process with this number runs on this machine."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    write_whole(path, lambda temporary: _write_bytes(temporary, content))


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_whole(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write plain data as indented JSON, atomically; NaN is refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """A short, stable fingerprint of plain data (16 hexadecimal digits)."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
