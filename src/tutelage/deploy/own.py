"""Files that this user's own exports wrote, as opposed to those of others.

Some files run code when they are opened. Such a file is opened only if an export on this machine
wrote it. That is kept outside of every run folder, as a checksum in it would be its sender's word.
"""

import contextlib
from pathlib import Path

from tutelage.errors import ExportError
from tutelage.files import file_sha256
from tutelage.paths import user_cache

_WRITTEN: set[str] = set()  # where the user's cache cannot be written, this process still knows


def remember(path: Path) -> None:
    """Record that a file was written on this machine."""
    digest = file_sha256(path)
    _WRITTEN.add(digest)
    with contextlib.suppress(OSError):
        _notes().mkdir(parents=True, exist_ok=True)
        (_notes() / digest).touch()


def check_own(path: Path) -> None:
    """Refuse a file that runs code when it is opened, unless it was written on this machine.

    Raises:
        ExportError: It came from elsewhere.
    """
    digest = file_sha256(path)
    if digest in _WRITTEN or (_notes() / digest).is_file():
        return
    raise ExportError(
        f"{path}: PyTorch can run code that such a file holds, and no export on this machine "
        "wrote it. Export it here (tutelage export RUN --target torch_export); or add "
        "--allow-code if you trust whoever sent it."
    )


def _notes() -> Path:
    return user_cache() / "written"
