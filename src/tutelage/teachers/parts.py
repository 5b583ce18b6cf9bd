"""Building a cache by several jobs: a note per shard, and the manifest made from them."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tutelage.errors import CacheError, ConfigError, RunFolderError
from tutelage.files import file_sha256
from tutelage.records import load_record, save_record
from tutelage.teachers.storage import Storage, local_folder
from tutelage.teachers.store import (
    MANIFEST,
    CacheKey,
    Manifest,
    Shard,
    check_fits,
    load_manifest,
    make_manifest,
    save_manifest,
    shard_path,
    verify_ranges,
)

MOST_NAMED = 8
_NOTE = re.compile(r"shard-(\d+)\.json")
_OF_SHARD = re.compile(r"shard-\d+\.(?:json|safetensors)")


@dataclass(frozen=True, slots=True)
class Part:
    """The shards that one of several jobs builds.

    Attributes:
        number: Number of this job, from 1.
        count: Number of jobs.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse an invalid part."""
        if not 1 <= self.number <= self.count:
            raise ConfigError(
                f"--part must be K/N with K from 1 to N, got {self.number}/{self.count}."
            )

    def of(self, total: int) -> range:
        """Numbers of its shards; the parts together cover all shards."""
        return range((self.number - 1) * total // self.count, self.number * total // self.count)


def parse_part(text: str) -> Part:
    """Parse a part from the command line, such as `3/8`.

    Raises:
        ConfigError: It is no part.
    """
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and len(text) < 20):
        raise ConfigError(f"--part must be K/N, as 3/8, got {text!r}.")
    return Part(int(number), int(count))


@dataclass(frozen=True, slots=True)
class Note:
    """Facts about a shard, written beside it by its builder, for the manifest.

    Attributes:
        number: Number of the shard.
        count: Number of shards of the cache.
        key: What it was made from.
        shard: Its samples, size and checksum.
        seconds: Time that it took.
    """

    number: int
    count: int
    key: CacheKey
    shard: Shard
    seconds: float


def note_path(folder: Path, number: int) -> Path:
    """Path of a shard's note."""
    return shard_path(folder, number).with_suffix(".json")


def save_note(place: Storage, folder: Path, note: Note) -> None:
    """Write a shard's note, which marks the shard as done."""
    path = note_path(folder, note.number)
    save_record(path, note)
    place.put(path)


def read_notes(place: Storage, names: set[str], key: CacheKey | None = None) -> dict[int, Note]:
    """The notes in a storage, by shard, without those whose shard is missing or incomplete.

    Args:
        place: Where.
        names: Names of all its files.
        key: Only notes of a cache made from this; None takes all.
    """
    notes = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted(names):
            if _NOTE.fullmatch(name):
                path = Path(folder, name)
                place.get(name, path)
                note = load_record(path, Note)
                if key in (None, note.key) and shard_path(path, note.number).name in names:
                    notes[note.number] = note
    return notes


def missing_shards(notes: dict[int, Note]) -> list[int]:
    """Numbers of the shards that are not built yet."""
    count = next(iter(notes.values())).count
    return [number for number in range(count) if number not in notes]


def finish(place: Storage, key: CacheKey | None = None) -> Manifest | None:
    """Write the manifest, once all shards exist, and delete files that it does not name.

    Args:
        place: Where the shards and their notes lie.
        key: What the cache is made from; None takes what the notes say.

    Returns:
        The manifest; None while shards are missing.

    Raises:
        CacheError: There is nothing, or shards of two builds lie there.
    """
    try:
        made = _finish(place, key)
    except (CacheError, RunFolderError):
        if place.size(MANIFEST) is None:
            raise
        made = None
    if made is None and place.size(MANIFEST) is not None:  # another part was faster
        return read_manifest(place)
    return made


def _finish(place: Storage, key: CacheKey | None) -> Manifest | None:
    names = place.names()
    notes = read_notes(place, names, key)
    if not notes:
        raise CacheError(f"{place}: no shards with notes lie there. Build them: {_BUILD}.")
    first = notes[min(notes)]
    strange = next(
        (n for n in notes.values() if (n.key, n.count) != (first.key, first.count)), None
    )
    if strange is not None:
        raise CacheError(
            f"{place}: shards {first.number} and {strange.number} were made from different things "
            "or cut differently. Remove those of the older build, or use another folder."
        )
    if missing_shards(notes):
        return None
    shards = [notes[number].shard for number in range(first.count)]
    seconds = sum(note.seconds for note in notes.values())
    manifest = make_manifest(first.key, shards, seconds)
    verify_ranges(str(place), manifest)
    with local_folder(place) as folder:
        save_manifest(folder, manifest)
        place.put(folder / MANIFEST)
    kept = {shard_path(Path(), number).name for number in notes}
    for name in names - kept:  # notes, and shards of an earlier cache that had more
        if _OF_SHARD.fullmatch(name):
            place.remove(name)
    return manifest


def finish_or_say(place: Storage) -> Manifest:
    """Write the manifest, or name the missing shards.

    Raises:
        CacheError: Some are.
    """
    names = place.names()
    if MANIFEST in names:
        return read_manifest(place)
    manifest = finish(place)
    if manifest is not None:
        return manifest
    notes = read_notes(place, names)
    missing = missing_shards(notes)
    some = ", ".join(map(str, missing[:MOST_NAMED])) + (", ..." if missing[MOST_NAMED:] else "")
    raise CacheError(
        f"{place}: missing shards: {len(missing)} of {len(missing) + len(notes)} ({some}). Run "
        f"the parts that build them again: {_BUILD}."
    )


def read_manifest(place: Storage) -> Manifest:
    """The manifest of a cache in any storage.

    Raises:
        CacheError: There is none, or it is damaged.
    """
    if place.size(MANIFEST) is None:
        raise CacheError(
            f"{place}: no complete teacher cache ({MANIFEST} is missing). Build it: {_BUILD}; or, "
            "if all parts are built: tutelage cache finish PLACE."
        )
    with tempfile.TemporaryDirectory() as folder:
        place.get(MANIFEST, Path(folder, MANIFEST))
        return load_manifest(Path(folder))


def verify_place(place: Storage, manifest: Manifest) -> None:
    """Verify the checksum of every shard, in any storage.

    Raises:
        CacheError: One is missing or differs.
    """
    verify_ranges(str(place), manifest)
    names = place.names()
    for number, shard in enumerate(manifest.shards):
        name = shard_path(Path(), number).name
        if name not in names or place.sha256(name) != shard.sha256:
            raise CacheError(f"{place}: {name} is missing or damaged. {_BUILD} makes it again.")


def reopen(place: Storage) -> None:
    """Reopen a complete cache for building; only valid shards count as built."""
    if place.size(MANIFEST) is None:
        return
    manifest, names = read_manifest(place), place.names()
    with local_folder(place) as folder:
        for number, shard in enumerate(manifest.shards):
            name = shard_path(Path(), number).name
            if name in names and place.sha256(name) == shard.sha256:
                note = Note(number, len(manifest.shards), manifest.key, shard, 0.0)
                save_note(place, folder, note)
    place.remove(MANIFEST)


def copy_here(place: Storage, folder: Path, wanted: CacheKey) -> None:
    """Copy a cache to a local folder; valid shards that exist there are kept.

    Args:
        place: Where the cache lies.
        folder: Where it is wanted. Its manifest comes last.
        wanted: What it must have been made from.

    Raises:
        CacheError: It was made from something else, or cannot be read.
    """
    manifest = read_manifest(place)
    check_fits(str(place), manifest, wanted)
    local = folder / MANIFEST
    if local.is_file() and load_manifest(folder).key == manifest.key:
        return
    local.unlink(missing_ok=True)
    for number, shard in enumerate(manifest.shards):
        path = shard_path(folder, number)
        if not path.is_file() or file_sha256(path) != shard.sha256:
            place.get(path.name, path)
    place.get(MANIFEST, local)


_BUILD = "tutelage cache build RECIPE [--part K/N]"
