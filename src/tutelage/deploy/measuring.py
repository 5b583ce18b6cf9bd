"""Measurement of exported files by a script beside them, on this machine or another."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tutelage.deploy import standalone
from tutelage.errors import ConfigError, ExportError, RunFolderError
from tutelage.files import write_json, write_text
from tutelage.isolated import run_isolated
from tutelage.records import Measurement

SCRIPT = "measure.py"
MAX_BYTES = 5_000_000


@dataclass(frozen=True, slots=True)
class KitNetwork:
    """An exported file as measure.json lists it for the script.

    Attributes:
        name: Name of the network, in all tables.
        file: Its name in the folder.
        runtime: Its target, a key of `standalone.RUNTIMES`.
        shape: Shape of one sample; ignored if a file holds one.
        dtype: Data type of its numbers, as numpy names it.
        batch: The one batch size that the file takes; None takes any.
        parts: Other files that belong to it.
        sample: A file (.npz) with one sample, an array for each named input that the network takes;
            None where it takes one input, which is made up.
    """

    name: str
    file: str
    runtime: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    batch: int | None = None
    parts: tuple[str, ...] = ()
    sample: str | None = None


def write_kit(folder: Path, networks: Sequence[KitNetwork]) -> Path:
    """Write the script and its list of files beside exported files; the folder is portable.

    Returns:
        The script.

    Raises:
        RunFolderError: The folder cannot be written.
    """
    rows = [asdict(network) for network in networks]
    write_json(folder / standalone.MANIFEST, {"format": standalone.FORMAT, "networks": rows})
    script = folder / SCRIPT
    write_text(script, Path(standalone.__file__).read_text(encoding="utf-8"))
    return script


def measure_folder(
    folder: Path,
    *,
    batch_sizes: Sequence[int] = (1, 32),
    threads: Sequence[int] = (1,),
    seconds: float = 20.0,
    name: str = "",
) -> Measurement:
    """Run the script of a folder in its own process on this machine.

    Args:
        folder: Exported files with their kit.
        batch_sizes: Samples in one call.
        threads: Threads of the runtime.
        seconds: For all latencies together; as long again for energy where it is told.
        name: Name of this machine.

    Raises:
        ConfigError: A number below 1, or no time.
        ExportError: The script failed.
    """
    for what, given in (("batch sizes", batch_sizes), ("threads", threads)):
        if not given or min(given) < 1:
            raise ConfigError(f"{what} must be whole numbers above 0, got {list(given)}.")
    if not seconds > 0:
        raise ConfigError(f"seconds must be above 0, got {seconds:g}. Usual: 20.")
    arguments = ["--folder", str(folder.resolve()), "--seconds", str(seconds)]
    arguments += ["--batch-sizes", ",".join(map(str, batch_sizes))]
    arguments += ["--threads", ",".join(map(str, threads)), "--name", name]
    # The package's own script, not the copy that lies among files of whoever made the folder.
    done = run_isolated(Path(standalone.__file__), arguments)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise ExportError(f"{folder / SCRIPT}: measuring failed: {lines[-1][:300]}")
    return parse_measurement(done.stdout, str(folder / SCRIPT))


def parse_measurement(content: bytes, place: str) -> Measurement:
    """Validate the script's output, whichever machine it comes from.

    Args:
        content: JSON.
        place: The file's name, for messages.

    Raises:
        RunFolderError: It is no such record; the message says where.
    """
    hint = f"Take the whole output of {SCRIPT}: python {SCRIPT} > rows.json."
    if len(content) > MAX_BYTES:
        raise RunFolderError(f"{place}: larger than {MAX_BYTES} bytes: no measurement. {hint}")
    try:
        return TypeAdapter(Measurement).validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        text = ascii(f"{where[:80]}: {first['msg'][:200]}")[1:-1]
        raise RunFolderError(f"{place}: {text}. {hint}") from error
