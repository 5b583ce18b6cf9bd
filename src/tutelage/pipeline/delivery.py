"""The delivery stages: export, parity, size and latency."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from tutelage.deploy import TARGETS, measure_latency, target_of
from tutelage.engine.events import Listener
from tutelage.errors import ExportError
from tutelage.files import fingerprint
from tutelage.job import ExportSettings, Job
from tutelage.models.estimators import holds_estimator
from tutelage.pipeline.exporting import (
    Costs,
    example_input,
    export_finetuned,
    export_float,
    export_int8,
    finetuned_path,
    int8_name,
)
from tutelage.pipeline.finetuning import Finetuned
from tutelage.pipeline.stages import Stage
from tutelage.pipeline.training import TrainedModel, save_weights
from tutelage.records import LatencyRow, Metric, load_record, save_record

__all__ = ["Costs", "delivery_stage", "export_all", "pick_student", "wrap_for_export"]

NOT_FINETUNED = Finetuned()
COSTS, WEIGHTS = "costs.json", "student.safetensors"
SUFFIXES = {
    file.suffix
    for target in TARGETS.values()
    for file in target.files(Path("file").with_suffix(target.suffix))
}


def wrap_for_export(job: Job, model: nn.Module) -> nn.Module:
    """The network as it is exported: with its normalisation, on the CPU, in eval mode."""
    whole = job.splits.inputs.wrap_for_export(model, example_input(job))
    return whole.cpu().to(memory_format=torch.contiguous_format).eval()


def pick_student(arms: Sequence[TrainedModel], metric: Metric) -> TrainedModel:
    """The distilled student to deliver: the best on validation data, else the first."""

    def rank(trained: TrainedModel) -> float:
        best = trained.progress.best_metric
        return -math.inf if best is None else metric.rank(best)

    return max([trained for trained in arms if trained.arm == "distilled"], key=rank)


def delivery_stage(
    job: Job,
    teacher: TrainedModel,
    student: TrainedModel,
    listener: Listener,
    finetuned: Finetuned = NOT_FINETUNED,
) -> Costs:
    """Export teacher and student, check parity on test samples, measure; skipped if done."""
    if job.measure is None:
        return Costs()
    folder = job.out / "export"
    parts = [teacher.key, student.key, job.measure, job.test_reader.fingerprint]
    if job.export != ExportSettings():
        parts += [job.export, finetuned.key]
    stage = Stage(
        name="export and measure",
        folder=folder,
        key=fingerprint(parts),
        do=lambda: _deliver(job, teacher, student, finetuned),
        load=lambda: load_record(folder / COSTS, Costs),
    )
    return stage.run(listener)


def _deliver(
    job: Job, teacher: TrainedModel, student: TrainedModel, finetuned: Finetuned
) -> list[Path]:
    folder = job.out / "export"
    _clear(folder)
    costs = _export_teacher(job, teacher, folder / "teacher.onnx")
    network = wrap_for_export(job, student.selected)
    for target in job.export.all_targets:
        costs = export_all(job, network, target, job.int8, costs)
    if job.export.finetune is not None:
        costs = _export_finetuned(job, finetuned, costs)
    costs = replace(costs, latencies=_latencies(job, costs))
    save_weights(student.selected, folder / WEIGHTS)
    return save_costs(folder, costs)


def _export_teacher(job: Job, teacher: TrainedModel, path: Path) -> Costs:
    """The teacher's file, for sizes and latencies beside the student's; none of an estimator."""
    if holds_estimator(teacher.selected):
        return Costs()
    whole = wrap_for_export(job, teacher.selected)
    return Costs().attempt(path.name, lambda costs: export_float(job, whole, "onnx", path, costs))


def _clear(folder: Path) -> None:
    """Remove the exports of an earlier run, so that a refused file leaves no older one."""
    (folder / "stamp.json").unlink(missing_ok=True)
    for file in folder.glob("*.*"):
        if file.suffix in SUFFIXES and not file.is_dir():
            file.unlink()


def export_all(
    job: Job, network: nn.Module, target: str, schemes: Sequence[str], costs: Costs
) -> Costs:
    """A student's float file of one target, and its int8 files.

    Those that are refused are named in `refused`; no other is lost by them.
    """
    path = _path(job, target)
    costs = costs.attempt(path.name, lambda costs: export_float(job, network, target, path, costs))
    for scheme in schemes:
        if scheme in TARGETS[target].schemes:
            _, place = int8_name(target, scheme, path, costs)
            costs = costs.attempt(
                place.name, partial(export_int8, job, network, target, scheme, path)
            )
    return costs


def _export_finetuned(job: Job, finetuned: Finetuned, costs: Costs) -> Costs:
    for target in job.export.all_targets:
        if job.int8[0] in TARGETS[target].schemes:
            costs = costs.attempt(
                finetuned_path(_path(job, target)).name,
                partial(_export_one_finetuned, job, finetuned, target),
            )
    return costs


def _export_one_finetuned(job: Job, finetuned: Finetuned, target: str, costs: Costs) -> Costs:
    path, trained = _path(job, target), finetuned.by_steps.get(TARGETS[target].weight_steps)
    if trained is None:
        raise ExportError(f"{finetuned_path(path).name}: fine-tuning failed. {finetuned.problem}")
    network = wrap_for_export(job, trained.selected)
    return export_finetuned(job, network, target, job.int8[0], path, costs)


def _path(job: Job, target: str) -> Path:
    return job.out / "export" / f"student{TARGETS[target].suffix}"


def save_costs(folder: Path, costs: Costs) -> list[Path]:
    """Write down what was exported, and give the files of the stage."""
    names = [row.file for row in costs.files]
    files = [file for name in names for file in target_of(folder / name).files(folder / name)]
    save_record(folder / COSTS, costs)
    return [*files, folder / WEIGHTS, folder / COSTS]


def _latencies(job: Job, costs: Costs) -> list[LatencyRow]:
    """Latencies of the files that ONNX Runtime runs; `tutelage measure` times all of them."""
    assert job.measure is not None
    rows = [row for row in costs.files if row.target == "onnx"]
    if not rows:
        return []
    return measure_latency(
        {row.name: job.out / "export" / row.file for row in rows},
        example_input(job),
        batch_sizes=job.measure.batch_sizes,
        threads=job.measure.threads,
        seconds=job.measure.seconds,
    )
