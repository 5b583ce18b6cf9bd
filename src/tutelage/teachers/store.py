"""The teacher cache on disk: safetensors shards, and a manifest that describes them."""

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tutelage.checksums import read_metadata, write_tensors
from tutelage.errors import CacheError, RunFolderError
from tutelage.files import check_regular, file_sha256, fingerprint, open_regular
from tutelage.records import load_record, save_record

FORMAT = 1
MANIFEST = "manifest.json"
SHARD_BYTES = 16 * 2**20
SHARD_SAMPLES = 2**14  # of a slow teacher minutes, which is what an interrupted build loses
_UNREADABLE = (
    SafetensorError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    OverflowError,
    RecursionError,
)
_DTYPES = {
    "F32": np.float32,
    "F16": np.float16,
    "U8": np.uint8,
    "U16": np.uint16,
    "I32": np.int32,
}


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What a cache is made from; a cache fits a run only if all of it is equal.

    Attributes:
        teacher: The teacher's fingerprint (weights, buffers, architecture).
        data: The data's fingerprint (samples, normalisation).
        views: The view policy's fingerprint.
        codec: Name of the codec.
        num_samples, num_views, num_classes: Sizes.
        items_per_sample: Rows of each view of a sample: tokens of a block, else 1.
    """

    teacher: str
    data: str
    views: str
    codec: str
    num_samples: int
    num_views: int
    num_classes: int
    items_per_sample: int = 1

    @property
    def items_of_sample(self) -> int:
        """Rows of all views of a sample."""
        return self.num_views * self.items_per_sample

    @property
    def text(self) -> str:
        """One short fingerprint of the whole key."""
        return fingerprint(asdict(self))


@dataclass(frozen=True, slots=True)
class Shard:
    """One file: samples start..stop-1 with all views, sample by sample."""

    start: int
    stop: int
    size_bytes: int
    sha256: str
    kl_sum: float
    gradient_bias: float | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Description of a cache, written last: a cache with a manifest is complete.

    Attributes:
        format: Format of the files.
        key: What it was made from.
        shards: One a file.
        size_bytes: Size in bytes of all files.
        bytes_per_item: Size in bytes of a row of a view: a sample's, or a token's.
        kl_to_live: Mean divergence of what is read back from what the teacher said, in nats.
        build_seconds: Time of the build.
        gradient_bias: For caches that keep a part of a vocabulary: how far the mean gradient of
            forward KL is off, relative to that of the live teacher; None of others.
    """

    format: int
    key: CacheKey
    shards: list[Shard]
    size_bytes: int
    bytes_per_item: float
    kl_to_live: float
    build_seconds: float
    gradient_bias: float | None = None


def shard_path(folder: Path, number: int) -> Path:
    """Path of a shard, built from numbers alone, never from the manifest."""
    return folder / f"shard-{number:05d}.safetensors"


def write_shard(path: Path, arrays: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write one shard with its own checksum, atomically."""
    write_tensors(path, arrays, metadata)


def shard_metadata(path: Path) -> dict[str, str]:
    """Metadata in a shard's header; empty if the shard is damaged."""
    try:
        check_regular(path)
        with safe_open(path, framework="np"):
            return {name: str(value) for name, value in read_metadata(path).items()}
    except (SafetensorError, RunFolderError, OSError):
        return {}


def map_shard(path: Path, num_items: int) -> dict[str, np.ndarray]:
    """The arrays of one shard, memory-mapped.

    Raises:
        CacheError: The file is no shard of that many items.
    """
    try:
        check_regular(path)
        with safe_open(path, framework="np"):
            pass
        with open_regular(path) as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        arrays = {
            name: np.asarray(
                np.memmap(
                    path,
                    dtype=_DTYPES[entry["dtype"]],
                    mode="r",
                    offset=8 + length + entry["data_offsets"][0],
                    shape=tuple(entry["shape"]),
                )
            )
            for name, entry in header.items()
        }
    except _UNREADABLE as error:
        raise CacheError(f"{path}: not a cache shard ({type(error).__name__}: {error}).") from error
    if not arrays or any(array.shape[:1] != (num_items,) for array in arrays.values()):
        raise CacheError(f"{path}: holds another number of items than its manifest says.")
    return arrays


def make_manifest(key: CacheKey, shards: list[Shard], seconds: float) -> Manifest:
    """The manifest of a cache with all shards present.

    Args:
        key: What it was made from.
        shards: All of them, in order.
        seconds: Time of the build.
    """
    items = key.num_samples * key.items_of_sample
    biases = [(s.stop - s.start, s.gradient_bias) for s in shards if s.gradient_bias is not None]
    size = sum(shard.size_bytes for shard in shards)
    return Manifest(
        format=FORMAT,
        key=key,
        shards=shards,
        size_bytes=size,
        bytes_per_item=size / items,
        kl_to_live=sum(shard.kl_sum for shard in shards) / items,
        build_seconds=seconds,
        gradient_bias=sum(n * b for n, b in biases) / key.num_samples if biases else None,
    )


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, which marks the cache as complete."""
    save_record(folder / MANIFEST, manifest)


def load_manifest(folder: Path) -> Manifest:
    """Read a cache's manifest.

    Raises:
        CacheError: There is none, it is damaged, or it is of another format.
    """
    if not (folder / MANIFEST).is_file():
        raise CacheError(
            f"{folder}: no complete teacher cache ({MANIFEST} is missing). Build it: "
            "tutelage cache build RECIPE."
        )
    try:
        manifest = load_record(folder / MANIFEST, Manifest)
    except RunFolderError as error:
        raise CacheError(
            f"{error} Or build the cache anew: tutelage cache build RECIPE."
        ) from error
    if manifest.format != FORMAT:
        raise CacheError(
            f"{folder}: the cache has format {manifest.format}, this version reads {FORMAT}. "
            "Build it anew: tutelage cache build RECIPE."
        )
    return manifest


def verify(folder: Path, manifest: Manifest) -> None:
    """Verify that every shard exists, complete and unchanged.

    Raises:
        CacheError: A shard is missing or differs from what was written; the message names it.
    """
    verify_ranges(folder, manifest)
    for number, shard in enumerate(manifest.shards):
        path = shard_path(folder, number)
        if not path.is_file():
            raise CacheError(f"{path}: the shard is missing. {_REBUILD}")
        if path.stat().st_size != shard.size_bytes or file_sha256(path) != shard.sha256:
            raise CacheError(f"{path}: the shard is damaged (its checksum differs). {_REBUILD}")


def discard(folder: Path) -> None:
    """Remove a cache's manifest; the next build reuses its valid shards."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return
    try:
        shards = load_manifest(folder).shards
    except CacheError:
        shards = []
    known = {shard_path(folder, number): shard for number, shard in enumerate(shards)}
    for path in folder.glob("shard-*.safetensors"):
        if path not in known or file_sha256(path) != known[path].sha256:
            path.unlink()
    manifest.unlink()


_REBUILD = "Build the cache again, which keeps the whole shards: tutelage cache build RECIPE."


def verify_ranges(folder: Path | str, manifest: Manifest) -> None:
    """Check that the shards cover the samples without gaps.

    Raises:
        CacheError: They do not.
    """
    ends = [0, *(shard.stop for shard in manifest.shards)]
    starts = [shard.start for shard in manifest.shards]
    sizes = {shard.stop - shard.start for shard in manifest.shards[:-1]}
    whole = starts == ends[:-1] and ends[-1] == manifest.key.num_samples
    if not whole or len(sizes) > 1 or any(s.stop <= s.start for s in manifest.shards):
        raise CacheError(
            f"{folder}/{MANIFEST}: its shards do not cover the samples one after another. "
            "Build the cache anew: tutelage cache build RECIPE."
        )


def check_fits(folder: Path | str, manifest: Manifest, wanted: CacheKey) -> None:
    """Refuse a cache that was made from something else.

    Raises:
        CacheError: Says what differs.
    """
    have, want = asdict(manifest.key), asdict(wanted)
    differing = [name for name in want if have[name] != want[name]]
    if differing:
        details = "; ".join(f"{name}: {have[name]} there, {want[name]} here" for name in differing)
        first = differing[0].replace("num_", "number of ")
        raise CacheError(
            f"{folder}: the cache was made from another {first} ({details}). Build "
            "it anew (tutelage cache build RECIPE), which keeps what still fits, delete it, or "
            "name another folder."
        )
