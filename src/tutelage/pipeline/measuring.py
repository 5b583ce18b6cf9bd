"""Measurement of a finished run's exported files, here or elsewhere, for its report."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from tutelage.deploy import open_session
from tutelage.deploy.measuring import (
    MAX_BYTES,
    KitNetwork,
    measure_folder,
    parse_measurement,
    write_kit,
)
from tutelage.deploy.targets import target_of
from tutelage.errors import RunFolderError
from tutelage.files import file_sha256, fingerprint, read_bytes, write_json
from tutelage.locks import locked
from tutelage.pipeline.exporting import SAMPLE
from tutelage.pipeline.reporting import save_report
from tutelage.records import Measurement, RunRecord, load_record, save_record
from tutelage.stage_files import check_left

FOLDER, HERE = "measurements", "here.json"
NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
}


def measure_run(
    folder: Path,
    *,
    batch_sizes: Sequence[int] = (1, 32),
    threads: Sequence[int] = (1,),
    seconds: float = 20.0,
    name: str = "",
    allow_code: bool = False,
) -> RunRecord:
    """Measure all exported files of a finished run on this machine, without training.

    The script and its list of files stay in the run's `export` folder, to be taken elsewhere.

    Args:
        folder: The run folder.
        batch_sizes: Samples in one call.
        threads: Threads of the runtime.
        seconds: For all latencies together; as long again for energy where it is told.
        name: Name of this machine.
        allow_code: Open files of kinds that can run code, whoever wrote them.

    Returns:
        The results, which also stand in results.json and in the report now.

    Raises:
        RunFolderError: It is no finished run with exported files, or a file of it was changed.
        ExportError: A file cannot be measured, or would run code when it is opened.
    """
    with locked(folder, "tutelage measure"):
        record = load_record(folder / "results.json", RunRecord)
        write_kit(folder / "export", kit_networks(folder, record, allow_code=allow_code))
        found = measure_folder(
            folder / "export", batch_sizes=batch_sizes, threads=threads, seconds=seconds, name=name
        )
        write_json(folder / FOLDER / HERE, asdict(found))
        return _update(folder, record)


def import_measurement(folder: Path, file: Path) -> RunRecord:
    """Add the script's output from another machine to a run's results and report.

    Args:
        folder: The run folder.
        file: Its output.

    Returns:
        The results.

    Raises:
        RunFolderError: It is no such output, or was measured with other files than the run's.
    """
    with locked(folder, "tutelage measure"):
        record = load_record(folder / "results.json", RunRecord)
        found = _read(file)
        _check_same_files(folder, record, found, file)
        slug = fingerprint([found.machine.name, found.machine.processor])
        write_json(folder / FOLDER / f"{slug}.json", asdict(found))
        return _update(folder, record)


def load_measurements(folder: Path) -> list[Measurement]:
    """Measurements of a run's current files, this machine's first, then others.

    Raises:
        RunFolderError: A file of it is damaged.
    """
    files = sorted((folder / FOLDER).glob("*.json"), key=lambda path: (path.name != HERE, path))
    found = [_read(file) for file in files]
    return [one for one in found if one.rows and _is_of(folder, one)]


def kit_networks(folder: Path, record: RunRecord, *, allow_code: bool = False) -> list[KitNetwork]:
    """Every exported file of a run, for the measuring script.

    Args:
        folder: The run folder.
        record: Its results.
        allow_code: See `measure_run`.

    Raises:
        RunFolderError: There is none, or one is missing or was changed.
        ExportError: One would run code when it is opened.
    """
    rows = list(exported_files(record).items())
    if not rows:
        raise RunFolderError(
            f"{folder}: nothing was exported. Run its recipe with `measure` set, or "
            "`tutelage export`."
        )
    shape, dtype, sample = _inputs(folder / "export", record, rows)
    networks = []
    for name, file in rows:
        path = folder / "export" / file
        target = target_of(path)
        missing = [part for part in target.files(path) if not part.is_file()]
        if missing:
            raise RunFolderError(f"{missing[0]}: no such file. Run the same recipe again.")
        check_left(folder, record, target.files(path))
        if not allow_code:
            target.check_origin(path)
        parts = tuple(part.name for part in target.files(path) if part != path)
        batch = target.batch_size
        networks.append(KitNetwork(name, file, target.name, shape, dtype, batch, parts, sample))
    return networks


def exported_files(record: RunRecord) -> dict[str, str]:
    """File names of all exports, by name in tables."""
    float_files = {row.name: row.file for row in record.parity}
    return float_files | {row.name: row.file for row in record.quantised}


def _inputs(
    export: Path, record: RunRecord, rows: Sequence[tuple[str, str]]
) -> tuple[tuple[int, ...], str, str | None]:
    """Shape and type of one sample, from the run's ONNX file, or another file that has one."""
    file = next((export / file for _, file in rows if file.endswith(".onnx")), None)
    if file is None or not file.is_file():
        raise RunFolderError(f"{file or export}: no such file. Run the same recipe again.")
    check_left(export.parent, record, [file])
    inputs = open_session(file, threads=1).get_inputs()
    shape = tuple(inputs[0].shape[1:])
    if len(inputs) > 1 or not all(isinstance(size, int) for size in shape):
        if not (export / SAMPLE).is_file():
            raise RunFolderError(f"{export / SAMPLE}: no such file. Run the same recipe again.")
        return (), "", SAMPLE
    return shape, NUMPY_TYPES[inputs[0].type], None


def _read(file: Path) -> Measurement:
    try:
        content = read_bytes(file, largest=MAX_BYTES)
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be read ({error.strerror or error}).") from error
    return parse_measurement(content, str(file))


def _check_same_files(folder: Path, record: RunRecord, found: Measurement, file: Path) -> None:
    """Refuse measurements of files that are not this run's."""
    known = {file: name for name, file in exported_files(record).items()}
    names = {one.name for one in found.files}
    hint = f"Copy the run's export folder as it is now and run {folder / 'export' / 'measure.py'}."
    for one in found.files:
        if known.get(one.file) != one.name:
            raise RunFolderError(f"{file}: {one.name} ({one.file}) is no file of {folder}. {hint}")
        if one.sha256 and one.sha256 != _sha256(folder, one.file):
            raise RunFolderError(
                f"{file}: {one.file} was another file there than it is in {folder}. {hint}"
            )
    if stray := {row.name for row in found.rows} - names:
        raise RunFolderError(f"{file}: rows of {sorted(stray)[0]}, which is not among its files.")
    if not found.rows:
        problems = "; ".join(f"{one.file}: {one.problem}" for one in found.files if one.problem)
        raise RunFolderError(f"{file}: nothing could be run there ({problems or 'no files'}).")


def _is_of(folder: Path, found: Measurement) -> bool:
    return all(one.sha256 == _sha256(folder, one.file) for one in found.files if one.sha256)


def _sha256(folder: Path, name: str) -> str:
    path = folder / "export" / Path(name).name
    return file_sha256(path) if path.is_file() else ""


def _update(folder: Path, record: RunRecord) -> RunRecord:
    record = replace(record, measurements=load_measurements(folder))
    save_record(folder / "results.json", record)
    save_report(record, folder)
    return record
