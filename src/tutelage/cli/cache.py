"""The commands of the teacher cache."""

from collections.abc import Sequence

from rich.table import Table

from tutelage.cli.commands import job_of, open_console
from tutelage.cli.console import PlainConsole
from tutelage.cli.progress import ProgressListener
from tutelage.distributed import destroy_process_group, on_main_process
from tutelage.pipeline.run import build_part, only_teacher, rebuild_cache
from tutelage.pipeline.training import cache_place
from tutelage.teachers import store
from tutelage.teachers.parts import (
    finish_or_say,
    parse_part,
    read_manifest,
    verify_place,
)
from tutelage.teachers.storage import LocalStorage, RemoteStorage, open_storage
from tutelage.teachers.store import Manifest


def build_teacher_cache(name: str, overrides: Sequence[str]) -> None:
    """Train or load the teacher and build the cache of a recipe."""
    console = open_console()
    job = job_of(name, overrides, "")
    with ProgressListener(console) as listener:
        rebuild_cache(job, listener)
    place = cache_place(job)
    on_main_process(lambda: _describe(place, read_manifest(place)))
    destroy_process_group()


def train_teacher(name: str, overrides: Sequence[str]) -> None:
    """Train the teacher of a recipe, before several jobs build its cache."""
    console = open_console()
    job = job_of(name, overrides, "")
    with ProgressListener(console) as listener:
        only_teacher(job, listener)
    destroy_process_group()


def build_cache_part(name: str, overrides: Sequence[str], part: str) -> None:
    """Build some shards of the cache of a recipe."""
    console, wanted = open_console(), parse_part(part)
    job = job_of(name, overrides, "")
    with ProgressListener(console) as listener:
        build_part(job, wanted, listener)
    destroy_process_group()


def finish_cache(text: str) -> None:
    """Write the manifest of a cache whose parts are all built."""
    place = _place(text)
    _describe(place, finish_or_say(place))


def describe_cache(text: str) -> None:
    """Print a cache's manifest."""
    place = _place(text)
    _describe(place, read_manifest(place))


def verify_cache(text: str) -> None:
    """Check a cache's shards."""
    place = _place(text)
    manifest = read_manifest(place)
    if isinstance(place, LocalStorage):
        store.verify(place.path, manifest)
    else:
        verify_place(place, manifest)
    PlainConsole().print(f"{place}: {len(manifest.shards)} shard(s) are whole and unchanged.")


def _describe(place: LocalStorage | RemoteStorage, manifest: Manifest) -> None:
    """Print what a cache holds."""
    table = Table(box=None, show_header=False, pad_edge=False)
    rows = {
        "cache": str(place),
        "samples x views": f"{manifest.key.num_samples:,} x {manifest.key.num_views}",
        "classes": str(manifest.key.num_classes),
        "codec": manifest.key.codec,
        "size": f"{manifest.size_bytes / 1e6:.2f} MB in {len(manifest.shards)} shard(s)",
        "bytes per item": f"{manifest.bytes_per_item:.1f}",
        "KL(live || cached)": f"{manifest.kl_to_live:.3g} nats",
        "built in": f"{manifest.build_seconds:.1f} s",
        "teacher": manifest.key.teacher,
        "data": manifest.key.data,
        "views": manifest.key.views,
    }
    for key, value in rows.items():
        table.add_row(key, value)
    PlainConsole().print(table)


def _place(text: str) -> LocalStorage | RemoteStorage:
    """A cache's storage, given itself or the run folder around it."""
    place = open_storage(text)
    if isinstance(place, LocalStorage) and (place.path / "cache").is_dir():
        return LocalStorage(place.path / "cache")
    return place
