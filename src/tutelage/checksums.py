"""Files with their own checksum: plain data as JSON, tensors as safetensors.

A checksum finds damage: flipped bytes, a file cut short, halves of two files. It is no signature:
whoever may write a file may write its checksum too.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from tutelage.errors import RunFolderError
from tutelage.files import open_regular, read_text, write_text, write_whole

LARGEST_JSON = 64 * 2**20
LARGEST_HEADER = 100_000_000  # safetensors' own limit
_CHUNK = 1 << 20
_AGAIN = "Remove it and run the run's command again, which makes what is missing."
_UNSEALED = "0" * 64
_SEAL = '{\n "sha256": "'
_HEADER = b'{"__metadata__":{"tutelage":"'


def write_json_with_checksum(path: Path, value: Mapping[str, Any]) -> None:
    """Write plain data as JSON whose first key is the checksum of the rest.

    Raises:
        ValueError: A number is not finite.
        WriteError: The file cannot be written.
    """
    body = json.dumps(value, indent=1, allow_nan=False)[1:] + "\n"
    digest = hashlib.sha256(body.encode()).hexdigest()
    write_text(path, f'{_SEAL}{digest}",{body}')


def read_json_with_checksum(path: Path) -> dict[str, Any]:
    """Read a file of `write_json_with_checksum`; its checksum is verified before parsing.

    A file that does not begin with a checksum is read as it is, with all its keys.

    Raises:
        RunFolderError: The file is missing, too large, damaged, or holds something else.
    """
    text = _read_text(path)
    if text.startswith(_SEAL):
        digest, body = text[len(_SEAL) :][:66], text[len(_SEAL) + 66 :]
        if hashlib.sha256(body.encode()).hexdigest() + '",' != digest:
            raise RunFolderError(f"{path}: damaged (its checksum differs). {_AGAIN}")
        text = "{" + body
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError, MemoryError) as error:
        raise RunFolderError(f"{path}: not a readable JSON file ({error}). {_AGAIN}") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"{path}: holds a {type(value).__name__}, not a record. {_AGAIN}")
    return value


def _read_text(path: Path) -> str:
    try:
        return read_text(path, largest=LARGEST_JSON)
    except FileNotFoundError as error:
        raise RunFolderError(f"{path}: no such file.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunFolderError(f"{path}: not a readable JSON file ({reason}). {_AGAIN}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number in JSON")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and metadata as a safetensors file with its own checksum.

    Equal tensors and facts give equal bytes.

    Args:
        path: Where the file shall lie.
        tensors: By name.
        facts: Anything that JSON can hold.

    Raises:
        WriteError: The file cannot be written.
    """
    text = _UNSEALED + json.dumps(facts, sort_keys=True, allow_nan=False)

    def write(temporary: Path) -> None:
        save_file(
            {name: value.contiguous() for name, value in tensors.items()},
            temporary,
            {"tutelage": text},
        )
        digest = _digest(temporary)
        with temporary.open("rb+") as file:
            file.seek(8 + len(_HEADER))
            file.write(digest.encode())

    write_whole(path, write)


def read_metadata(path: Path) -> dict[str, Any]:
    """Verify a file of `write_tensors`, and return its metadata.

    Raises:
        RunFolderError: The file is missing, damaged, or was not written by `write_tensors`.
    """
    try:
        with open_regular(path) as file:
            length = _header_length(file.read(8), path.stat().st_size)
            header = file.read(length)
        if not header.startswith(_HEADER):
            raise RunFolderError(f"{path}: carries no checksum; another program wrote it.")
        if _digest(path) != header[len(_HEADER) :][:64].decode("ascii"):
            raise RunFolderError(f"{path}: damaged (its checksum differs).")
        facts = json.loads(json.loads(header)["__metadata__"]["tutelage"][64:])
    except FileNotFoundError as error:
        raise RunFolderError(f"{path}: no such file.") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise RunFolderError(f"{path}: damaged ({type(error).__name__}: {error}).") from error
    if not isinstance(facts, dict):
        raise RunFolderError(f"{path}: damaged (its facts are no table).")
    return facts


def has_checksum(path: Path) -> bool:
    """Whether a safetensors file was written by `write_tensors`."""
    with open_regular(path) as file:
        file.seek(8)
        return file.read(len(_HEADER)) == _HEADER


def _header_length(first: bytes, size: int) -> int:
    """Declared length of a header, checked before reading it."""
    if len(first) < 8:
        raise ValueError("it ends within its first 8 bytes")
    length: int = struct.unpack("<Q", first)[0]
    if length > min(LARGEST_HEADER, size - 8):
        raise ValueError(f"it declares a header of {length} bytes, the file has {size}")
    return length


def _digest(path: Path) -> str:
    """SHA-256 of the file without its own checksum."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        digest.update(file.read(8 + len(_HEADER)))
        file.seek(len(_UNSEALED), 1)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
