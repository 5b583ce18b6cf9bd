"""Measurements of every exported file: score against cost, and tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.records import MeasuredRow, Measurement, RunRecord, TrainingRecord
from tutelage.report import formatting, networks
from tutelage.report.figures import Chart, axis, colour, draw, marker, safe_text
from tutelage.report.tables import Cell, Row, Table
from tutelage.wording import quantity

COLUMNS = ["p50, ms", "p95, ms", "samples a second", "energy, mJ a sample", "size", "peak memory"]
COLUMNS += ["runtime"]
NOT_TOLD = "not told"
OTHER_SYMBOLS = (
    "triangle-up", "star", "hexagon", "pentagon", "bowtie", "triangle-down", "x", "hourglass",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Point:
    """One network in the chart.

    Attributes:
        name: In the legend.
        score: The task's metric on the test data, as it is shown.
        cost: On the horizontal axis.
    """

    name: str
    score: float
    cost: float


def measured_charts(record: RunRecord) -> list[Chart]:
    """Score against size, and against latency on each machine, with the Pareto front."""
    if not record.measurements:
        return []
    charts = []
    first = record.measurements[0]
    sizes = {file.name: float(file.size_bytes) for file in first.files if file.size_bytes}
    if points := _points(record, sizes):
        charts.append(_chart(record, "measured-size", "size", "", points, "file size, kB", 1e-3))
    for number, measurement in enumerate(record.measurements):
        rows = pictured_rows(measurement)
        points = _points(record, {row.name: row.p50_ms for row in rows})
        if points:
            where = f"{safe_text(measurement.machine.name)}, {_conditions(rows[0])}."
            key = f"measured-latency-{number}"
            charts.append(_chart(record, key, "latency", where, points, "latency p50, ms", 1.0))
    return charts


def measured_tables(record: RunRecord) -> list[Table]:
    """All rows of each machine."""
    return [_table(measurement) for measurement in record.measurements]


def problems(record: RunRecord) -> list[str]:
    """Files that could not run on a machine, one sentence each."""
    return [
        f"{measurement.machine.name}: {file.file} could not be run ({file.problem})."
        for measurement in record.measurements
        for file in measurement.files
        if file.problem
    ]


def pictured_rows(measurement: Measurement) -> list[MeasuredRow]:
    """Rows of the smallest batch size on the fewest threads."""
    least = min((row.batch_size, row.threads) for row in measurement.rows)
    return [row for row in measurement.rows if (row.batch_size, row.threads) == least]


def pareto_front(points: Sequence[Point], *, is_higher_better: bool = True) -> list[Point]:
    """Points that no other beats in both dimensions, the cheapest first."""
    sign = -1 if is_higher_better else 1
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, sign * p.score)):
        if not front or sign * point.score < sign * front[-1].score:
            front.append(point)
    return front


def file_scores(record: RunRecord) -> dict[str, float]:
    """The task's metric on the test data, by name of the exported file.

    The student's files are of the student that is delivered, so one seed's. The baseline of that
    seed has the student's costs and is in the image under its own name.
    """
    name = record.metric.name
    delivered = _delivered(record)
    scores = {"teacher": record.teacher.selected.values.get(name)}
    if delivered is not None:
        of_student = delivered.selected.values.get(name)
        files = [row.name for row in record.parity if row.name != "teacher"]
        scores |= dict.fromkeys(("distilled", *files), of_student)
        same = [t for t in record.arms if (t.arm, t.seed) == ("baseline", delivered.seed)]
        scores |= {training.arm: training.selected.values.get(name) for training in same}
    scores |= {row.name: row.metric for row in record.quantised}
    return {key: value for key, value in scores.items() if value is not None}


def _delivered(record: RunRecord) -> TrainingRecord | None:
    """The distilled student with the best validation score, else the first."""

    def rank(training: TrainingRecord) -> float:
        seen = [p.valid_metric for p in training.curve if p.valid_metric is not None]
        return max((record.metric.rank(value) for value in seen), default=0.0)

    distilled = [training for training in record.arms if training.arm == "distilled"]
    return max(distilled, key=rank) if distilled else None


def _points(record: RunRecord, costs: dict[str, float]) -> list[Point]:
    scores, scale = file_scores(record), networks.scale(record)
    if "distilled" in costs:  # one network, two trainings
        costs = {**costs, "baseline": costs["distilled"]}
    return [
        Point(name, scale * scores[name], cost) for name, cost in costs.items() if name in scores
    ]


def _chart(
    record: RunRecord,
    key: str,
    what: str,
    where: str,
    points: Sequence[Point],
    title: str,
    step: float,
) -> Chart:
    front = pareto_front(points, is_higher_better=record.metric.is_higher_better)
    line = {
        "name": "Pareto front",
        "mode": "lines",
        "x": [step * point.cost for point in front],
        "y": [point.score for point in front],
        "line": {"color": "rgba(128,128,128,.8)", "width": 1.5, "dash": "dot", "shape": "hv"},
        "hoverinfo": "skip",
    }
    others = [p.name for p in points if p.name not in networks.ARMS]
    traces = [line, *(_trace(record, point, others, step) for point in points)]
    figure = draw(
        traces,
        axis(f"{title} (logarithmic)", type="log"),
        axis(networks.metric_label(record)),
        height=380,
        margin={"l": 56, "r": 16, "t": 84, "b": 48},
    )
    on_front = ", ".join(point.name for point in front)
    caption = f"{where} On the front, so beaten by no other in both: {on_front}.".strip()
    return Chart(key, f"{networks.metric_title(record)} against {what}", caption, figure)


def _trace(record: RunRecord, point: Point, others: Sequence[str], step: float) -> dict[str, Any]:
    sign = " %" if record.metric.is_share else ""
    style = marker(point.name, size=12)
    if point.name in others:
        symbol = OTHER_SYMBOLS[others.index(point.name) % len(OTHER_SYMBOLS)]
        style = {"color": colour("distilled"), "symbol": symbol, "size": 12}
    return {
        "name": safe_text(point.name),
        "mode": "markers",
        "x": [step * point.cost],
        "y": [point.score],
        "marker": style,
        "cliponaxis": False,
        "hovertemplate": f"{safe_text(point.name)}: %{{y:.2f}}{sign}, %{{x:.3g}}<extra></extra>",
    }


def _table(measurement: Measurement) -> Table:
    files = {file.name: file for file in measurement.files}
    write = formatting.significant
    rows = []
    for row in measurement.rows:
        file = files[row.name]
        memory = NOT_TOLD if file.memory_bytes is None else formatting.size(file.memory_bytes)
        texts = [
            write(row.p50_ms),
            write(row.p95_ms),
            write(row.throughput_per_s),
            NOT_TOLD if row.energy_mj is None else write(row.energy_mj),
            formatting.size(file.size_bytes),
            memory,
            row.runtime,
        ]
        rows.append(Row(row.name, [Cell(text) for text in texts], _conditions(row)))
    machine = measurement.machine
    title = f"{machine.name} ({machine.system}, Python {machine.python}), {measurement.when}"
    return Table(title=title, columns=COLUMNS, rows=rows)


def _conditions(row: MeasuredRow) -> str:
    return f"batch {row.batch_size}, {quantity(row.threads, 'thread')}"
