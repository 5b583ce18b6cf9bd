"""The stages that deliver: export, parity, size and latency."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.data.loading import in_order
from tutelage.deploy import (
    export_checked,
    measure_latency,
    open_session,
    quantise_onnx,
    run_session,
)
from tutelage.engine.events import Listener, StageDone, StageStarted
from tutelage.errors import ExportError
from tutelage.evidence import correct, paired_interval
from tutelage.files import fingerprint
from tutelage.job import Job
from tutelage.models.cost import size_row
from tutelage.pipeline.stamps import is_done, stamp
from tutelage.pipeline.training import Trained, save_weights
from tutelage.records import (
    LatencyRow,
    Metric,
    ParityRow,
    QuantisedRow,
    SizeRow,
    load_record,
    save_record,
)
from tutelage.types import Batch, Inputs

NUM_PARITY, NUM_CALIBRATION = 512, 512
LEAST_AGREEMENT = 0.9


@dataclass(frozen=True, slots=True)
class Costs:
    """What the exported networks weigh and take."""

    sizes: list[SizeRow] = field(default_factory=list)
    latencies: list[LatencyRow] = field(default_factory=list)
    parity: list[ParityRow] = field(default_factory=list)
    quantised: list[QuantisedRow] = field(default_factory=list)


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


def pick_student(arms: Sequence[Trained], metric: Metric) -> Trained:
    """The distilled student that is delivered: the best on validation data, else the first."""

    def rank(trained: Trained) -> float:
        best = trained.progress.best_metric
        return -math.inf if best is None else metric.rank(best)

    return max([trained for trained in arms if trained.arm == "distilled"], key=rank)


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
    quantised = []
    if job.measure.int8 is not None:
        row = _quantise(job, files["distilled"], job.measure.int8)
        files[row.name] = folder / row.file
        sizes.append(replace(sizes[-1], name=row.name, size_bytes=files[row.name].stat().st_size))
        quantised.append(row)
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
    save_record(costs, Costs(sizes, latencies, parity, quantised))
    stamp(folder, key, [*files.values(), weights, costs])


def _quantise(job: Job, source: Path, way: str) -> QuantisedRow:
    """Make the student's file of eight bits, and judge both files on the test data.

    Raises:
        ExportError: The two disagree on too many samples; no file is left.
    """
    target = source.with_suffix(f".int8{source.suffix}")
    calibration = [] if way == "dynamic" else _calibration(job)
    quantise_onnx(source, target, calibration, way)
    expected, given = _run_file(job, source), _run_file(job, target)
    agreement = float((expected.argmax(dim=1) == given.argmax(dim=1)).double().mean())
    if agreement < LEAST_AGREEMENT:
        target.unlink()
        raise ExportError(
            f"{target}: agrees with the float file on {agreement:.1%} of the test samples, "
            f"{LEAST_AGREEMENT:.0%} is the least. Try measure.int8: percentile, or null for none."
        )
    labels = torch.cat([batch.labels for batch in _test_batches(job) if batch.labels is not None])
    right, float_right = correct(given, labels), correct(expected, labels)
    found = paired_interval(right[None], float_right[None])
    return QuantisedRow(
        name="distilled int8",
        file=target.name,
        way=way,
        calibration=sum(len(batch) for batch in calibration),
        accuracy=float(right.double().mean()),
        float_accuracy=float(float_right.double().mean()),
        low=found.low,
        high=found.high,
        agreement=agreement,
        max_abs_difference=float((expected - given).abs().max()),
        count=len(labels),
    )


def _calibration(job: Job) -> list[Tensor]:
    """Training samples from all over the data, as the exported network takes them."""
    reader = job.reader(job.splits.train)
    ids = torch.linspace(0, len(reader) - 1, min(NUM_CALIBRATION, len(reader))).long()
    return [
        one_tensor(reader.pixels(reader[part, torch.zeros_like(part)].inputs))
        for part in ids.split(64)
    ]


def _run_file(job: Job, path: Path) -> Tensor:
    """An exported file's logits of the test data."""
    session = open_session(path, threads=torch.get_num_threads())
    reader = job.test_reader
    rows = [
        torch.from_numpy(run_session(session, one_tensor(reader.pixels(batch.inputs)).numpy()))
        for batch in _test_batches(job)
    ]
    return torch.cat(rows).float()


def _test_batches(job: Job) -> Iterator[Batch]:
    reader = job.test_reader
    return (reader[request] for request in in_order(len(reader), batch_size=256))


def _pixels(job: Job, count: int) -> Iterator[Tensor]:
    """Test inputs as the exported network takes them."""
    reader = job.test_reader
    for ids, views in in_order(min(count, len(reader)), batch_size=64):
        yield one_tensor(reader.pixels(reader[ids, views].inputs))


def one_tensor(inputs: Inputs) -> Tensor:
    """The inputs of a network that takes one tensor.

    Raises:
        ExportError: It takes several.
    """
    if isinstance(inputs, Tensor):
        return inputs
    raise ExportError(
        f"export: networks that take one tensor can be exported, not {', '.join(inputs)}. Set "
        "measure: null."
    )
