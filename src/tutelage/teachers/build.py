"""Building a cache: every view of every sample goes through the live teacher once."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tutelage.data.loading import Reader, all_views, iterate
from tutelage.files import file_sha256
from tutelage.teachers.codecs import Codec
from tutelage.teachers.fidelity import WhatIsLost, spans
from tutelage.teachers.module import ModuleTeacher
from tutelage.teachers.store import (
    FORMAT,
    MANIFEST,
    SHARD_BYTES,
    CacheKey,
    Manifest,
    Shard,
    save_manifest,
    shard_metadata,
    shard_path,
    write_shard,
)

Progress = Callable[[int, int], None]


def cache_key(teacher: ModuleTeacher, reader: Reader, codec: Codec) -> CacheKey:
    """What a cache of this teacher on these data is made from."""
    return CacheKey(
        teacher=teacher.fingerprint,
        data=reader.fingerprint,
        views=reader.views.fingerprint,
        codec=codec.name,
        num_samples=len(reader),
        num_views=reader.views.num_views,
        num_classes=teacher.task.num_classes,
        items_per_sample=teacher.task.items_per_sample or 1,
    )


@dataclass(frozen=True, slots=True)
class _Builder:
    folder: Path
    teacher: ModuleTeacher
    reader: Reader
    codec: Codec
    device: torch.device
    workers: int
    key: CacheKey


def build_cache(
    folder: Path,
    teacher: ModuleTeacher,
    reader: Reader,
    codec: Codec,
    *,
    device: torch.device,
    workers: int = 0,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Manifest:
    """Write the teacher's outputs for every view of every sample.

    Shards that an interrupted build of the same cache left are kept.

    Args:
        folder: Where the cache goes.
        teacher: The live teacher.
        reader: The data, with the view policy.
        codec: How logits are written.
        device: Where the teacher runs.
        workers: Processes that read data.
        progress: Called with items done and items in all.
        shard_bytes: Aimed size of a shard.

    Returns:
        The manifest, already on disk.
    """
    begun = time.perf_counter()
    key = cache_key(teacher, reader, codec)
    builder = _Builder(folder, teacher, reader, codec, device, workers, key)
    (folder / MANIFEST).unlink(missing_ok=True)
    per_shard = _samples_per_shard(key, codec, shard_bytes)
    shards = []
    for number, start in enumerate(range(0, key.num_samples, per_shard)):
        stop = min(start + per_shard, key.num_samples)
        shards.append(_shard(builder, number, start, stop))
        if progress is not None:
            progress(stop * key.num_views, key.num_samples * key.num_views)
    items = key.num_samples * key.items_of_sample
    biases = [(s.stop - s.start, s.gradient_bias) for s in shards if s.gradient_bias is not None]
    size = sum(shard.size_bytes for shard in shards)
    manifest = Manifest(
        format=FORMAT,
        key=key,
        shards=shards,
        size_bytes=size,
        bytes_per_item=size / items,
        kl_to_live=sum(shard.kl_sum for shard in shards) / items,
        build_seconds=time.perf_counter() - begun,
        gradient_bias=sum(n * b for n, b in biases) / key.num_samples if biases else None,
    )
    save_manifest(folder, manifest)
    return manifest


def _samples_per_shard(key: CacheKey, codec: Codec, shard_bytes: int) -> int:
    arrays = codec.encode(torch.randn(1, key.num_classes))
    item_bytes = sum(array.element_size() * array.numel() for array in arrays.values())
    return max(1, shard_bytes // (item_bytes * key.items_of_sample))


def _shard(builder: _Builder, number: int, start: int, stop: int) -> Shard:
    path = shard_path(builder.folder, number)
    wanted = {"build": builder.key.text, "start": str(start), "stop": str(stop)}
    found = shard_metadata(path)
    if not all(found.get(name) == value for name, value in wanted.items()):
        found = wanted | _write(builder, path, wanted, start, stop)
    return Shard(
        start=start,
        stop=stop,
        size_bytes=path.stat().st_size,
        sha256=file_sha256(path),
        kl_sum=float(found["kl_sum"]),
        gradient_bias=float(found["gradient_bias"]) if "gradient_bias" in found else None,
    )


def _write(
    builder: _Builder, path: Path, wanted: Mapping[str, str], start: int, stop: int
) -> dict[str, str]:
    requests = all_views(
        start, stop, builder.key.num_views, batch_size=max(1, builder.teacher.chunk)
    )
    rows = []
    loss = WhatIsLost()
    for batch in iterate(builder.reader, requests, builder.workers):
        given = builder.teacher(batch.to(builder.device))
        for part in spans(given, builder.key.num_classes):
            logits = given.pick(part).logits.float().cpu()
            arrays = builder.codec.encode(logits)
            kept = {name: array.numpy() for name, array in arrays.items()}
            loss.add(logits, builder.codec.decode(kept, builder.key.num_classes))
            rows.append(arrays)
    joined = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    write_shard(path, joined, {**wanted, **loss.facts})
    return loss.facts
