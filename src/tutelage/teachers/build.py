"""Building a cache: the live teacher runs once on every view of every sample."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from tutelage.data.loading import BatchBuilder, all_views, iterate
from tutelage.distributed import barrier, on_main_process, world
from tutelage.files import file_sha256
from tutelage.tasks.numbers import check_numbers
from tutelage.teachers.codecs import Codec
from tutelage.teachers.fidelity import ReconstructionStats, spans
from tutelage.teachers.module import ModuleTeacher
from tutelage.teachers.parts import Note, Part, finish, read_manifest, read_notes, save_note
from tutelage.teachers.storage import LocalStorage, Storage, local_folder
from tutelage.teachers.store import (
    MANIFEST,
    SHARD_BYTES,
    SHARD_SAMPLES,
    CacheKey,
    Manifest,
    Shard,
    shard_metadata,
    shard_path,
    write_shard,
)

Progress = Callable[[int, int], None]


def cache_key(teacher: ModuleTeacher, reader: BatchBuilder, codec: Codec) -> CacheKey:
    """Key of a cache: the teacher and the data that it is made from."""
    return CacheKey(
        teacher=teacher.fingerprint,
        data=reader.fingerprint,
        views=reader.views.fingerprint,
        codec=codec.name,
        num_samples=len(reader),
        num_views=reader.views.num_views,
        num_classes=teacher.task.width,
        items_per_sample=teacher.task.items_per_sample or 1,
    )


@dataclass(frozen=True, slots=True)
class _Builder:
    folder: Path
    place: Storage
    teacher: ModuleTeacher
    reader: BatchBuilder
    codec: Codec
    device: torch.device
    workers: int
    key: CacheKey


def build_cache(  # noqa: PLR0913 - where, what and how fast, each with a default
    where: Path | Storage,
    teacher: ModuleTeacher,
    reader: BatchBuilder,
    codec: Codec,
    *,
    device: torch.device,
    workers: int = 0,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
    part: Part | None = None,
) -> Manifest | None:
    """Write the teacher's outputs for every view of every sample.

    Shards that an interrupted build left are kept, and so are those of an earlier cache whose
    samples are the same: of texts to which others were added, all but the last. Several processes
    of a run build different shards at once, and so do several jobs that are given a part each;
    whoever finds all shards there writes the manifest.

    Args:
        where: The folder that the cache goes to, or another place.
        teacher: The live teacher.
        reader: The data, with the view policy.
        codec: How logits are written.
        device: Where the teacher runs.
        workers: Processes that read data.
        progress: Called with items done and items in all.
        shard_bytes: Aimed size of a shard.
        part: Which shards to build; None builds all.

    Returns:
        The manifest, already in its place; None while other parts are missing.
    """
    key = cache_key(teacher, reader, codec)
    place = LocalStorage(where) if isinstance(where, Path) else where
    if part is not None and on_main_process(lambda: _is_complete(place, key)):
        return read_manifest(place)
    on_main_process(lambda: place.remove(MANIFEST))
    per_shard = _samples_per_shard(key, codec, shard_bytes)
    starts = range(0, key.num_samples, per_shard)
    mine = (part or Part()).of(len(starts))
    names = place.names()
    there = on_main_process(lambda: [n for n in read_notes(place, names, key) if n in mine])
    left = [number for number in mine if number not in there]
    items = min(len(mine) * per_shard, key.num_samples) * key.num_views

    def tell(shards: int, built: int) -> None:
        if progress is not None:  # of all processes, as if they were as far as this one
            full = (len(there) + shards * world().count) * per_shard * key.num_views
            progress(min(items, full + built * world().count), items)

    with local_folder(place) as folder:
        builder = _Builder(folder, place, teacher, reader, codec, device, workers, key)
        for done, number in enumerate(left[world().number :: world().count]):
            samples = range(starts[number], min(starts[number] + per_shard, key.num_samples))
            _build_shard(builder, number, len(starts), samples, partial(tell, done))
        barrier()
        is_complete = on_main_process(lambda: finish(place, key) is not None)
    return read_manifest(place) if is_complete else None


def _is_complete(place: Storage, key: CacheKey) -> bool:
    return place.size(MANIFEST) is not None and read_manifest(place).key == key


def _build_shard(
    builder: _Builder, number: int, count: int, samples: range, tell: Callable[[int], None]
) -> None:
    begun = time.perf_counter()
    shard = _shard(builder, number, samples, tell)
    builder.place.put(shard_path(builder.folder, number))
    seconds = time.perf_counter() - begun
    note = Note(number, count, builder.key, shard, seconds)
    save_note(builder.place, builder.folder, note)


def _samples_per_shard(key: CacheKey, codec: Codec, shard_bytes: int) -> int:
    arrays = codec.encode(torch.randn(1, key.num_classes))
    item_bytes = sum(array.element_size() * array.numel() for array in arrays.values())
    return min(SHARD_SAMPLES, max(1, shard_bytes // (item_bytes * key.items_of_sample)))


def _shard(builder: _Builder, number: int, samples: range, tell: Callable[[int], None]) -> Shard:
    path = shard_path(builder.folder, number)
    own = builder.reader.part_fingerprint(samples)
    wanted = {
        "build": replace(builder.key, data=own, num_samples=len(samples)).text,
        "start": str(samples.start),
        "stop": str(samples.stop),
    }
    found = shard_metadata(path)
    if not all(found.get(name) == value for name, value in wanted.items()):
        found = wanted | _write(builder, path, wanted, samples, tell)
    else:
        tell(len(samples) * builder.key.num_views)
    return Shard(
        start=samples.start,
        stop=samples.stop,
        size_bytes=path.stat().st_size,
        sha256=file_sha256(path),
        kl_sum=float(found["kl_sum"]),
        gradient_bias=float(found["gradient_bias"]) if "gradient_bias" in found else None,
    )


def _write(
    builder: _Builder,
    path: Path,
    wanted: Mapping[str, str],
    samples: range,
    tell: Callable[[int], None],
) -> dict[str, str]:
    num_views, first_row = builder.key.num_views, torch.tensor([samples.start])
    teacher, network = builder.teacher, builder.teacher.network
    at_once = teacher.best_size(builder.reader[first_row, torch.zeros_like(first_row)])
    requests = all_views(samples.start, samples.stop, num_views, batch_size=at_once)
    rows, done = [], 0
    loss = ReconstructionStats(teacher.task)
    for batch in iterate(builder.reader, requests, builder.workers):
        given, items = teacher(batch.to(builder.device)), teacher.task.items(batch)
        for part in spans(given, builder.key.num_classes):
            logits = given.pick(part).logits.float().cpu()
            check_numbers(network, logits, items.sample_ids[part], "training data")
            arrays = builder.codec.encode(logits)
            kept = {name: array.numpy() for name, array in arrays.items()}
            loss.add(logits, builder.codec.decode(kept, builder.key.num_classes))
            rows.append(arrays)
        done += len(batch)
        tell(done)
    joined = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    write_shard(path, joined, {**wanted, **loss.facts})
    return loss.facts
