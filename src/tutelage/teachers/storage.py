"""Storage of a cache: a folder, or an address that fsspec supports (s3://, gs://, ...)."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

from tutelage.errors import CacheError, MissingExtraError, require
from tutelage.files import file_sha256, read_bytes


@runtime_checkable
class Storage(Protocol):
    """Files by name, without subfolders."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        ...

    def names(self) -> set[str]:
        """Names of all files."""
        ...

    def put(self, path: Path) -> None:
        """Upload a file under its own name; its local path may be gone afterwards."""
        ...

    def get(self, name: str, path: Path) -> None:
        """Download a file to a path."""
        ...

    def sha256(self, name: str) -> str:
        """SHA-256 of a file's content, in hexadecimal."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file, if it exists."""
        ...


@final
class LocalStorage:
    """A local or shared folder.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        """Hold the path."""
        self.path = path

    def __str__(self) -> str:
        """The path."""
        return str(self.path)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def names(self) -> set[str]:
        """Names of all files."""
        return {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()

    def put(self, path: Path) -> None:
        """Nothing to do, because files are written in place."""
        if path.parent != self.path:
            raise ValueError(f"{path} does not lie in {self.path}")

    def get(self, name: str, path: Path) -> None:
        """Copy a file."""
        try:
            path.write_bytes(read_bytes(self.path / name))
        except OSError as error:
            raise CacheError(f"{self.path / name}: cannot be read ({error.strerror}).") from error

    def sha256(self, name: str) -> str:
        """SHA-256 of a file's content, in hexadecimal."""
        return file_sha256(self.path / name)

    def remove(self, name: str) -> None:
        """Delete a file, if it exists."""
        (self.path / name).unlink(missing_ok=True)


@final
class RemoteStorage:
    """An address that fsspec supports. Files are uploaded whole; small ones are renamed into place.

    Args:
        url: Address such as `s3://bucket/folder`.

    Raises:
        MissingExtraError: fsspec or what it needs for this kind of address is not installed.
    """

    def __init__(self, url: str) -> None:
        """Open the file system."""
        fsspec: Any = require("fsspec", "remote", f"A cache at {url}")
        self.url = url.rstrip("/")
        with self._told("opened"):
            self._system, self._root = fsspec.core.url_to_fs(self.url)

    def __str__(self) -> str:
        """The address."""
        return self.url

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Convert any file system's errors to one of ours."""
        try:
            yield
        except ImportError as error:
            raise MissingExtraError(
                f"{self.url}: {error}. For s3:// that is pip install 'tutelage[remote]'."
            ) from error
        except Exception as error:  # each file system has errors of its own
            raise CacheError(
                f"{self.url}: cannot be {what} ({type(error).__name__}: {error}). Look at the "
                "address, the rights and the network, then give the same command again."
            ) from error

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        with self._told("read"):
            self._system.invalidate_cache()
            if not self._system.exists(self._at(name)):
                return None
            return int(self._system.info(self._at(name))["size"])

    def names(self) -> set[str]:
        """Names of all files."""
        with self._told("listed"):
            self._system.invalidate_cache()
            if not self._system.exists(self._root):
                return set()
            found = self._system.ls(self._root, detail=False)
            return {str(path).rstrip("/").rpartition("/")[2] for path in found}

    def put(self, path: Path) -> None:
        """Upload a file and delete the local one."""
        with self._told("written"):
            self._system.makedirs(self._root, exist_ok=True)
            if path.suffix == ".json":
                self._system.put_file(str(path), self._at(path.name + ".part"))
                self._system.mv(self._at(path.name + ".part"), self._at(path.name))
            else:
                self._system.put_file(str(path), self._at(path.name))
        path.unlink()

    def get(self, name: str, path: Path) -> None:
        """Download a file, atomically replacing an existing one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._told("read"), tempfile.TemporaryDirectory(dir=path.parent) as folder:
            self._system.get_file(self._at(name), f"{folder}/{name}")
            Path(folder, name).replace(path)

    def sha256(self, name: str) -> str:
        """SHA-256 of a file's content, which is read but not stored."""
        with self._told("read"), self._system.open(self._at(name), "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(2**20):
                digest.update(block)
            return digest.hexdigest()

    def remove(self, name: str) -> None:
        """Delete a file, if it exists."""
        with self._told("changed"):
            if self._system.exists(self._at(name)):
                self._system.rm_file(self._at(name))


@contextmanager
def local_folder(place: Storage) -> Iterator[Path]:
    """Folder into which files are written first: the storage itself if it is a folder."""
    if isinstance(place, LocalStorage):
        yield place.path
        return
    with tempfile.TemporaryDirectory(prefix="tutelage-") as folder:
        yield Path(folder)


def is_remote(text: str) -> bool:
    """Whether a text is an address rather than a path."""
    return "://" in text


def open_storage(text: str | Path) -> LocalStorage | RemoteStorage:
    """The storage that a text names: an address with `://`, else a folder."""
    return RemoteStorage(str(text)) if is_remote(str(text)) else LocalStorage(Path(text))
