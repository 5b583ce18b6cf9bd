"""The learning curves: each seed thin, the mean thick, the teacher's level as a line."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from tutelage.records import MetricPoint, RunRecord, TrainingRecord
from tutelage.report import networks
from tutelage.report.figures import Axis, Chart, axis, colour, draw

FEW_EPOCHS = 12
Read = Callable[[MetricPoint], float | None]


def curve_charts(record: RunRecord) -> list[Chart]:
    """Metric and task loss on validation data; without any, the training objective."""
    curves = [t.curve for t in record.arms]
    if not any(curves):
        return []
    if not any(point.valid_metric is not None for curve in curves for point in curve):
        return [_train_loss_chart(record)]
    charts = [_metric_chart(record)]
    if any(point.valid_loss is not None for curve in curves for point in curve):
        charts.append(_valid_loss_chart(record))
    return charts


def _metric_chart(record: RunRecord) -> Chart:
    level, where = _teacher_level(record)
    scale = networks.scale(record)

    def read(point: MetricPoint) -> float | None:
        return None if point.valid_metric is None else scale * point.valid_metric

    return Chart(
        key=f"valid-{record.metric.name}",
        title=f"{networks.metric_title(record)} on the validation data",
        caption=f"Thin: one seed. Thick: the mean. Dashed: the teacher, {where}."
        + _early_part(record),
        figure=draw(
            [*_arm_traces(record, read), *_level(record, scale * level)],
            _epoch_axis(record),
            axis(networks.metric_label(record), **_late_range(record, read, scale * level)),
        ),
    )


def _valid_loss_chart(record: RunRecord) -> Chart:
    point = _teacher_point(record.teacher)
    loss = None if point is None else point.valid_loss
    level = [] if loss is None else _level(record, loss)
    return Chart(
        key="valid-loss",
        title="Task loss on the validation data",
        caption=f"{record.metric.task_loss}; lower is better."
        + (" Dashed: the teacher." if level else "")
        + _early_part(record),
        figure=draw(
            [*_arm_traces(record, _valid_loss), *level],
            _epoch_axis(record),
            axis("task loss", **_late_range(record, _valid_loss, loss)),
        ),
    )


def _train_loss_chart(record: RunRecord) -> Chart:
    return Chart(
        key="train-loss",
        title="Objective in training",
        caption="There was no validation data."
        + (
            " The arms minimise different objectives, so only the shapes compare, not the heights."
            if len({training.arm for training in record.arms}) > 1
            else ""
        ),
        figure=draw(
            _arm_traces(record, lambda point: point.train_loss),
            _epoch_axis(record),
            axis("objective"),
        ),
    )


def _epoch_axis(record: RunRecord) -> Axis:
    steps = {"dtick": 1} if _last_epoch(record) <= FEW_EPOCHS else {}
    return axis("epoch", rangemode="tozero", **steps)


def _valid_loss(point: MetricPoint) -> float | None:
    return point.valid_loss


def _last_epoch(record: RunRecord) -> int:
    return max(point.epoch for training in record.arms for point in training.curve)


def _early_part(record: RunRecord) -> str:
    is_cut = _last_epoch(record) >= FEW_EPOCHS
    return " The scale is set by the last three quarters of training." if is_cut else ""


def _late_range(record: RunRecord, read: Read, level: float | None) -> dict[str, Any]:
    """Axis range without the first quarter of training, whose steep part would flatten the rest."""
    last = _last_epoch(record)
    if last < FEW_EPOCHS:
        return {}
    points = [p for training in record.arms for p in training.curve if p.epoch > last / 4]
    values = [value for value in [level, *map(read, points)] if value is not None]
    if not values:
        return {}
    margin = 0.08 * (max(values) - min(values)) or 1.0
    return {"range": [min(values) - margin, max(values) + margin]}


def _teacher_point(teacher: TrainingRecord) -> MetricPoint | None:
    chosen = [point for point in teacher.curve if point.epoch == teacher.selected_epoch]
    return next(iter([*chosen, *teacher.curve[-1:]]), None)


def _teacher_level(record: RunRecord) -> tuple[float, str]:
    point = _teacher_point(record.teacher)
    if point is None or point.valid_metric is None:
        return record.teacher.selected.values[record.metric.name], f"on the {record.judged_on} data"
    return point.valid_metric, "on the same data"


def _level(record: RunRecord, height: float) -> list[dict[str, Any]]:
    last = _last_epoch(record)
    line = {"color": colour("teacher"), "width": 2, "dash": "dash"}
    return [{"name": "teacher", "mode": "lines", "x": [0, last], "y": [height] * 2, "line": line}]


def _arm_traces(record: RunRecord, read: Read) -> list[dict[str, Any]]:
    return [
        trace
        for arm in networks.ARMS[1:]
        for trace in _traces(arm, networks.trainings(record, arm), read)
    ]


def _traces(arm: str, trainings: list[TrainingRecord], read: Read) -> list[dict[str, Any]]:
    curves = {training.seed: _points(training, read) for training in trainings}
    curves = {seed: points for seed, points in curves.items() if points}
    if not curves:
        return []
    seeds = [_thin(arm, seed, points) for seed, points in curves.items()] if len(curves) > 1 else []
    return [*seeds, _thick(arm, _mean(list(curves.values())))]


def _points(training: TrainingRecord, read: Read) -> dict[int, float]:
    values = {point.epoch: read(point) for point in training.curve}
    return {epoch: value for epoch, value in values.items() if value is not None}


def _mean(curves: list[dict[int, float]]) -> dict[int, float]:
    values: dict[int, list[float]] = defaultdict(list)
    for curve in curves:
        for epoch, value in curve.items():
            values[epoch].append(value)
    return {epoch: sum(all_) / len(all_) for epoch, all_ in sorted(values.items())}


def _thin(arm: str, seed: int, points: dict[int, float]) -> dict[str, Any]:
    return {
        "name": f"{arm}, seed {seed}",
        "mode": "lines",
        "x": list(points),
        "y": list(points.values()),
        "line": {"color": colour(arm), "width": 1},
        "opacity": 0.45,
        "showlegend": False,
    }


def _thick(arm: str, points: dict[int, float]) -> dict[str, Any]:
    return {
        "name": arm,
        "mode": "lines+markers" if len(points) <= FEW_EPOCHS else "lines",
        "x": list(points),
        "y": list(points.values()),
        "line": {"color": colour(arm), "width": 3},
    }
