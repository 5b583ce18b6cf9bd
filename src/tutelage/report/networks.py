"""Networks of a record, and the rows that belong to each."""

from collections.abc import Sequence
from typing import TypeVar

from tutelage.records import LatencyRow, RunRecord, SizeRow, TrainingRecord
from tutelage.report import formatting

ARMS = ("teacher", "baseline", "distilled")
CHOICES = {"selected": "Best on the validation data", "last": "After the last epoch"}


Row = TypeVar("Row", SizeRow, LatencyRow)


def arms(record: RunRecord) -> list[str]:
    """The existing arms with a summary: teacher, baseline, distilled."""
    return [arm for arm in ARMS if any(summary.arm == arm for summary in record.summaries)]


def choices(record: RunRecord) -> list[str]:
    """The choices to show; only "last" without validation data."""
    there = [choice for choice in CHOICES if any(s.choice == choice for s in record.summaries)]
    return there if was_selected(record) else [choice for choice in there if choice == "last"]


def was_selected(record: RunRecord) -> bool:
    """Whether any student was selected on validation data."""
    return any(training.selected_epoch is not None for training in record.arms)


def trainings(record: RunRecord, arm: str) -> list[TrainingRecord]:
    """All seeds of an arm."""
    if arm == "teacher":
        return [record.teacher]
    return [training for training in record.arms if training.arm == arm]


def row_of(arm: str, rows: Sequence[Row]) -> Row | None:
    """The cost row of an arm: its own, or the student's that both students share."""
    names = (arm,) if arm == "teacher" else (arm, "student", "distilled", "baseline")
    found = {row.name: row for row in reversed(rows)}
    return next((found[name] for name in names if name in found), None)


def student_name(names: Sequence[str]) -> str | None:
    """The distilled student's name in cost rows."""
    return next((name for name in ("distilled", "student") if name in names), None)


def scale(record: RunRecord) -> float:
    """Factor of the metric for display: shares in percent."""
    return 100.0 if record.metric.is_share else 1.0


def metric_label(record: RunRecord) -> str:
    """The metric with its unit, as on an axis."""
    return f"{record.metric.title}, %" if record.metric.is_share else record.metric.title


def metric_cell(record: RunRecord, value: float | None) -> str:
    """A value of the metric under its label; shares in percent without the sign."""
    write = formatting.percent if record.metric.is_share else formatting.significant
    return write(value)


def metric_interval(record: RunRecord, row_ends: tuple[float | None, ...]) -> str:
    """A difference of scores, higher being better, followed by its interval."""
    known = [end for end in row_ends if end is not None]
    if len(known) < len(row_ends):
        return formatting.DASH
    middle, low, high = (record.metric.difference(end) for end in known)
    return f"{middle} [{low}, {high}]"


def metric_title(record: RunRecord) -> str:
    """The metric as the beginning of a title."""
    return capital(record.metric.title)


def capital(text: str) -> str:
    """Text with a capital first letter."""
    return text[:1].upper() + text[1:]


def metric_text(record: RunRecord, value: float | None) -> str:
    """A value of the metric, with a percent sign if it is a share."""
    return (
        f"{formatting.percent(value)} %"
        if record.metric.is_share
        else formatting.significant(value)
    )


def class_name(record: RunRecord, index: int) -> str:
    """Name of a class; its number if it has none."""
    return record.class_names[index] if index < len(record.class_names) else str(index)
