"""IDX files, the format of MNIST and its relatives, fully validated."""

import gzip
import io
import math
import os
import zlib
from pathlib import Path
from typing import NoReturn

import torch
from jaxtyping import UInt8
from torch import Tensor

from tutelage.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"
_LARGEST_GZIP_RATIO = 1032  # deflate cannot expand a byte to more
_CHUNK_BYTES = 1 << 20


def read_idx(path: Path, item_shape: tuple[int, ...] = ()) -> UInt8[Tensor, "..."]:
    """Read unsigned bytes from an IDX file, plain or compressed with gzip.

    Args:
        path: The file; gzip is recognised by its content, not by its name.
        item_shape: Shape of one item: () for labels, (height, width) for images.

    Returns:
        All items, stacked along the first dimension.

    Raises:
        DataError: The file cannot be read, is no IDX file of such items, or holds another number
            of bytes than it declares. Nothing is allocated on the word of the header.
    """
    try:
        with path.open("rb") as raw:
            if raw.read(2) != _GZIP_MAGIC:
                raw.seek(0)
                return _read(raw, path, item_shape, _room(raw))
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) as unzipped:
                return _read(unzipped, path, item_shape, _LARGEST_GZIP_RATIO * _room(raw))
    except (OSError, EOFError, zlib.error) as error:
        _refuse(path, f"cannot be read ({str(error) or type(error).__name__})")


def _room(raw: io.BufferedIOBase) -> int:
    return os.fstat(raw.fileno()).st_size


def _read(
    file: io.BufferedIOBase, path: Path, item_shape: tuple[int, ...], room: int
) -> UInt8[Tensor, "..."]:
    """Read the header, then the body; `room` is the largest possible size in bytes."""
    shape = _read_shape(file, path, item_shape)
    declared = math.prod(shape)
    if declared > room:
        _refuse(path, f"declares {shape[0]} items ({declared} bytes), more than it can hold")
    content = bytearray()
    while chunk := file.read(min(_CHUNK_BYTES, declared - len(content))):
        content += chunk
    if len(content) < declared:
        _refuse(path, f"is truncated: {declared} bytes declared, {len(content)} there")
    if file.read(1):
        _refuse(path, f"holds more than the {declared} bytes that it declares")
    return torch.frombuffer(content, dtype=torch.uint8).reshape(shape)


def _read_shape(
    file: io.BufferedIOBase, path: Path, item_shape: tuple[int, ...]
) -> tuple[int, ...]:
    """Read the shape from a header, which must declare unsigned bytes and these items."""
    dims = 1 + len(item_shape)
    wanted = bytes((0, 0, 8, dims))
    magic = file.read(4)
    if magic != wanted:
        _refuse(path, f"starts with 0x{magic.hex() or '(nothing)'}, not with 0x{wanted.hex()}")
    header = file.read(4 * dims)
    if len(header) < 4 * dims:
        _refuse(path, "ends inside its header")
    shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(0, 4 * dims, 4))
    if shape[1:] != item_shape:
        _refuse(path, f"holds items of shape {shape[1:]}, not {item_shape}")
    if shape[0] == 0:
        _refuse(path, "holds no items")
    return shape


def _refuse(path: Path, reason: str) -> NoReturn:
    raise DataError(f"{path}: {reason}. Remove the file and bring it again: scripts/get-data.")
