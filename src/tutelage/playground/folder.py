"""The playground as static files: one page, two or three networks, and their runtime."""

import base64
import gzip
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tutelage.files import refuse_links, write_text, write_whole
from tutelage.playground.content import Content, read_run
from tutelage.playground.page import render
from tutelage.playground.runtime import BINARY, LOADER, Runtime

RUNTIME_FILES = (LOADER, BINARY)


@dataclass(frozen=True, slots=True)
class Written:
    """The written files.

    Attributes:
        page: The page.
        size_bytes: Size in bytes of everything together.
        names: Names of all files beside the page that it needs, below its folder.
    """

    page: Path
    size_bytes: int
    names: tuple[str, ...] = ()


def write_folder(run: Path, out: Path, runtime: Runtime, given: Path | None = None) -> Written:
    """Write a run's playground as a folder of static files, for any web server.

    Args:
        run: A finished run with exported networks.
        out: The folder; files of an earlier playground are replaced.
        runtime: ONNX Runtime Web.
        given: Where a person unpacked other packages that the page needs, as for `find_runtime`.

    Raises:
        RunFolderError: The run's folder lacks what is shown.
        ConfigError: Its networks take neither images nor texts.
        WriteError: A file cannot be written.
    """
    refuse_links(run)
    refuse_links(out)
    content = read_run(run, given)
    sources = _sources(content, runtime)
    for name, source in sources.items():
        write_whole(out / name, partial(_copy, source))
    page = out / "index.html"
    write_text(page, render(content, runtime))
    size = sum((out / name).stat().st_size for name in (*sources, page.name))
    return Written(page, size, tuple(sources))


def write_single_file(
    run: Path, page: Path, runtime: Runtime, given: Path | None = None
) -> Written:
    """Write a run's playground as one HTML file that works without any server.

    The networks and the runtime lie in it, compressed.

    Args:
        run: See `write_folder`.
        page: The file.
        runtime: See `write_folder`.
        given: See `write_folder`.

    Raises:
        RunFolderError, ConfigError, WriteError: As for `write_folder`.
    """
    refuse_links(run)
    content = read_run(run, given)
    packed = {name: _pack(source) for name, source in _sources(content, runtime).items()}
    write_text(page, render(content, runtime, packed))
    return Written(page, page.stat().st_size)


def _sources(content: Content, runtime: Runtime) -> dict[str, Path]:
    """Source of each file, by its name in the folder."""
    networks = {network.file: network.source for network in content.networks}
    runs = {f"runtime/{name}": runtime.folder / name for name in RUNTIME_FILES}
    return networks | runs | content.inputs.files()


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _pack(source: Path) -> str:
    """Compressed content as text; the same file gives the same text."""
    return base64.b64encode(gzip.compress(source.read_bytes(), mtime=0)).decode()
