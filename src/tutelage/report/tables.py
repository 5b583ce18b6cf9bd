"""The tables of the page, as rows of text."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from tutelage.records import Evaluation, LatencyRow, RunRecord, Summary, TrainingRecord
from tutelage.report import formatting, networks
from tutelage.report.formatting import Number, count, duration, number, percent, short_count, size
from tutelage.wording import quantity

PERCENT = "percent"
NATS = "nats"
LARGE = 100.0  # from here on, as of a perplexity, thousandths are noise
_LOST = ("KL from live to cached, nats", "Distance from live to cached")
METRICS = (
    ("accuracy", "Accuracy, %", PERCENT),
    ("agreement", "Agreement, %", PERCENT),
    ("kl_to_teacher", "KL to teacher, nats", NATS),
    ("nll", "NLL, nats", NATS),
    ("ece", "ECE, %", PERCENT),
)


def metrics_of(record: RunRecord) -> list[tuple[str, str, str]]:
    """Name, label and unit of all metrics, the leading one first."""
    metric = record.metric
    label = networks.capital(networks.metric_label(record))
    known = [
        (metric.name, label, PERCENT if metric.is_share else NATS),
        *(entry for entry in METRICS if entry[0] != metric.name),
    ]
    shares = {each.name: each for each in record.metrics if each.is_share}
    names = {name for name, _, _ in known}
    others = dict.fromkeys(name for s in record.summaries for name in s.mean if name not in names)
    titled = {each.name: each.title for each in record.metrics}
    return [
        *known,
        *(
            (
                name,
                networks.capital(titled.get(name, name.replace("_", " ")))
                + (", %" if name in shares else ""),
                PERCENT if name in shares else NATS,
            )
            for name in others
        ),
    ]


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, its spread over seeds, and the exact number for a tooltip."""

    value: str
    spread: str = ""
    exact: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table; the detail is printed small below its label."""

    label: str
    cells: list[Cell]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with one column per network."""

    title: str
    columns: list[str]
    rows: list[Row]


def quality_tables(record: RunRecord) -> list[Table]:
    """Quality of each network, one table per choice."""
    arms = networks.arms(record)
    return [
        Table(
            title=networks.CHOICES[choice],
            columns=arms,
            rows=_quality_rows([record.summary(arm, choice) for arm in arms], metrics_of(record)),
        )
        for choice in networks.choices(record)
    ]


def _quality_rows(
    summaries: list[Summary | None], metrics: list[tuple[str, str, str]]
) -> list[Row]:
    rows = [
        Row(label, [_metric_cell(summary, metric, unit) for summary in summaries])
        for metric, label, unit in metrics
    ]
    kept = [Cell(percent(s.retention if s else None)) for s in summaries]
    closed = [Cell(percent(s.gap_closed if s else None, digits=1)) for s in summaries]
    rows = [rows[0], Row("Retention, %", kept), Row("Gap closed, %", closed), *rows[1:]]
    return [row for row in rows if any(cell.value != formatting.DASH for cell in row.cells)]


def _metric_cell(summary: Summary | None, metric: str, unit: str) -> Cell:
    if summary is None:
        return Cell(formatting.DASH)
    mean, spread = summary.mean.get(metric), summary.spread.get(metric)
    write: Callable[[Number | None], str] = percent if unit == PERCENT else number
    if unit == NATS and mean is not None and mean >= LARGE:
        write = partial(number, digits=1)
    return Cell(
        value=write(mean),
        spread="" if spread is None else f"\N{PLUS-MINUS SIGN} {write(spread)}",
    )


def cost_table(record: RunRecord) -> Table:
    """Cost of each network; the last column compares the teacher with the student."""
    names = [*(row.name for row in record.sizes), *(row.name for row in record.latencies)]
    names = list(dict.fromkeys(names))
    rows = [
        *(_size_rows(record, names) if record.sizes else []),
        *(row for place in _places(record) for row in _latency_rows(record, names, place)),
    ]
    columns = [*names, "teacher \N{DIVISION SIGN} student"] if _is_compared(names) else names
    return Table(title="Costs", columns=columns, rows=rows)


def _is_compared(names: list[str]) -> bool:
    return "teacher" in names and networks.student_name(names) is not None


def _cost_row(
    label: str,
    values: Mapping[str, Number],
    write: Callable[[Number | None], str],
    names: list[str],
    detail: str = "",
    compare: Callable[[Number | None, Number | None], str] = formatting.ratio,
) -> Row:
    cells = [
        Cell(write(values.get(name)), exact=f"{values[name]:,}" if name in values else "")
        for name in names
    ]
    if _is_compared(names):
        student = networks.student_name(names) or ""
        cells.append(Cell(compare(values.get("teacher"), values.get(student))))
    return Row(label, cells, detail)


def _size_rows(record: RunRecord, names: list[str]) -> list[Row]:
    return [
        _cost_row("Parameters", {s.name: s.parameters for s in record.sizes}, short_count, names),
        _cost_row(
            "MACs for one sample",
            {s.name: s.macs for s in record.sizes},
            short_count,
            names,
            "matrix products and convolutions alone",
        ),
        _cost_row("File size", {s.name: s.size_bytes for s in record.sizes}, size, names),
    ]


Place = tuple[str, int, int]


def _place(row: LatencyRow) -> Place:
    return (row.runtime, row.batch_size, row.threads)


def _places(record: RunRecord) -> list[Place]:
    return list(dict.fromkeys(_place(row) for row in record.latencies))


def _latency_rows(record: RunRecord, names: list[str], place: Place) -> list[Row]:
    here = [row for row in record.latencies if _place(row) == place]
    runtime, batch_size, threads = place
    where = f"{runtime}, batch {batch_size}, {quantity(threads, 'thread')}"
    found = {"p50": {r.name: r.p50_ms for r in here}, "p95": {r.name: r.p95_ms for r in here}}
    return [
        _cost_row(
            f"Latency {what}, ms",
            times,
            formatting.significant,
            names,
            where,
            formatting.speed_ratio,
        )
        for what, times in found.items()
    ]


def seed_table(record: RunRecord) -> Table:
    """Every evaluation of every seed."""
    metrics = metrics_of(record)
    columns = ["seed", "choice", "epoch", *(label for _, label, _ in metrics), "steps", "time"]
    rows = [
        _seed_row(training, choice, metrics)
        for arm in networks.ARMS
        for training in networks.trainings(record, arm)
        for choice in networks.choices(record)
    ]
    return Table(title="Every seed", columns=columns, rows=rows)


def _seed_row(training: TrainingRecord, choice: str, metrics: list[tuple[str, str, str]]) -> Row:
    evaluation = training.selected if choice == "selected" else training.last
    last_epoch = training.curve[-1].epoch if training.curve else None
    epoch = training.selected_epoch if choice == "selected" else last_epoch
    texts = [
        str(training.seed),
        choice,
        formatting.DASH if epoch is None else str(epoch),
        *_evaluation_texts(evaluation, metrics),
        count(training.steps),
        duration(training.seconds),
    ]
    return Row(training.arm, [Cell(text) for text in texts])


def _evaluation_texts(evaluation: Evaluation, metrics: list[tuple[str, str, str]]) -> list[str]:
    return [
        (percent if unit == PERCENT else number)(evaluation.values.get(metric))
        for metric, _, unit in metrics
    ]


def epoch_table(record: RunRecord) -> Table:
    """Every epoch of every training."""
    valid = f"valid {networks.metric_label(record)}"
    columns = ["seed", "epoch", "step", "train loss", "parts", valid, "valid loss"]
    write = percent if record.metric.is_share else number
    rows = [
        Row(
            training.arm,
            [
                Cell(str(training.seed)),
                Cell(str(point.epoch)),
                Cell(count(point.step)),
                Cell(number(point.train_loss, digits=4)),
                Cell(", ".join(f"{k} {number(v, digits=4)}" for k, v in point.train_parts.items())),
                Cell(write(point.valid_metric)),
                Cell(number(point.valid_loss, digits=4)),
            ],
        )
        for arm in networks.ARMS
        for training in networks.trainings(record, arm)
        for point in training.curve
    ]
    return Table(title="Every epoch", columns=columns, rows=rows)


def class_table(record: RunRecord, choice: str) -> Table:
    """Accuracy of the teacher and retention of the students, class by class."""
    teacher = record.teacher.selected if choice == "selected" else record.teacher.last
    students = [s for a in networks.ARMS[1:] if (s := record.summary(a, choice)) is not None]
    rows = [
        Row(
            networks.class_name(record, index),
            [
                Cell(percent(accuracy)),
                *(Cell(percent(_at(student.per_class_retention, index))) for student in students),
            ],
        )
        for index, accuracy in enumerate(teacher.per_class_accuracy)
    ]
    columns = ["teacher's accuracy, %", *(f"{s.arm}: retention, %" for s in students)]
    return Table(title="Every class", columns=columns, rows=rows)


def _at(values: list[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None


def parity_table(record: RunRecord) -> Table:
    """Exported files, each in its own runtime, against the PyTorch networks."""
    columns = [
        "file",
        "runtime",
        "largest difference",
        "equal predictions, %",
        networks.metric_label(record),
        "PyTorch's",
        "samples",
    ]
    rows = [
        Row(
            row.name,
            [
                Cell(row.file),
                Cell(row.runtime or formatting.DASH),
                Cell(formatting.tiny(row.max_abs_difference)),
                Cell(percent(row.agreement)),
                Cell(networks.metric_cell(record, row.metric)),
                Cell(networks.metric_cell(record, row.network_metric)),
                Cell(count(row.count)),
            ],
        )
        for row in record.parity
    ]
    return Table(title="Exported files against PyTorch", columns=columns, rows=rows)


def quantised_table(record: RunRecord) -> Table:
    """Int8 files against their float files."""
    is_finetuned = any(row.over_plain is not None for row in record.quantised)
    columns = [
        "how",
        networks.metric_label(record),
        "float",
        "difference (95 % interval)",
        *["over int8 without fine-tuning"] * is_finetuned,
        "equal predictions, %",
        "largest difference of logits",
        "calibration samples",
        f"{record.judged_on} samples",
    ]
    rows = [
        Row(
            row.file,
            [
                Cell(row.scheme),
                Cell(networks.metric_cell(record, row.metric)),
                Cell(networks.metric_cell(record, row.float_metric)),
                Cell(networks.metric_interval(record, (row.difference, row.low, row.high))),
                *[
                    Cell(
                        networks.metric_interval(
                            record, (row.over_plain, row.over_plain_low, row.over_plain_high)
                        )
                    )
                ]
                * is_finetuned,
                Cell(percent(row.agreement)),
                Cell(formatting.significant(row.max_abs_difference)),
                Cell(count(row.calibration)),
                Cell(count(row.count)),
            ],
        )
        for row in record.quantised
    ]
    return Table(title="Int8 against float", columns=columns, rows=rows)


def cache_facts(record: RunRecord) -> list[tuple[str, str]]:
    """Facts about the teacher cache; empty for a live teacher."""
    cache = record.cache
    if cache is None:
        return []
    return [
        ("Codec", cache.codec),
        ("Samples", count(cache.num_samples)),
        ("Views of each", count(cache.num_views)),
        ("Size", size(cache.size_bytes)),
        ("Bytes per item", formatting.significant(cache.bytes_per_item)),
        (_LOST[record.teacher.selected.accuracy is None], formatting.tiny(cache.kl_to_live)),
        ("Time to build", duration(cache.build_seconds)),
    ]
