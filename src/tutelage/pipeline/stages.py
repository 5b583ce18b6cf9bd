"""The stages of a run: each is done once, kept in a folder, skipped when it is there, and timed."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from tutelage.distributed import on_main_process
from tutelage.engine.events import Listener, StageDone, StageStarted
from tutelage.engine.memory import oom_context
from tutelage.errors import RunFolderError
from tutelage.files import file_sha256
from tutelage.records import load_record, save_record
from tutelage.stage_files import CompletionMarker

MARKER = "stamp.json"
Result = TypeVar("Result")


def _nothing(_: object) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Stage(Generic[Result]):
    """Work whose result is kept, and not done again while what it depends on is the same.

    Attributes:
        name: In progress and logs.
        folder: Where the result lies.
        key: Fingerprint of all that it depends on.
        do: Does the work, in every process, and gives the files that make up the result.
        load: Reads the result.
        total: Steps of the work, for the progress bar; None where nobody counts them.
        note: What is said of the result when it is there.
    """

    name: str
    folder: Path
    key: str
    do: Callable[[], Sequence[Path]]
    load: Callable[[], Result]
    total: int | None = None
    note: Callable[[Result], str] = _nothing

    def run(self, listener: Listener) -> Result:
        """Do the work, or skip it, and read the result.

        All processes call it, or the first one alone while the others wait (`ranks.first`).

        Args:
            listener: Told of the beginning and of the end.

        Raises:
            RunFolderError: The result of this key is there, but a file of it was changed.
        """
        listener(StageStarted(self.name, self.total))
        was_there = on_main_process(lambda: is_complete(self.folder, self.key))
        if not was_there:
            files = self.do()
            on_main_process(lambda: mark_complete(self.folder, self.key, files))
        result = self.load()
        listener(StageDone(self.name, was_there, self.note(result)))
        return result


def is_complete(folder: Path, key: str) -> bool:
    """Whether a stage's result lies there, whole, for this key.

    Raises:
        RunFolderError: The result is of this key but a file of it is missing or changed.
    """
    path = folder / MARKER
    if not path.is_file():
        return False
    marker = load_record(path, CompletionMarker)
    if marker.key != key:
        return False
    for name, digest in marker.files.items():
        file = folder / Path(name).name
        if not file.is_file() or file_sha256(file) != digest:
            raise RunFolderError(
                f"{file}: was changed or removed after it was written. Remove {path} to make it "
                "again."
            )
    return True


def mark_complete(folder: Path, key: str, files: Sequence[Path]) -> None:
    """Mark a stage as complete; written last.

    Args:
        folder: Folder of the stage.
        key: Fingerprint of all that it depends on.
        files: Its result.
    """
    digests = {path.name: file_sha256(path) for path in files}
    save_record(folder / MARKER, CompletionMarker(key, digests))


class Clock:
    """Seconds of each part of a run."""

    def __init__(self) -> None:
        """Nothing has been timed yet."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Time what is done within, under a name that is told if memory runs out there.

        Raises:
            OutOfMemoryError: Memory ran out.
        """
        begun = time.perf_counter()
        with oom_context(name):
            yield
        self.seconds[name] = round(time.perf_counter() - begun, 3)
