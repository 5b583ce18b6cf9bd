"""The student's own folder: everything that its use without Tutelage requires."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tutelage import __version__
from tutelage.data.cutting import load_tokenizer
from tutelage.data.decoding import MODES, WHITE
from tutelage.data.images import picture_folders
from tutelage.deploy import example, target_of
from tutelage.deploy.runtime import as_arrays
from tutelage.deploy.targets import Port
from tutelage.errors import ExportError
from tutelage.files import (
    file_sha256,
    read_bytes,
    staged_folder,
    write_bytes,
    write_json,
    write_text,
    write_whole,
)
from tutelage.job import Job
from tutelage.pipeline.exporting import SAMPLE, calibration_ids, fed, typical
from tutelage.pipeline.training import Trained
from tutelage.records import ParityRow, QuantisedRow, RunRecord
from tutelage.report.card import write_card
from tutelage.types import Inputs

NUM_SAMPLES = 8
IMAGE_AXES = 4


def hand_over(job: Job, record: RunRecord, student: Trained) -> Path | None:
    """Fill `export/student` with files, weights, description, card and example.

    Args:
        job: The run.
        record: Its results.
        student: The student that was exported.

    Returns:
        The folder; None where nothing was exported.

    Raises:
        WriteError: It cannot be written.
    """
    rows = _student_rows(record)
    if not rows:
        return None
    source, folder = job.out / "export", job.out / "export" / "student"
    _clear(folder)
    files = [file for row in rows for file in target_of(source / row.file).files(source / row.file)]
    for file in [*files, source / "student.safetensors"]:
        _copy(file, folder / file.name)
    write_json(folder / "config.json", _config(job, record, rows))
    write_text(folder / "labels.txt", "".join(f"{name}\n" for name in record.class_names))
    write_json(folder / "calibration.json", _calibration(job, record, student))
    samples = _samples(job)
    is_one = isinstance(samples, torch.Tensor)
    name = "samples.npy" if is_one else "samples.npz"
    write_whole(folder / name, lambda path: _save_samples(samples, path))
    if not is_one:
        write_whole(source / SAMPLE, lambda path: _save_samples(typical(job), path))
    _leave_tokenizer(job, folder / "tokenizer")
    write_text(folder / "recipe.yaml", yaml.safe_dump(dict(record.recipe), sort_keys=False))
    write_text(folder / "example.py", Path(example.__file__).read_text(encoding="utf-8"))
    write_text(folder / "README.md", write_card(record, job.export.licences, student.seed))
    return folder


def _clear(folder: Path) -> None:
    """Remove files of an earlier run, which could be taken for this student's."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)


def _is_of_tokens(job: Job) -> bool:
    """Whether each token has its own label."""
    return job.task.items_per_sample is None


def _leave_tokenizer(job: Job, folder: Path) -> None:
    """Save the tokenizer beside files that take tokens."""
    name = getattr(job.splits.test, "facts", {}).get("tokenizer")
    if name is not None:
        with staged_folder(folder) as staging:
            load_tokenizer(str(name)).save_pretrained(staging)


def _student_rows(record: RunRecord) -> list[ParityRow | QuantisedRow]:
    rows: list[ParityRow | QuantisedRow] = [*record.parity, *record.quantised]
    return [row for row in rows if row.name != "teacher"]


def _copy(source: Path, target: Path) -> None:
    write_bytes(target, read_bytes(source))


def _config(job: Job, record: RunRecord, rows: list[ParityRow | QuantisedRow]) -> dict[str, Any]:
    """Machine-readable description of how to call the student."""
    counts = next(row for row in record.sizes if row.name == rows[0].name)
    return {
        "tutelage": __version__,
        "name": record.name,
        "network": record.recipe.get("student"),
        "parameters": counts.parameters,
        "macs": counts.macs,
        "preprocessing": _preprocessing(job),
        "inputs": _inputs(job),
        "outputs": {
            "name": "logits",
            "shape": ["batch", *["length"] * _is_of_tokens(job), len(record.class_names)],
        },
        "labels": record.class_names,
        "files": [_file(job.out / "export" / row.file, row) for row in rows],
        "weights": "student.safetensors",
    }


def _preprocessing(job: Job) -> dict[str, Any]:
    """Preprocessing of an image or a text, as `example.py` implements it."""
    facts = getattr(job.splits.test, "facts", None)
    if facts is not None:
        kind = "words" if _is_of_tokens(job) else "text"
        keys = ("tokenizer", "max_length", "pad_id")
        return {"kind": kind} | {key: facts[key] for key in keys if key in facts}
    raw, _ = job.splits.test.fetch(torch.arange(1))
    if not (isinstance(raw, torch.Tensor) and raw.dtype == torch.uint8 and raw.ndim == IMAGE_AXES):
        return {"kind": "array"}
    channels, height, width = raw.shape[1:]
    if channels not in MODES:
        return {"kind": "array"}
    folders = picture_folders(job.splits)
    background = folders[0].background if folders else WHITE
    return {
        "kind": "picture",
        "mode": MODES[channels],
        "height": height,
        "width": width,
        "background": background,
        "steps": [
            "turn it upright by its EXIF orientation",
            f"lay what is transparent on {background}",
            f"bring it to {MODES[channels]}, 16-bit greys divided by 257",
            f"cut out the largest centred part of {width}:{height}",
            f"resize to {width} x {height}, bilinear as Pillow does it",
            "channels first, divided by 255; mean and std are inside the files",
        ],
    }


def _inputs(job: Job) -> dict[str, Any] | list[dict[str, Any]]:
    """Inputs of the files: one tensor of pixels or numbers, or a text's named inputs."""
    inputs = _samples(job)
    if not isinstance(inputs, torch.Tensor):
        facts = getattr(job.splits.test, "facts", {})
        said = {key: facts[key] for key in ("tokenizer", "max_length", "pad_id") if key in facts}
        return [_input(name, value, ["batch", "length"]) | said for name, value in inputs.items()]
    raw, _ = job.splits.test.fetch(torch.arange(1))
    is_scaled = isinstance(raw, torch.Tensor) and raw.dtype == torch.uint8
    return _input("inputs", inputs, ["batch", *inputs.shape[1:]]) | {
        "range": [0, 1] if is_scaled else None,
        "normalisation": {
            "in_the_files": True,
            "mean": job.splits.mean,
            "std": job.splits.std,
        },
    }


def _input(name: str, value: torch.Tensor, shape: list[Any]) -> dict[str, Any]:
    return {"name": name, "shape": shape, "dtype": str(value.dtype).removeprefix("torch.")}


def _file(path: Path, row: ParityRow | QuantisedRow) -> dict[str, Any]:
    target = target_of(path)
    accuracy, num_samples = row.on_test
    return {
        "file": row.file,
        "target": target.name,
        "int8": row.way if isinstance(row, QuantisedRow) else None,
        **_ports(path),
        "batch_size": target.batch_size,
        "runs_with": dict(target.runs_with),
        "accuracy": accuracy,
        "test_samples": num_samples,
        "sha256": {file.name: file_sha256(file) for file in target.files(path)},
    }


def _ports(path: Path) -> dict[str, Any]:
    """Inputs and outputs from the file; none if the file may not be opened here."""
    try:
        ports = target_of(path).describe(path)
    except ExportError:
        return {}
    return {
        "inputs": [_port(port) for port in ports.inputs],
        "outputs": [_port(port) for port in ports.outputs],
    }


def _port(port: Port) -> dict[str, Any]:
    """One input or output; quantisation parameters only where they apply."""
    said: dict[str, Any] = {"name": port.name, "shape": list(port.shape), "dtype": port.dtype}
    if port.scale is not None:
        said["quantization"] = {"scale": port.scale, "zero_point": port.zero_point}
    return said


def _calibration(job: Job, record: RunRecord, student: Trained) -> dict[str, Any]:
    """Calibration of the student's confidence, and calibration data of its int8 files."""
    found = next(t for t in record.arms if (t.arm, t.seed) == ("distilled", student.seed)).selected
    ways = [row.way for row in record.quantised if row.calibration]
    return {
        "confidence": {
            "expected_calibration_error": found.ece,
            "bins": [asdict(entry) for entry in found.calibration],
            "test_samples": found.count,
        },
        "eight_bits": {
            "ways": list(dict.fromkeys(ways)),
            "training_samples": calibration_ids(job).tolist() if ways else [],
        },
    }


def _samples(job: Job) -> Inputs:
    reader = job.test_reader
    ids = torch.arange(min(NUM_SAMPLES, len(reader)))
    return fed(reader, reader[ids, torch.zeros_like(ids)])


def _save_samples(samples: Inputs, path: Path) -> None:
    arrays = as_arrays(samples)
    with path.open("wb") as file:
        if isinstance(arrays, np.ndarray):
            np.save(file, arrays, allow_pickle=False)
        else:
            np.savez(file, allow_pickle=False, **arrays)
