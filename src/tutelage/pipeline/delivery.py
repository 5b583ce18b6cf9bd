"""The delivery stages: export, parity, size and latency."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from tutelage.deploy import TARGETS, measure_latency, target_of
from tutelage.deploy.export import TEXT_INPUTS, check_named
from tutelage.engine.events import Listener
from tutelage.errors import ExportError
from tutelage.files import fingerprint
from tutelage.job import ExportSettings, Job
from tutelage.models.calling import call, own_copies
from tutelage.pipeline.exporting import (
    Costs,
    export_finetuned,
    export_float,
    export_int8,
    finetuned_path,
    int8_name,
    typical,
)
from tutelage.pipeline.finetuning import Finetuned
from tutelage.pipeline.stages import Stage
from tutelage.pipeline.training import Trained, save_weights
from tutelage.records import LatencyRow, Metric, load_record, save_record

__all__ = ["Costs", "deliverable", "delivery_stage", "export_all", "pick_student"]

NOT_FINETUNED = Finetuned()
COSTS, WEIGHTS = "costs.json", "student.safetensors"
SUFFIXES = {
    file.suffix
    for target in TARGETS.values()
    for file in target.files(Path("file").with_suffix(target.suffix))
}


class PixelNetwork(nn.Module):
    """A network with its normalisation, for inputs scaled to 0..1 as on a device.

    Args:
        model: The network.
        mean: Per channel, of inputs scaled to 0..1.
        std: As mean.
    """

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        """Hold the normalisation as buffers."""
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, pixels: Float[Tensor, "batch c h w"]) -> Tensor:
        """Logits."""
        return call(self.model, (pixels - self.mean) / self.std)


class LogitsNetwork(nn.Module):
    """A network that returns its logits alone, from a forward with further outputs.

    Args:
        model: Gives `logits` as an attribute or by that key.
    """

    def __init__(self, model: nn.Module) -> None:
        """Store the network."""
        super().__init__()
        self.model = model

    def forward(self, inputs: Shaped[Tensor, "batch ..."]) -> Tensor:
        """Logits."""
        return call(self.model, inputs)


class TextNetwork(nn.Module):
    """A text network that returns its logits alone.

    Args:
        model: Takes tokens and which of them are padding.
    """

    def __init__(self, model: nn.Module) -> None:
        """Store the network."""
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Int[Tensor, "batch length"]
    ) -> Tensor:
        """Logits."""
        return call(self.model, {"input_ids": input_ids, "attention_mask": attention_mask})


@torch.no_grad()
def _gives_a_tensor(model: nn.Module, inputs: Tensor) -> bool:
    return isinstance(model(own_copies(inputs)), Tensor)


def deliverable(job: Job, model: nn.Module) -> nn.Module:
    """Wrap a network for export: with its normalisation, on the CPU, in eval mode."""
    mean, std = job.splits.mean, job.splits.std
    inputs = typical(job)
    check_named("export", inputs, TEXT_INPUTS)
    if not isinstance(inputs, Tensor):
        return TextNetwork(model).cpu().eval()
    if mean is not None and std is not None:
        whole: nn.Module = PixelNetwork(model, mean, std)
    else:
        whole = model if _gives_a_tensor(model.cpu().eval(), inputs) else LogitsNetwork(model)
    return whole.cpu().to(memory_format=torch.contiguous_format).eval()


def pick_student(arms: Sequence[Trained], metric: Metric) -> Trained:
    """The distilled student to deliver: the best on validation data, else the first."""

    def rank(trained: Trained) -> float:
        best = trained.progress.best_metric
        return -math.inf if best is None else metric.rank(best)

    return max([trained for trained in arms if trained.arm == "distilled"], key=rank)


def delivery_stage(
    job: Job,
    teacher: Trained,
    student: Trained,
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


def _deliver(job: Job, teacher: Trained, student: Trained, finetuned: Finetuned) -> list[Path]:
    folder = job.out / "export"
    _clear(folder)
    whole, path = deliverable(job, teacher.selected), folder / "teacher.onnx"
    costs = Costs().attempt(path.name, lambda costs: export_float(job, whole, "onnx", path, costs))
    network = deliverable(job, student.selected)
    for target in job.export.all_targets:
        costs = export_all(job, network, target, job.int8, costs)
    if job.export.finetune is not None:
        costs = _export_finetuned(job, finetuned, costs)
    costs = replace(costs, latencies=_latencies(job, costs))
    save_weights(student.selected, folder / WEIGHTS)
    return save_costs(folder, costs)


def _clear(folder: Path) -> None:
    """Remove the exports of an earlier run, so that a refused file leaves no older one."""
    (folder / "stamp.json").unlink(missing_ok=True)
    for file in folder.glob("*.*"):
        if file.suffix in SUFFIXES and not file.is_dir():
            file.unlink()


def export_all(
    job: Job, network: nn.Module, target: str, ways: Sequence[str], costs: Costs
) -> Costs:
    """A student's float file of one target, and its int8 files.

    Those that are refused are named in `refused`; no other is lost by them.
    """
    path = _path(job, target)
    costs = costs.attempt(path.name, lambda costs: export_float(job, network, target, path, costs))
    for way in ways:
        if way in TARGETS[target].ways:
            _, place = int8_name(target, way, path, costs)
            costs = costs.attempt(place.name, partial(export_int8, job, network, target, way, path))
    return costs


def _export_finetuned(job: Job, finetuned: Finetuned, costs: Costs) -> Costs:
    for target in job.export.all_targets:
        if job.int8[0] in TARGETS[target].ways:
            costs = costs.attempt(
                finetuned_path(_path(job, target)).name,
                partial(_export_one_finetuned, job, finetuned, target),
            )
    return costs


def _export_one_finetuned(job: Job, finetuned: Finetuned, target: str, costs: Costs) -> Costs:
    path, trained = _path(job, target), finetuned.by_steps.get(TARGETS[target].weight_steps)
    if trained is None:
        raise ExportError(f"{finetuned_path(path).name}: fine-tuning failed. {finetuned.problem}")
    network = deliverable(job, trained.selected)
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
        typical(job),
        batch_sizes=job.measure.batch_sizes,
        threads=job.measure.threads,
        seconds=job.measure.seconds,
    )
