"""The stages that deliver: export, parity, size and latency."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.data.loading import in_order
from tutelage.deploy import export_checked, measure_latency
from tutelage.engine.events import Listener, StageDone, StageStarted
from tutelage.files import fingerprint
from tutelage.job import Job
from tutelage.models.cost import size_row
from tutelage.pipeline.stamps import is_done, stamp
from tutelage.pipeline.training import Trained, save_weights
from tutelage.records import LatencyRow, ParityRow, SizeRow, load_record, save_record

NUM_PARITY = 512


@dataclass(frozen=True, slots=True)
class Costs:
    """What the exported networks weigh and take."""

    sizes: list[SizeRow] = field(default_factory=list)
    latencies: list[LatencyRow] = field(default_factory=list)
    parity: list[ParityRow] = field(default_factory=list)


class PixelNetwork(nn.Module):
    """A network with its normalisation: takes inputs scaled to 0..1, as a device has them.

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
        logits: Tensor = self.model((pixels - self.mean) / self.std)
        return logits


def deliverable(job: Job, model: nn.Module) -> nn.Module:
    """The network as it is exported: with its normalisation, on the CPU, in eval mode."""
    mean, std = job.splits.mean, job.splits.std
    whole = model if mean is None or std is None else PixelNetwork(model, mean, std)
    return whole.cpu().eval()


def pick_student(arms: Sequence[Trained]) -> Trained:
    """The distilled student that is delivered: the best on validation data, else the first."""
    distilled = [trained for trained in arms if trained.arm == "distilled"]
    return max(distilled, key=lambda trained: trained.progress.best_metric or 0.0)


def delivery_stage(job: Job, teacher: Trained, student: Trained, listener: Listener) -> Costs:
    """Export teacher and student, check parity on test samples, measure; skipped if done."""
    if job.measure is None:
        return Costs()
    folder = job.out / "export"
    key = fingerprint([teacher.key, student.key, job.measure, job.test_reader.fingerprint])
    listener(StageStarted("export and measure", None))
    was_there = is_done(folder, key)
    if not was_there:
        _deliver(job, teacher, student, key)
    listener(StageDone("export and measure", was_there))
    return load_record(folder / "costs.json", Costs)


def _deliver(job: Job, teacher: Trained, student: Trained, key: str) -> None:
    assert job.measure is not None
    folder = job.out / "export"
    networks = {
        "teacher": deliverable(job, teacher.selected),
        "distilled": deliverable(job, student.selected),
    }
    files = {"teacher": folder / "teacher.onnx", "distilled": folder / "student.onnx"}
    parity, sizes = [], []
    example = next(_pixels(job, 2))
    for name, network in networks.items():
        batches = list(_pixels(job, NUM_PARITY))
        parity.append(export_checked(network, batches, files[name], name=name))
        sizes.append(size_row(name, network, example[:1], files[name]))
    latencies = measure_latency(
        files,
        example[:1],
        batch_sizes=job.measure.batch_sizes,
        threads=job.measure.threads,
        seconds=job.measure.seconds,
    )
    weights = folder / "student.safetensors"
    save_weights(student.selected, weights)
    costs = folder / "costs.json"
    save_record(costs, Costs(sizes=sizes, latencies=latencies, parity=parity))
    stamp(folder, key, [*files.values(), weights, costs])


def _pixels(job: Job, count: int) -> Iterator[Tensor]:
    """Test inputs as the exported network takes them."""
    reader = job.test_reader
    for ids, views in in_order(min(count, len(reader)), batch_size=64):
        yield reader.pixels(reader[ids, views].inputs)
