"""How far down a student can go: accuracy against the bytes of its int8 file.

One teacher teaches students of its own family, from about a million bytes down to ten thousand:
an MLP of 2x1200 units MLPs of one hidden layer (`--family mlp`), or a CNN of 64 to 512 channels
narrower and shorter ones (`--family cnn`). Each size is a run of its own, the smallest first, so
that the same command goes on where it was stopped; baseline and distilled students of every seed
become int8 ONNX files, and each file is run on the official test data in ONNX Runtime.
`--untrained --again 3` times files of untrained networks instead: a time does not hang on the
weights, and no data are needed.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from picture import Curve, Point, draw_curves
from timing import machine
from torch import Tensor

from tutelage.config import build_job, read_recipe
from tutelage.data.loading import in_order
from tutelage.deploy import export_onnx, measure_latency, open_session, quantise_onnx, run_session
from tutelage.files import write_text
from tutelage.inputs.wrapping import NormalizedNetwork
from tutelage.job import Job
from tutelage.models.load import make_model
from tutelage.pipeline import run_job
from tutelage.pipeline.delivery import wrap_for_export
from tutelage.pipeline.run import RunResult
from tutelage.pipeline.training import TrainedModel
from tutelage.significance import compare_arms, correct, paired_interval

ARMS = ("baseline", "distilled")
NUM_CALIBRATION, SHAPE = 512, (1, 28, 28)


@dataclass(frozen=True, slots=True)
class Family:
    """A teacher with students like it.

    Attributes:
        unit: What a size is, for the table.
        sizes: Of the students, the largest first.
        shared: What teacher and students have in common, as overrides of the MNIST recipe.
        teacher: How the teacher is made and trained.
        views: The teacher's augmentation, by data set.
        student_views: What the students see, and the cache holds.
    """

    unit: str
    sizes: tuple[str, ...]
    shared: tuple[str, ...]
    teacher: tuple[str, ...]
    views: Mapping[str, str]
    student_views: Mapping[str, str]


FAMILIES = {
    "mlp": Family(
        unit="hidden units",
        sizes=("1200", "420", "200", "150", "60", "24", "8"),
        shared=("optimizer.lr=2.0e-3",),
        teacher=("teacher.training.train.epochs=12",),
        # shifted by 2 pixels, clothes are learned worse
        views={"mnist": "{kind: shift, pixels: 2}", "fashion_mnist": "{kind: identity}"},
        student_views={"mnist": "{kind: identity}", "fashion_mnist": "{kind: identity}"},
    ),
    "cnn": Family(
        unit="channels of the stages",
        sizes=("16-32-128-800", "16-32-64-256", "12-24-48-96", "7-14-28-56", "5-10-20"),
        shared=(
            "teacher.model=cnn",
            "teacher.settings={width: 64, stages: 4, dropout: 0.3}",
            "teacher.channels_last=true",
            "teacher.precision=bf16",
            "train.batch_size=128",
            "train.precision=bf16",
            "optimizer={kind: adamw, lr: 5.0e-3, weight_decay: 1.0e-2}",
        ),
        teacher=(
            "teacher.training.train={epochs: 12, batch_size: 128, precision: bf16}",
            "teacher.training.optimizer={kind: adamw, lr: 3.0e-3, weight_decay: 2.0e-2}",
        ),
        views={
            "mnist": "{kind: shift, pixels: 2}",
            "fashion_mnist": "{kind: crop_flip, padding: 2}",
        },
        student_views={
            "mnist": "{kind: shift, pixels: 1}",
            "fashion_mnist": "{kind: crop_flip, padding: 1}",
        },
    ),
}


def student_of(family: str, size: str) -> dict[str, Any]:
    """A student's part of a recipe."""
    if family == "mlp":
        return {"model": "mlp", "settings": {"hidden": [int(size)]}}
    channels = [int(part) for part in size.split("-")]
    return {"model": "cnn", "settings": {"channels": channels}, "channels_last": True}


@dataclass(frozen=True, slots=True)
class Row:
    """One size: its file, and what both arms reach with it.

    Attributes:
        student: Its size, as in `Family.sizes`.
        size_bytes: Of the int8 file.
        float_bytes: Of the float file.
        accuracy: Arm to mean, low and high end of the interval, of the int8 files.
        float_accuracy: Arm to mean over the seeds, of the float networks.
        difference: Distilled minus baseline: mean, low, high, of the int8 files.
        word: The verdict.
        teacher: The teacher's accuracy.
        teacher_bytes: Of its float file.
        times_faster: Median latency of the teacher's float file over that of the student's
            int8 file, one sample a call, measured by turns.
    """

    student: str
    size_bytes: int
    float_bytes: int
    accuracy: dict[str, list[float]]
    float_accuracy: dict[str, float]
    difference: list[float]
    word: str
    teacher: float
    teacher_bytes: int
    times_faster: float


def main() -> None:
    """Train, measure, print the table and draw the image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=["mnist", "fashion_mnist"])
    parser.add_argument("--family", choices=sorted(FAMILIES), default="mlp")
    parser.add_argument("--sizes", nargs="+", help="of the students, as in 1200 or 5-10-20")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--teacher-epochs", type=int, help="other than the family's")
    parser.add_argument("--out", type=Path, default=Path("runs/bytes"))
    parser.add_argument("--svg", type=Path, help="where the image shall lie")
    parser.add_argument("--again", type=int, default=0, help="rounds of latency, taken by turns")
    parser.add_argument("--untrained", action="store_true", help="only time; needs no data")
    parser.add_argument("--seconds", type=float, default=5.0, help="to measure latencies for")
    chosen = parser.parse_args()
    chosen.folder = chosen.out / f"{chosen.data}-{chosen.family}"
    chosen.sizes = chosen.sizes or FAMILIES[chosen.family].sizes
    torch.set_num_threads(1)
    print(machine(1))
    if chosen.untrained:
        chosen.folder = chosen.out / f"{chosen.data}-{chosen.family}-untrained"
        leave_untrained(chosen)
        print(time_again(chosen))
        return
    rows = [one_size(chosen, size) for size in reversed(chosen.sizes)][::-1]
    print(table(FAMILIES[chosen.family].unit, rows))
    if chosen.svg:
        write_text(chosen.svg, image(chosen.data, rows))
    if chosen.again:
        print(time_again(chosen))


def one_size(chosen: argparse.Namespace, size: str) -> Row:
    """The row of one size, from its file if it is there."""
    folder = chosen.folder / size
    found = folder / "row.json"
    if not found.exists():
        job = make_job(chosen, size, folder)
        write_text(found, json.dumps(asdict(measure(job, run_job(job), size)), indent=1) + "\n")
    return Row(**json.loads(found.read_text(encoding="utf-8")))


def make_job(chosen: argparse.Namespace, size: str, folder: Path) -> Job:
    """The shipped MNIST recipe with other networks; the smallest trains the teacher."""
    return build_job(read_recipe("mnist", changes(chosen, size, folder)))


def changes(chosen: argparse.Namespace, size: str, folder: Path) -> list[str]:
    """What a size changes in the shipped MNIST recipe."""
    family = FAMILIES[chosen.family]
    first = chosen.folder / chosen.sizes[-1]
    overrides = [
        f"data.kind={chosen.data}",
        f"student={inline(student_of(chosen.family, size))}",
        f"views={family.student_views[chosen.data]}",
        f"train.epochs={chosen.epochs}",
        "objective.terms.0.temperature=4",
        f"seeds={list(range(chosen.seeds))}",
        f"measure={{batch_sizes: [1], threads: 1, seconds: {chosen.seconds}, int8: minmax}}",
        f"cache.path={chosen.folder / 'cache'}",
        f"output={folder}",
        *family.shared,
    ]
    if folder == first:
        overrides += [*family.teacher, f"teacher.training.views={family.views[chosen.data]}"]
        if chosen.teacher_epochs:
            overrides.append(f"teacher.training.train.epochs={chosen.teacher_epochs}")
    else:
        weights = first / "teacher" / "selected.safetensors"
        overrides += ["teacher.training=null", f"teacher.weights={weights}"]
    return overrides


def leave_untrained(chosen: argparse.Namespace) -> None:
    """Write what a run of each size would deliver, of networks that have learned nothing."""
    pixels = torch.rand(256, *SHAPE, generator=torch.Generator().manual_seed(0))
    for size in chosen.sizes:
        folder = chosen.folder / size
        recipe = read_recipe("mnist", changes(chosen, size, folder))
        export = folder / "export"
        export.mkdir(parents=True, exist_ok=True)
        names = ["student", "teacher"] if size == chosen.sizes[-1] else ["student"]
        for name in names:
            part = getattr(recipe, name)
            torch.manual_seed(0)
            network = make_model(
                part.model, part.settings, num_classes=10, in_channels=1, image_size=SHAPE[-1]
            )
            network = NormalizedNetwork(network, ((0.13,), (0.31,)), num_axes=4).eval()
            export_onnx(network, pixels, export / f"{name}.onnx")
        files = (export / "student.onnx", export / "student.int8.onnx")
        quantise_onnx(*files, list(pixels.split(64)), "minmax")


def inline(part: dict[str, Any]) -> str:
    """A part of a recipe in one line."""
    return yaml.safe_dump(part, default_flow_style=True, width=1000).strip()


def time_again(chosen: argparse.Namespace) -> str:
    """Times faster than the teacher: least and most of some rounds.

    By turns, what else the machine does falls on all alike; the second of two calls counts, so that
    no other network's data lie in the caches (`standalone.take_turns`). Alone is as on a device.
    """
    files = {size: chosen.folder / size / "export" / "student.int8.onnx" for size in chosen.sizes}
    teacher = chosen.folder / chosen.sizes[-1] / "export" / "teacher.onnx"
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(chosen.again):
        for size, file in files.items():
            both = {"teacher": teacher, size: file}
            seconds = 0.4 * chosen.seconds
            alone = {name: timed({name: path}, 1, seconds)[name] for name, path in both.items()}
            schemes = {
                "by turns": timed(both, 1, seconds),
                "alone": alone,
                "by turns, 32 a call": timed(both, 32, seconds),
            }
            for scheme, times in schemes.items():
                found.setdefault((size, scheme), []).append(times["teacher"] / times[size])
    schemes = list(dict.fromkeys(scheme for _, scheme in found))
    lines = [f"| times faster | {' | '.join(schemes)} |", "|---" * (len(schemes) + 1) + "|"]
    for size in chosen.sizes:
        cells = [
            f"{min(found[size, scheme]):.1f} to {max(found[size, scheme]):.1f}"
            for scheme in schemes
        ]
        lines.append(f"| {size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def timed(files: Mapping[str, Path], batch_size: int, seconds: float) -> dict[str, float]:
    """Median milliseconds of a call of each, by turns, one thread."""
    sample = torch.rand(32, *SHAPE, generator=torch.Generator().manual_seed(0))
    rows = measure_latency(files, sample, batch_sizes=(batch_size,), calls=5000, seconds=seconds)
    return {row.name: row.p50_ms for row in rows}


def measure(job: Job, finished: RunResult, size: str) -> Row:
    """Turn every student into an int8 file, run it, and compare the arms."""
    right = {arm: torch.stack([file_right(job, t) for t in of(finished, arm)]) for arm in ARMS}
    verdict = compare_arms(right["distilled"], right["baseline"])
    record = finished.record
    sizes = {row.name: row.size_bytes for row in record.sizes}
    latency = {row.name: row.p50_ms for row in record.latencies}
    floats = {arm: record.summary(arm, "selected") for arm in (*ARMS, "teacher")}
    return Row(
        student=size,
        size_bytes=sizes["distilled int8"],
        float_bytes=sizes["distilled"],
        accuracy={arm: interval(right[arm]) for arm in ARMS},
        float_accuracy={arm: floats[arm].mean["accuracy"] for arm in ARMS},
        difference=[verdict.difference, verdict.low, verdict.high],
        word=verdict.word,
        teacher=floats["teacher"].mean["accuracy"],
        teacher_bytes=sizes["teacher"],
        times_faster=latency["teacher"] / latency["distilled int8"],
    )


def of(finished: RunResult, arm: str) -> list[TrainedModel]:
    """An arm's trainings, in the order of the seeds."""
    return sorted((t for t in finished.arms if t.arm == arm), key=lambda trained: trained.seed)


def file_right(job: Job, trained: TrainedModel) -> Tensor:
    """Which test samples a student's int8 file puts right."""
    reader = job.reader(job.splits.train)
    ids = torch.linspace(0, len(reader) - 1, NUM_CALIBRATION).long()
    calibration = [
        reader.inputs.export_inputs(reader[part, 0 * part].inputs) for part in ids.split(64)
    ]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        export_onnx(wrap_for_export(job, trained.selected), calibration[0], source)
        quantise_onnx(source, target, calibration, "minmax")
        return right_of(job, open_session(target, threads=1))


def right_of(job: Job, session: Any) -> Tensor:
    """Which test samples an open file puts right."""
    reader, parts = job.test_reader, []
    for request in in_order(len(reader), batch_size=256):
        batch = reader[request]
        logits = torch.from_numpy(
            run_session(session, reader.inputs.export_inputs(batch.inputs).numpy())
        )
        assert batch.labels is not None
        parts.append(correct(logits, batch.labels))
    return torch.cat(parts)


def interval(right: Tensor) -> list[float]:
    """Mean accuracy with its 95% interval over other seeds and other test samples."""
    found = paired_interval(right, torch.zeros_like(right))
    return [found.mean, found.low, found.high]


def table(unit: str, rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        f"Teacher: {rows[0].teacher:.2%}, {rows[0].teacher_bytes:,} bytes.",
        "",
        f"| {unit} | int8 file, bytes | times smaller | times faster | baseline | distilled "
        "| difference, points | verdict | of the teacher's |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        arms = [f"{a:.2%} ({b:.2%} to {c:.2%})" for a, b, c in map(row.accuracy.get, ARMS)]
        change = "{:+.2f} ({:+.2f} to {:+.2f})".format(*(100 * x for x in row.difference))
        lines.append(
            f"| {row.student} | {row.size_bytes:,} | {row.teacher_bytes / row.size_bytes:.0f} "
            f"| {row.times_faster:.0f} | {arms[0]} | {arms[1]} | {change} | {row.word} "
            f"| {row.accuracy['distilled'][0] / row.teacher:.2%} |"
        )
    return "\n".join(lines)


def image(data: str, rows: Sequence[Row]) -> str:
    """Accuracy against bytes, both arms with their intervals, and the teacher's line."""
    curves = [
        Curve(arm, [Point(row.size_bytes, *row.accuracy[arm]) for row in rows]) for arm in ARMS
    ]
    return draw_curves(
        title=f"Accuracy against the size of the int8 file, {data}",
        curves=curves,
        level=("teacher", rows[0].teacher),
        x_title="bytes of the int8 ONNX file (logarithmic)",
    )


if __name__ == "__main__":
    main()
