"""Which stages of a run are done: a stamp names what a stage depends on and what it left."""

from collections.abc import Sequence
from pathlib import Path

from tutelage.errors import RunFolderError
from tutelage.files import file_sha256
from tutelage.left import Stamp
from tutelage.records import load_record, save_record

__all__ = ["Stamp", "is_done", "stamp"]


def is_done(folder: Path, key: str) -> bool:
    """Whether a stage's result lies there, whole, for this key.

    Raises:
        RunFolderError: The result is of this key but a file of it is missing or changed.
    """
    path = folder / "stamp.json"
    if not path.is_file():
        return False
    stamp = load_record(path, Stamp)
    if stamp.key != key:
        return False
    for name, digest in stamp.files.items():
        file = folder / Path(name).name
        if not file.is_file() or file_sha256(file) != digest:
            raise RunFolderError(
                f"{file}: was changed or removed after it was written. Remove {path} to make it "
                "again."
            )
    return True


def stamp(folder: Path, key: str, files: Sequence[Path]) -> None:
    """Mark a stage as done; written last."""
    digests = {path.name: file_sha256(path) for path in files}
    save_record(folder / "stamp.json", Stamp(key, digests))
