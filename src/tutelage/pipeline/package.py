"""The student's own folder: everything that its use without Tutelage requires."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tutelage import __version__
from tutelage.deploy import example, target_of
from tutelage.deploy.runtime import Arrays, as_arrays
from tutelage.deploy.targets import Port
from tutelage.errors import ExportError
from tutelage.files import (
    file_sha256,
    read_bytes,
    write_bytes,
    write_json,
    write_text,
    write_whole,
)
from tutelage.job import Job
from tutelage.pipeline.exporting import SAMPLE, calibration_ids, example_input, export_inputs
from tutelage.pipeline.training import TrainedModel
from tutelage.records import Metric, ParityRow, QuantisedRow, RunRecord
from tutelage.report.card import write_card
from tutelage.types import Inputs, by_name, on_cpu

NUM_SAMPLES = 8


def export_package(job: Job, record: RunRecord, student: TrainedModel) -> Path | None:
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
    samples = as_arrays(_example_inputs(job))
    name = "samples.npy" if isinstance(samples, np.ndarray) else "samples.npz"
    write_whole(folder / name, lambda path: _save_arrays(samples, path))
    _save_sample(job, source / SAMPLE)
    job.splits.inputs.save_files(folder)
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


def _student_rows(record: RunRecord) -> list[ParityRow | QuantisedRow]:
    rows: list[ParityRow | QuantisedRow] = [*record.parity, *record.quantised]
    return [row for row in rows if row.name != "teacher"]


def _copy(source: Path, target: Path) -> None:
    write_bytes(target, read_bytes(source))


def _config(job: Job, record: RunRecord, rows: list[ParityRow | QuantisedRow]) -> dict[str, Any]:
    """Machine-readable description of how to call the student."""
    kind = job.splits.inputs
    raw, _ = job.splits.test.fetch(torch.arange(1))
    counts = next(row for row in record.sizes if row.name == rows[0].name)
    return {
        "tutelage": __version__,
        "name": record.name,
        "network": record.recipe.get("student"),
        "parameters": counts.parameters,
        "macs": counts.macs,
        "preprocessing": kind.preprocessing(raw),
        "inputs": kind.describe_export(_example_inputs(job), raw),
        "outputs": {
            "name": "logits",
            "scores": job.task.gives.value,
            "shape": ["batch", *["length"] * _is_of_tokens(job), len(record.class_names)],
        },
        "labels": record.class_names,
        "files": [_file(job.out / "export" / row.file, row, record.metric) for row in rows],
        "weights": "student.safetensors",
    }


def _file(path: Path, row: ParityRow | QuantisedRow, metric: Metric) -> dict[str, Any]:
    target = target_of(path)
    value, num_samples = row.on_test
    return {
        "file": row.file,
        "target": target.name,
        "int8": row.scheme if isinstance(row, QuantisedRow) else None,
        **_ports(path),
        "batch_size": target.batch_size,
        "runs_with": dict(target.runs_with),
        "metric": metric.name,
        "value": value,
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


def _calibration(job: Job, record: RunRecord, student: TrainedModel) -> dict[str, Any]:
    """Calibration of the student's confidence, and calibration data of its int8 files."""
    found = next(t for t in record.arms if (t.arm, t.seed) == ("distilled", student.seed)).selected
    schemes = [row.scheme for row in record.quantised if row.calibration]
    return {
        "confidence": {
            "expected_calibration_error": found.ece,
            "bins": [asdict(entry) for entry in found.calibration],
            "test_samples": found.count,
        },
        "int8": {
            "schemes": list(dict.fromkeys(schemes)),
            "training_samples": calibration_ids(job).tolist() if schemes else [],
        },
    }


def _example_inputs(job: Job) -> Inputs:
    """The first test samples, as exported files take them."""
    reader = job.test_reader
    ids = torch.arange(min(NUM_SAMPLES, len(reader)))
    return export_inputs(reader, reader[ids, torch.zeros_like(ids)])


def _save_sample(job: Job, path: Path) -> None:
    """The sample that latency is measured with, where files take samples of several sizes."""
    sample = example_input(job)
    if any(len(axes) > 1 for axes in job.splits.inputs.axes(sample).values()):
        arrays = {name: value.numpy() for name, value in by_name(on_cpu(sample)).items()}
        write_whole(path, lambda path: _save_arrays(arrays, path))


def _save_arrays(arrays: Arrays, path: Path) -> None:
    with path.open("wb") as file:
        if isinstance(arrays, np.ndarray):
            np.save(file, arrays, allow_pickle=False)
        else:
            np.savez(file, allow_pickle=False, **arrays)
