"""The model card: origin, quality and cost of a delivered student."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from tutelage.data.labels import some_names
from tutelage.deploy.targets import TARGETS
from tutelage.records import LatencyRow, ParityRow, QuantisedRow, RunRecord
from tutelage.report.formatting import DASH, percent, significant, size, tiny
from tutelage.report.networks import metric_cell, metric_interval, metric_label
from tutelage.report.remarks import remarks
from tutelage.wording import quantity

ARMS = ("teacher", "baseline", "distilled")
NOT_STATED = "not stated by whoever ran this"


def write_card(record: RunRecord, licences: Mapping[str, str], seed: int) -> str:
    """Write a student's model card as Markdown, from a run's results alone.

    Args:
        record: What the run found out.
        licences: Whose ("student", "teacher", "data") to what was stated of it.
        seed: Seed of the student that is delivered.
    """
    parts = [
        f"# {record.name}: a distilled student",
        _summary(record),
        "## Use it",
        "`python example.py YOUR_FILE` says what the student makes of an image (`.png`, `.jpg`), a "
        "text, rows of a table (`.csv`) or an array (`.npy`) of yours, as far as it takes such "
        "inputs; without a file it takes the samples here. "
        "It needs numpy and onnxruntime, and pillow for images or tokenizers for texts. "
        "`config.json` has the preprocessing, and inputs and outputs of each file as the file "
        "itself has them; normalisation is inside every exported file. "
        "`labels.txt` has one name a line, in the order of the outputs. `student.safetensors` "
        "holds the weights of the network itself, without its normalisation.",
        "## How good it is",
        _quality(record),
        _verdict(record),
        f"The files are of the distilled student of seed {seed}{_calibration(record, seed)}.",
        "## Files",
        _files(record),
        *_int8(record),
        *_openings(record),
        "## What it costs",
        _latencies(record.latencies),
        "## Where it comes from",
        _provenance(record),
        "## Licences",
        _table(
            ("of", "licence"),
            [(whose, licences.get(whose, NOT_STATED)) for whose in ("student", "teacher", "data")],
        ),
        "A student may be bound by the licences of its teacher and of its data.",
        *_notes(remarks(record)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(record: RunRecord) -> str:
    student, names = record.recipe.get("student", {}), record.class_names
    does = f"puts inputs into {quantity(len(names), 'class')}"
    if not _has_confidence(record):
        does = f"gives {quantity(len(names), 'output')} ({some_names(names)})"
    return (
        f"A network (`{_named(student)}`) that {does}, taught by "
        f"`{_named(record.recipe.get('teacher', {}))}`. Made by Tutelage {record.version}."
    )


def _has_confidence(record: RunRecord) -> bool:
    """Whether outputs are probabilities of classes, of which calibration is known."""
    return record.teacher.selected.ece is not None


def _named(network: Any) -> str:
    if not isinstance(network, Mapping) or "model" not in network:
        return "network of a Python call"
    settings = ", ".join(f"{key}={value}" for key, value in (network.get("settings") or {}).items())
    return f"{network['model']}({settings})"


def _quality(record: RunRecord) -> str:
    rows = []
    others = ("agreement", "ece") if _has_confidence(record) else ("agreement",)
    for arm in ARMS:
        found = record.summary(arm, "selected")
        if found is not None:
            cells = [
                metric_cell(record, found.mean.get(record.metric.name)),
                *(percent(found.mean.get(key)) for key in others),
            ]
            rows.append((arm, *cells, percent(found.retention)))
    titles = {"agreement": "agreement, %", "ece": "ECE, %"}
    heads = ("network", metric_label(record), *(titles[key] for key in others), "retention, %")
    table = _table(heads, rows)
    samples = quantity(record.teacher.selected.count, f"{record.judged_on} sample")
    return f"On {samples}, means over seeds:\n\n{table}"


def _verdict(record: RunRecord) -> str:
    verdict = record.verdict
    if verdict is None:
        return "No baseline was trained, so nothing is known of what distillation itself added."
    return f"**{verdict.word}**: {verdict.sentence}"


def _calibration(record: RunRecord, seed: int) -> str:
    found = next(t for t in record.arms if (t.arm, t.seed) == ("distilled", seed)).selected
    if found.ece is None:
        return ""
    return (
        f"; its expected calibration error is {percent(found.ece)} %, and `calibration.json` has "
        "how often it is right at each confidence"
    )


def _files(record: RunRecord) -> str:
    sizes = {row.name: row.size_bytes for row in record.sizes}
    students = [row for row in record.parity if row.name != "teacher"]
    rows = [_float_row(record, row, sizes[row.name]) for row in students]
    heads = (
        "file",
        "runtime",
        "size",
        f"{metric_label(record)}, on the {record.judged_on} data",
        "largest difference",
        "equal predictions, %",
        "samples compared",
    )
    return (
        f"Each file, run in its own runtime: its {record.metric.title} on all "
        f"{max((row.test_count for row in students), default=0):,} {record.judged_on} samples, and "
        "its outputs "
        f"against PyTorch's on some of them.\n\n{_table(heads, rows)}"
    )


def _float_row(record: RunRecord, row: ParityRow, size_bytes: int) -> Sequence[str]:
    return (
        f"`{row.file}`",
        row.runtime or DASH,
        size(size_bytes),
        metric_cell(record, row.test_metric),
        tiny(row.max_abs_difference),
        percent(row.agreement),
        f"{row.count:,}",
    )


def _int8(record: RunRecord) -> list[str]:
    rows = record.quantised
    if not rows:
        return []
    cells = [
        (
            f"`{row.file}`",
            row.scheme,
            metric_cell(record, row.metric),
            metric_interval(record, (row.difference, row.low, row.high)),
            percent(row.agreement),
            str(row.calibration),
        )
        for row in rows
    ]
    heads = (
        "file",
        "scheme",
        metric_label(record),
        "minus float (95 %)",
        "equal predictions, %",
        "calibration samples",
    )
    where = f"on the {record.judged_on} data"
    return [f"Int8 against the float file, {where}:\n\n{_table(heads, cells)}"]


def _openings(record: RunRecord) -> list[str]:
    """Python code that runs each kind of file; `samples` are as `config.json` says."""
    rows: list[ParityRow | QuantisedRow] = [*record.parity, *record.quantised]
    rows = [row for row in rows if row.name != "teacher"]
    first = {row.target: row.file for row in reversed(rows)}
    kinds = [(TARGETS[name], file) for name, file in first.items() if name in TARGETS]
    return [
        f"`{file}` in {target.title} ({target.places}), from `samples` to `logits`:\n\n"
        f"```python\n{target.opening.replace('FILE', file)}```"
        for target, file in kinds
    ]


def _latencies(rows: Sequence[LatencyRow]) -> str:
    if not rows:
        return "It was not timed."
    cells = [
        (
            row.name,
            row.runtime,
            str(row.batch_size),
            str(row.threads),
            significant(row.p50_ms),
            significant(row.p95_ms),
        )
        for row in rows
    ]
    heads = ("network", "runtime", "batch", "threads", "p50, ms", "p95, ms")
    return "Measured by turns on the machine of the run; read them as ratios.\n\n" + _table(
        heads, cells
    )


def _provenance(record: RunRecord) -> str:
    data = record.recipe.get("data", {})
    kind = _data_name(data) if isinstance(data, Mapping) else "given in Python"
    counts = ", ".join(f"{count:,} {split}" for split, count in record.splits.items())
    rows = [
        ("student", f"`{_named(record.recipe.get('student', {}))}`"),
        ("teacher", f"`{_named(record.recipe.get('teacher', {}))}`"),
        ("data", f"{kind} ({counts})"),
        ("finished", record.finished or DASH),
        ("command", f"`{record.command}`"),
        ("recipe", "`recipe.yaml`"),
        ("Tutelage", record.version),
    ]
    return _table(("what", "which"), rows)


def _data_name(data: Mapping[str, Any]) -> str:
    """The data's kind, and the name of its folder or file, if any."""
    kind = str(data.get("kind", "given in Python"))
    place = data.get("path") or data.get("train")
    return f"{kind}: {PurePath(str(place)).name}" if place else kind


def _notes(notes: Sequence[str]) -> list[str]:
    return ["## Notes", "\n".join(f"- {note}" for note in notes)] if notes else []


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
