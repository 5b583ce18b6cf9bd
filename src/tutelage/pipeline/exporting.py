"""A trained network as files: float and int8, for each target, evaluated on real samples."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tutelage.data.loading import BatchBuilder, in_order
from tutelage.data.overlap import judged_on
from tutelage.deploy import TARGETS, Target, export_checked, open_file, target_of
from tutelage.deploy.runtime import as_arrays
from tutelage.errors import ExportError
from tutelage.files import staged
from tutelage.inputs import InputKind
from tutelage.job import Job
from tutelage.models.cost import size_row
from tutelage.records import LatencyRow, ParityRow, QuantisedRow, RefusedFile, SizeRow
from tutelage.significance import Interval, paired_interval
from tutelage.tasks import Predictions
from tutelage.tasks.predicting import predict_data
from tutelage.types import Batch, Inputs
from tutelage.wording import quantity

NUM_PARITY, NUM_CALIBRATION = 512, 512
LEAST_AGREEMENT = 0.9
FINETUNED, TEACHER = "finetuned", "teacher"
SAMPLE = "sample.npz"  # a text, beside the exported files: what they are measured with


@dataclass(frozen=True, slots=True)
class Costs:
    """Sizes and latencies of the exported networks."""

    sizes: list[SizeRow] = field(default_factory=list)
    latencies: list[LatencyRow] = field(default_factory=list)
    parity: list[ParityRow] = field(default_factory=list)
    quantised: list[QuantisedRow] = field(default_factory=list)
    refused: list[RefusedFile] = field(default_factory=list)

    @property
    def files(self) -> list[ParityRow | QuantisedRow]:
        """The exported files: float, then int8."""
        return [*self.parity, *self.quantised]

    def with_float(self, parity: ParityRow, size: SizeRow) -> "Costs":
        """The same with a float file, which replaces an older one of that name."""
        return replace(
            self,
            parity=[*(row for row in self.parity if row.name != parity.name), parity],
            sizes=[*(row for row in self.sizes if row.name != size.name), size],
            refused=[entry for entry in self.refused if entry.file != parity.file],
        )

    def with_int8(self, quantised: QuantisedRow, size: SizeRow) -> "Costs":
        """The same with an int8 file, which replaces an older one of that name."""
        return replace(
            self,
            quantised=[*(row for row in self.quantised if row.name != quantised.name), quantised],
            sizes=[*(row for row in self.sizes if row.name != size.name), size],
            refused=[entry for entry in self.refused if entry.file != quantised.file],
        )

    def attempt(self, file: str, make: Callable[["Costs"], "Costs"]) -> "Costs":
        """The result of `make`; if its file is refused, the reason.

        One file that cannot be delivered takes neither the others with it nor what was trained.
        """
        try:
            return make(self)
        except ExportError as error:
            others = [entry for entry in self.refused if entry.file != file]
            return replace(self, refused=[*others, RefusedFile(file, str(error))])


def raise_refused(refused: Sequence[RefusedFile], out: Path) -> None:
    """Raise an error about the missing files of an otherwise complete run.

    Raises:
        ExportError: Some are.
    """
    if refused:
        reasons = " ".join(entry.sentence for entry in refused)
        raise ExportError(
            f"{quantity(len(refused), 'requested file')} cannot be delivered; everything else is "
            f"in {out}. {reasons}"
        )


def export_float(job: Job, network: nn.Module, target: str, path: Path, costs: Costs) -> Costs:
    """Write a float file that computes what the network computes.

    Args:
        job: For its test samples.
        network: The network as delivered.
        target: A name of `TARGETS`.
        path: Where the file shall lie; its stem says whose it is.
        costs: What is known so far.

    Returns:
        The same with the new file's rows.

    Raises:
        ExportError: It cannot be expressed there, or computes something else; no file is left.
    """
    inputs, labels = _parity_samples(job)
    name = float_name(target, path.stem)
    parity = export_checked(
        network,
        inputs,
        path,
        name=name,
        target=target,
        labels=labels,
        task=job.task,
        inputs=job.splits.inputs,
    )
    if path.stem != TEACHER:
        given = run_file(job, path)
        value, _ = job.task.validate(given)
        parity = replace(parity, test_metric=value, test_count=len(given.sample_ids.unique()))
    size = size_row(name, network, example_input(job), path)
    return costs.with_float(parity, replace(size, size_bytes=TARGETS[target].size_bytes(path)))


def export_int8(
    job: Job, network: nn.Module, target: str, scheme: str, source: Path, costs: Costs
) -> Costs:
    """Write a network's int8 file, and compare it with the float file on the test data.

    Args:
        job: For its data.
        network: The network as delivered.
        target: A name of `TARGETS`.
        scheme: One of the target's.
        source: The float file.
        costs: What is known so far; the float file's rows are in it.

    Returns:
        The same with the new file's rows.

    Raises:
        ExportError: The two disagree on too many samples; no file is left.
    """
    name, path = int8_name(target, scheme, source, costs)
    kind = TARGETS[target]
    _check_source(source, path, costs)
    with staged(path, kind.files) as staging:
        kind.quantise(network, source, calibration(job), staging, scheme)
        row = _judged(job, source, staging, name, scheme)
    return costs.with_int8(row, _size(costs, float_name(target, source.stem), kind, name, path))


def export_finetuned(
    job: Job, network: nn.Module, target: str, scheme: str, source: Path, costs: Costs
) -> Costs:
    """The same for a fine-tuned student, which is also compared with the plain int8 files.

    Args:
        job: For its data.
        network: The fine-tuned student, as it is delivered.
        target: A name of `TARGETS`.
        scheme: What it was fine-tuned for.
        source: The float file of the student before.
        costs: What is known so far; the plain int8 file's rows are in it.

    Raises:
        ExportError: It disagrees with the float student on too many samples; no file is left.
    """
    kind, like = TARGETS[target], float_name(target, source.stem)
    plain = next(
        (row for row in costs.quantised if (row.target, row.scheme) == (target, scheme)), None
    )
    path = finetuned_path(source)
    name = f"{like} int8 {FINETUNED}"
    _check_source(source, path, costs)
    with staged(path, kind.files) as staging:
        float_file = staging.with_name(f"float{source.suffix}")
        kind.write(network, _parity_samples(job)[0][0], float_file)
        kind.quantise(network, float_file, calibration(job), staging, scheme)
        row = _judged(job, source, staging, name, f"{scheme}, {FINETUNED}")
        if plain is not None:
            row = _against_plain(job, row, staging, source.with_name(plain.file))
    return costs.with_int8(row, _size(costs, like, kind, name, path))


def finetuned_path(source: Path) -> Path:
    """Path of the int8 file of the fine-tuned student."""
    return source.with_name(f"{source.stem}.{FINETUNED}.int8{source.suffix}")


def _check_source(source: Path, path: Path, costs: Costs) -> None:
    """Refuse int8 if the float file is missing.

    Raises:
        ExportError: It was refused itself.
    """
    if source.name not in {row.file for row in costs.parity}:
        raise ExportError(f"{path.name}: {source.name}, which it is made from, was refused.")


def float_name(target: str, stem: str = "student") -> str:
    """Name of a float file in tables."""
    network = TEACHER if stem == TEACHER else "distilled"
    return network if target == "onnx" else f"{network} {target}"


def int8_name(target: str, scheme: str, source: Path, costs: Costs) -> tuple[str, Path]:
    """Name of an int8 file in tables and on disk; the first scheme is not named.

    The name of a first one that was refused is not given to a second: whoever asks for it by that
    name finds none.
    """
    stem, path = (
        f"{float_name(target, source.stem)} int8",
        source.with_suffix(f".int8{source.suffix}"),
    )
    first = next((row.scheme for row in costs.quantised if row.name == stem), scheme)
    if scheme == first and path.name not in {entry.file for entry in costs.refused}:
        return stem, path
    return f"{stem} {scheme}", source.with_name(f"{source.stem}.{scheme}.int8{source.suffix}")


def _size(costs: Costs, like: str, kind: Target, name: str, path: Path) -> SizeRow:
    row = next(row for row in costs.sizes if row.name == like)
    return replace(row, name=name, size_bytes=kind.size_bytes(path))


def _judged(job: Job, source: Path, path: Path, name: str, scheme: str) -> QuantisedRow:
    """Comparison of two files by their predictions on the test data."""
    expected, given = run_file(job, source), run_file(job, path)
    agreement = job.task.agreement(expected.logits, given.logits)
    if agreement < LEAST_AGREEMENT:
        raise ExportError(
            f"{path.name}: agrees with the float file on {agreement:.1%} of the "
            f"{judged_on(job.splits)} samples, {LEAST_AGREEMENT:.0%} is the least. Try "
            "measure.int8: percentile, or null for none; or export.finetune."
        )
    found = _interval(job, given, expected)
    return QuantisedRow(
        name=name,
        file=path.name,
        scheme=scheme,
        calibration=0 if scheme.startswith("dynamic") else len(calibration_ids(job)),
        metric=job.task.validate(given)[0],
        float_metric=job.task.validate(expected)[0],
        low=found.low,
        high=found.high,
        agreement=agreement,
        max_abs_difference=float((expected.logits - given.logits).abs().max()),
        count=len(given.sample_ids.unique()),
        gain=found.mean,
        target=target_of(path).name,
    )


def _interval(job: Job, given: Predictions, expected: Predictions) -> Interval:
    """How much better one file is than another, with its interval over test samples."""
    reach = job.task.metric.reach
    ours, theirs = (job.task.scores(said)[None] for said in (given, expected))
    return paired_interval(ours, theirs, reach=math.inf if reach is None else reach)


def _against_plain(job: Job, row: QuantisedRow, path: Path, plain: Path) -> QuantisedRow:
    found = _interval(job, run_file(job, path), run_file(job, plain))
    return replace(row, over_plain=found.mean, over_plain_low=found.low, over_plain_high=found.high)


class _FileNetwork(nn.Module):
    """An exported file in place of its network."""

    def __init__(self, path: Path, kind: InputKind) -> None:
        super().__init__()
        self.run = open_file(path, threads=torch.get_num_threads())
        self.kind = kind

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        taken = self.kind.export_inputs(inputs[0] if inputs else named)
        return torch.from_numpy(self.run(as_arrays(taken)))


def run_file(job: Job, path: Path) -> Predictions:
    """Predictions of an exported file on the test data."""
    network = _FileNetwork(path, job.splits.inputs)
    cpu = torch.device("cpu")
    return predict_data(job.task, network, job.test_reader, batch_size=256, device=cpu)


def calibration(job: Job) -> list[Inputs]:
    """Calibration samples spread over the training data, as inputs of the exported network."""
    reader = job.reader(job.splits.train)
    parts = calibration_ids(job).split(64)
    return [export_inputs(reader, reader[part, torch.zeros_like(part)]) for part in parts]


def calibration_ids(job: Job) -> Tensor:
    """Numbers of the calibration samples."""
    count = len(job.splits.train)
    return torch.linspace(0, count - 1, min(NUM_CALIBRATION, count)).long()


def _parity_samples(job: Job) -> tuple[list[Inputs], Tensor | None]:
    """Test inputs for the exported network, with labels if there is one per sample."""
    reader = job.test_reader
    requests = in_order(min(NUM_PARITY, len(reader)), batch_size=64)
    batches = [reader[request] for request in requests]
    inputs = [export_inputs(reader, batch) for batch in batches]
    labels = [batch.labels for batch in batches if batch.labels is not None]
    has_labels = len(labels) == len(batches) and job.task.items_per_sample == 1
    return inputs, torch.cat(labels) if has_labels else None


def example_input(job: Job) -> Inputs:
    """One typical test sample as the exported network takes it; a text of median length."""
    reader = job.test_reader
    lengths = reader.lengths
    number = 0 if lengths is None else int(lengths.argsort(stable=True)[len(lengths) // 2])
    ids = torch.tensor([number])
    return export_inputs(reader, reader[ids, torch.zeros_like(ids)])


def export_inputs(reader: BatchBuilder, batch: Batch) -> Inputs:
    """A batch as exported networks take it: pixels of 0 to 1; of texts what networks see."""
    return reader.inputs.export_inputs(batch.inputs)


def cost_notes(job: Job) -> list[str]:
    """Notes for the reader on sizes and latencies."""
    if job.measure is None:
        return []
    note = job.splits.inputs.cost_note(example_input(job), judged_on(job.splits))
    return [] if note is None else [note]
