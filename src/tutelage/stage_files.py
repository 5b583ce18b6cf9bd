"""Files that the stages of a run wrote, as opposed to files added later."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tutelage.errors import RunFolderError
from tutelage.files import file_sha256
from tutelage.records import RunRecord, load_record

STAGES = ("*", "arms/*/*", "assistants/*")


@dataclass(frozen=True, slots=True)
class CompletionMarker:
    """Marker of a finished stage.

    Attributes:
        key: Fingerprint of all that the stage depends on.
        files: Path below the stage's folder to SHA-256.
    """

    key: str
    files: dict[str, str]


def left_files(out: Path) -> dict[str, str]:
    """All files that the stages of a run wrote: relative path to SHA-256."""
    found: dict[str, str] = {}
    for stage in STAGES:
        for path in sorted(out.glob(f"{stage}/stamp.json")):
            place = path.parent.relative_to(out)
            digests = load_record(path, CompletionMarker).files
            found |= {(place / Path(name).name).as_posix(): digests[name] for name in digests}
    return found


def check_left(out: Path, record: RunRecord, files: Iterable[Path]) -> None:
    """Refuse files that the run did not write: swapped, changed, or of another run.

    It finds a mistake. Whoever may write the folder may write its results too.

    Args:
        out: The run folder.
        record: Its results.
        files: Files of its stages.

    Raises:
        RunFolderError: One is another file, or none.
    """
    known = record.files or left_files(out)  # results of earlier versions name no files
    for file in files:
        name = file.relative_to(out).as_posix()
        if not file.is_file() or known.get(name) != file_sha256(file):
            raise RunFolderError(
                f"{file}: was changed or removed since the run left it. Put the run's own file "
                f"back, or remove {file.parent / 'stamp.json'} and run the recipe again, which "
                "makes it anew."
            )
