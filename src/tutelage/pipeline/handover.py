"""The student's own folder: all that somebody without Tutelage needs to use it."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tutelage import __version__
from tutelage.data.cutting import load_tokenizer
from tutelage.deploy import target_of
from tutelage.deploy.runtime import as_arrays
from tutelage.files import (
    file_sha256,
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
EXAMPLE = '''\
"""Run the student on real samples: pip install numpy onnxruntime; python example.py."""
import json
import pathlib

import numpy
import onnxruntime

here = pathlib.Path(__file__).parent
config = json.loads((here / "config.json").read_text(encoding="utf-8"))
session = onnxruntime.InferenceSession(here / "student.onnx")
samples = numpy.load(here / "SAMPLES")
logits = session.run(["logits"], INPUTS)[0]
'''
ONE_LABEL = """\
for row in logits:
    print(config["labels"][row.argmax()])
"""
A_LABEL_A_TOKEN = """\
for row, mask in zip(logits, samples["attention_mask"]):  # a word's label is its first token's
    print(*[config["labels"][number] for number in row[mask == 1].argmax(axis=-1)])
"""


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
    taken = '{"inputs": samples}' if is_one else "dict(samples)"
    example = EXAMPLE + (A_LABEL_A_TOKEN if _is_of_tokens(job) else ONE_LABEL)
    write_text(folder / "example.py", example.replace("SAMPLES", name).replace("INPUTS", taken))
    write_text(folder / "README.md", write_card(record, job.export.licences, student.seed))
    return folder


def _clear(folder: Path) -> None:
    """Remove what an earlier run left here: files of another student would look like this one's."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)


def _is_of_tokens(job: Job) -> bool:
    """Whether each token has a label of its own."""
    return job.task.items_per_sample is None


def _leave_tokenizer(job: Job, folder: Path) -> None:
    """Beside files that take tokens, what makes tokens of a text."""
    name = getattr(job.splits.test, "facts", {}).get("tokenizer")
    if name is not None:
        with staged_folder(folder) as staging:
            load_tokenizer(str(name)).save_pretrained(staging)


def _student_rows(record: RunRecord) -> list[ParityRow | QuantisedRow]:
    rows: list[ParityRow | QuantisedRow] = [*record.parity, *record.quantised]
    return [row for row in rows if row.name != "teacher"]


def _copy(source: Path, target: Path) -> None:
    write_bytes(target, source.read_bytes())


def _config(job: Job, record: RunRecord, rows: list[ParityRow | QuantisedRow]) -> dict[str, Any]:
    """How to call the student, for programs."""
    sizes = {row.name: row for row in record.sizes}
    return {
        "tutelage": __version__,
        "name": record.name,
        "network": record.recipe.get("student"),
        "parameters": sizes["distilled"].parameters,
        "macs": sizes["distilled"].macs,
        "inputs": _inputs(job),
        "outputs": {
            "name": "logits",
            "shape": ["batch", *["length"] * _is_of_tokens(job), len(record.class_names)],
        },
        "labels": record.class_names,
        "files": [_file(job.out / "export" / row.file, row) for row in rows],
        "weights": "student.safetensors",
    }


def _inputs(job: Job) -> dict[str, Any] | list[dict[str, Any]]:
    """What the files take: one input of pictures or numbers, or the named ones of texts."""
    inputs = _samples(job)
    if not isinstance(inputs, torch.Tensor):
        facts = getattr(job.splits.test, "facts", {})
        said = {key: facts[key] for key in ("tokenizer", "max_length", "pad_id") if key in facts}
        return [_input(name, value, ["batch", "length"]) | said for name, value in inputs.items()]
    is_picture = job.splits.mean is not None or inputs.is_floating_point()
    return _input("inputs", inputs, ["batch", *inputs.shape[1:]]) | {
        "range": [0, 1] if is_picture else None,
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
    return {
        "file": row.file,
        "target": target.name,
        "int8": row.way if isinstance(row, QuantisedRow) else None,
        "batch_size": target.batch_size,
        "sha256": {file.name: file_sha256(file) for file in target.files(path)},
    }


def _calibration(job: Job, record: RunRecord, student: Trained) -> dict[str, Any]:
    """How sure the student may be believed, and what its eight bits were scaled on."""
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
