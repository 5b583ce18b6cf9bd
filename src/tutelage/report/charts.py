"""The charts that compare networks: accuracy against cost, retention, calibration."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.records import CalibrationBin, LatencyRow, RunRecord
from tutelage.report import formatting, networks
from tutelage.report.curves import curve_charts
from tutelage.report.figures import LONGEST_NAME, Chart, axis, colour, draw, marker, safe_text
from tutelage.wording import quantity

LOWEST_CLASSES = 20
NUM_BINS = 10
ROW_HEIGHT = 22


def make_charts(record: RunRecord, choice: str) -> dict[str, list[Chart]]:
    """All charts of a run, by section of the page; a section without data is an empty list.

    Args:
        record: What the run found out.
        choice: "selected" or "last": which networks the charts speak of.

    Raises:
        MissingExtraError: Plotly is not installed.
    """
    return {
        "curves": curve_charts(record),
        "costs": cost_charts(record, choice),
        "retention": retention_charts(record, choice),
        "calibration": calibration_charts(record, choice),
    }


def cost_charts(record: RunRecord, choice: str) -> list[Chart]:
    """The metric against file size, and against latency."""
    charts, title = [], networks.metric_title(record)
    if record.sizes:
        rows = _rows_of_arms(record, record.sizes)
        is_small = max((row.size_bytes for row in rows.values()), default=0) < 1e6
        step, unit = (1e3, "kB") if is_small else (1e6, "MB")
        costs = {arm: row.size_bytes / step for arm, row in rows.items()}
        figure = _cost_figure(record, choice, costs, f"file size, {unit}")
        charts.append(Chart("size", f"{title} against size", _better(record), figure))
    if record.latencies:
        times = {arm: row.p50_ms for arm, row in _rows_of_arms(record, record.latencies).items()}
        figure = _cost_figure(record, choice, times, "latency p50, ms")
        charts.append(
            Chart(
                "latency",
                f"{title} against latency",
                f"{_better(record)} {_conditions(record.latencies[0])}",
                figure,
            )
        )
    return charts


def _rows_of_arms(record: RunRecord, rows: Sequence[networks.Row]) -> dict[str, networks.Row]:
    found = {arm: networks.row_of(arm, rows) for arm in networks.arms(record)}
    return {arm: row for arm, row in found.items() if row is not None}


def _better(record: RunRecord) -> str:
    return f"{'Up' if record.metric.is_higher_better else 'Down'} and left is better."


def _conditions(row: LatencyRow) -> str:
    return f"{row.runtime}, batch {row.batch_size}, {quantity(row.threads, 'thread')}."


def _cost_figure(
    record: RunRecord, choice: str, costs: Mapping[str, float], title: str
) -> dict[str, Any]:
    traces = [_cost_trace(record, choice, arm, cost) for arm, cost in costs.items()]
    reach = 1.12 * max(costs.values(), default=1.0)
    return draw(
        traces,
        axis(title, range=[-0.04 * reach, reach], zeroline=False),
        axis(networks.metric_label(record)),
    )


def _cost_trace(record: RunRecord, choice: str, arm: str, cost: float) -> dict[str, Any]:
    summary = record.summary(arm, choice)
    mean = summary.mean[record.metric.name] if summary else None
    spread = summary.spread.get(record.metric.name) if summary else None
    scale, sign = networks.scale(record), " %" if record.metric.is_share else ""
    bars = {"type": "data", "array": [scale * spread], "thickness": 1.5} if spread else None
    return {
        "name": arm,
        "mode": "markers",
        "x": [cost],
        "y": [None if mean is None else scale * mean],
        "marker": marker(arm, size=12),
        "error_y": bars,
        "cliponaxis": False,
        "hovertemplate": f"{arm}: %{{y:.2f}}{sign}, %{{x:.3g}}<extra></extra>",
    }


def retention_charts(record: RunRecord, choice: str) -> list[Chart]:
    """Each class's accuracy as a share of the teacher's, for both students."""
    kept = _class_retention(record, choice)
    order = _classes_to_show(kept)
    if not order:
        return []
    caption = "100 % is the teacher's accuracy on the class."
    if len(order) < max(len(values) for values in kept.values()):
        caption += f" The {len(order)} classes that keep least; the table below has all."
    figure = draw(
        [_links(kept, order), *(_dots(record, a, kept[a], order) for a in kept)],
        axis("share of the teacher's accuracy, %"),
        axis("", **_class_axis(record, order)),
        height=110 + ROW_HEIGHT * len(order),
        shapes=[_line_at_100()],
    )
    return [Chart("per-class", "Retention class by class", caption, figure)]


def _class_retention(record: RunRecord, choice: str) -> dict[str, list[float | None]]:
    summaries = [record.summary(arm, choice) for arm in networks.ARMS[1:]]
    return {s.arm: s.per_class_retention for s in summaries if s is not None}


def _classes_to_show(kept: Mapping[str, list[float | None]]) -> list[int]:
    values = kept.get("distilled", next(iter(kept.values()), []))
    known = [(value, index) for index, value in enumerate(values) if value is not None]
    if len(known) <= LOWEST_CLASSES:
        return [index for _, index in known]
    return [index for _, index in sorted(known)[:LOWEST_CLASSES]]


def _dots(
    record: RunRecord, arm: str, values: list[float | None], order: list[int]
) -> dict[str, Any]:
    return {
        "name": arm,
        "mode": "markers",
        "x": [_in_percent(values, index) for index in order],
        "y": list(range(len(order))),
        "text": [safe_text(networks.class_name(record, index)) for index in order],
        "marker": marker(arm),
        "hovertemplate": f"{arm}, %{{text}}: %{{x:.1f}} %<extra></extra>",
    }


def _links(kept: Mapping[str, list[float | None]], order: list[int]) -> dict[str, Any]:
    ends = [[_in_percent(values, i) for values in kept.values()] for i in order]
    return {
        "mode": "lines",
        "x": [x for pair in ends for x in (*pair, None)],
        "y": [y for place, pair in enumerate(ends) for y in (*[place] * len(pair), None)],
        "line": {"color": "rgba(128,128,128,.5)", "width": 2},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _in_percent(values: list[float | None], index: int) -> float | None:
    value = values[index] if index < len(values) else None
    return None if value is None else 100 * value


def _class_axis(record: RunRecord, order: list[int]) -> dict[str, Any]:
    names = [safe_text(networks.class_name(record, index), LONGEST_NAME) for index in order]
    return {
        "tickvals": list(range(len(order))),
        "ticktext": names,
        "range": [len(order) - 0.5, -0.5],
        "zeroline": False,
    }


def _line_at_100() -> dict[str, Any]:
    line = {"color": colour("teacher"), "width": 2, "dash": "dash"}
    return {"type": "line", "x0": 100, "x1": 100, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def calibration_charts(record: RunRecord, choice: str) -> list[Chart]:
    """A reliability diagram for each network, its seeds pooled."""
    return [
        chart for arm in networks.arms(record) for chart in _reliability_chart(record, arm, choice)
    ]


def _reliability_chart(record: RunRecord, arm: str, choice: str) -> list[Chart]:
    trainings = networks.trainings(record, arm)
    evaluations = [t.selected if choice == "selected" else t.last for t in trainings]
    bins = pool_bins([bin_ for evaluation in evaluations for bin_ in evaluation.calibration])
    if not bins:
        return []
    summary = record.summary(arm, choice)
    error = formatting.percent(summary.mean.get("ece") if summary else None)
    return [Chart(f"calibration-{arm}", arm, f"ECE {error} %", _reliability_figure(arm, bins))]


def pool_bins(bins: list[CalibrationBin]) -> list[CalibrationBin]:
    """Bins of several networks in tenths of confidence, weighted by their counts."""
    tenths: dict[int, list[CalibrationBin]] = defaultdict(list)
    for bin_ in bins:
        if bin_.count:
            tenths[min(int(bin_.confidence * NUM_BINS), NUM_BINS - 1)].append(bin_)
    return [_pool(tenths[tenth]) for tenth in sorted(tenths)]


def _pool(bins: list[CalibrationBin]) -> CalibrationBin:
    total = sum(bin_.count for bin_ in bins)
    return CalibrationBin(
        confidence=sum(bin_.confidence * bin_.count for bin_ in bins) / total,
        accuracy=sum(bin_.accuracy * bin_.count for bin_ in bins) / total,
        count=total,
    )


def _reliability_figure(arm: str, bins: list[CalibrationBin]) -> dict[str, Any]:
    total = sum(bin_.count for bin_ in bins)
    sizes = [7 + 21 * (bin_.count / total) ** 0.5 for bin_ in bins]
    diagonal = {
        "mode": "lines",
        "x": [0, 100],
        "y": [0, 100],
        "line": {"color": "rgba(128,128,128,.7)", "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
    }
    dots = {
        "name": arm,
        "mode": "lines+markers",
        "x": [100 * bin_.confidence for bin_ in bins],
        "y": [100 * bin_.accuracy for bin_ in bins],
        "text": [formatting.count(bin_.count) for bin_ in bins],
        "line": {"color": colour(arm), "width": 1.5},
        "marker": marker(arm, size=sizes, opacity=0.8, line={"width": 0}),
        "cliponaxis": False,
        "hovertemplate": "confidence %{x:.1f} %, accuracy %{y:.1f} %, "
        "%{text} predictions<extra></extra>",
    }
    square = {"range": [0, 104], "tick0": 0, "dtick": 20, "zeroline": False}
    return draw(
        [diagonal, dots],
        axis("confidence, %", **square),
        axis("accuracy, %", **square),
        height=280,
        showlegend=False,
        margin={"l": 52, "r": 12, "t": 12, "b": 44},
    )
