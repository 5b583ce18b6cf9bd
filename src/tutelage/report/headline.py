"""Top of the page: the verdict, its interval as an image, and four key figures."""

import math
from dataclasses import dataclass

from tutelage.records import LEADING, RunRecord, Verdict
from tutelage.report import formatting, networks
from tutelage.wording import quantity

TONES = {"helped": "good", "hurt": "bad"}


@dataclass(frozen=True, slots=True)
class Interval:
    """Positions on a ruler with zero in its middle, in percent of its width."""

    left: float
    width: float
    dot: float
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict, prepared for the page.

    Attributes:
        choice: Which networks it is of.
        word, tone, sentence, interval: As the page shows them.
        caveat: What must be known of its interval; empty where it is of the method of today.
        other: The verdict after the last epoch, in a line; empty where nothing was selected.
    """

    choice: str
    word: str
    tone: str
    sentence: str
    interval: Interval | None
    caveat: str
    other: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its meaning."""

    value: str
    label: str


def find_verdict(record: RunRecord) -> Finding | None:
    """The leading verdict, with the other one as a line; None without a baseline."""
    verdict = record.verdict
    if verdict is None:
        return None
    choice = LEADING if networks.was_selected(record) else "last"
    return Finding(
        choice=networks.CHOICES[choice],
        word=verdict.word,
        tone=TONES.get(verdict.word, "open"),
        sentence=verdict.sentence,
        interval=_place(record, verdict),
        caveat=verdict.caveat,
        other=_say_other(record) if choice == LEADING else "",
    )


def _say_other(record: RunRecord) -> str:
    last = record.verdicts.get("last")
    if last is None:
        return ""
    return (
        f"For information, {networks.CHOICES['last'].lower()}: {last.word}, "
        f"{_signed(record, last.difference)} ({_signed(record, last.low)} to "
        f"{_signed(record, last.high)})."
    )


def _place(record: RunRecord, verdict: Verdict) -> Interval | None:
    reach = max(abs(verdict.low), abs(verdict.high))
    if not math.isfinite(reach) or reach == 0:
        return None
    scale = 45 / reach
    return Interval(
        left=round(50 + scale * verdict.low, 2),
        width=round(max(scale * (verdict.high - verdict.low), 0.5), 2),
        dot=round(50 + scale * verdict.difference, 2),
        text=(
            f"{_signed(record, verdict.difference)} {record.metric.unit.partition(' ')[0]}, "
            f"{formatting.percent(verdict.level, digits=0)} % interval "
            f"{_signed(record, verdict.low)} to {_signed(record, verdict.high)}, "
            f"{quantity(verdict.num_seeds, 'seed')}, "
            f"{quantity(verdict.num_samples, f'{record.judged_on} sample')}"
        ),
    )


def _signed(record: RunRecord, value: float) -> str:
    return record.metric.difference(value).replace("-", formatting.MINUS)


def say_what_was_kept(record: RunRecord, choice: str) -> str:
    """The lead sentence of a run without a baseline."""
    student = record.summary("distilled", choice)
    teacher = record.summary("teacher", choice)
    if student is None or teacher is None:
        return "This run holds no distilled student."
    metric = record.metric
    kept = f"The student keeps {formatting.percent(student.retention)} % of the teacher's "
    if student.retention is None:
        kept = "No share of the teacher's score can be given (it is 0, or of other tokens); the "
    return (
        f"{kept}{metric.title}: {networks.metric_text(record, student.mean[metric.name])} against "
        f"{networks.metric_text(record, teacher.mean[metric.name])}. No baseline was trained, so "
        "this run cannot say what distillation itself added."
    )


def pick_figures(record: RunRecord, choice: str) -> list[Figure]:
    """The key figures: what the student keeps, and what it saves."""
    return [*_quality(record, choice), *_savings(record)]


def _quality(record: RunRecord, choice: str) -> list[Figure]:
    student = record.summary("distilled", choice)
    if student is None:
        return []
    own, title = student.mean[record.metric.name], record.metric.title
    figures = [Figure(networks.metric_text(record, own), f"the student's {title}")]
    if student.retention is not None:
        kept = f"{formatting.percent(student.retention)} %"
        figures.append(Figure(kept, f"of the teacher's {title} kept"))
    if student.gap_closed is None:
        return figures
    gap = f"{formatting.percent(student.gap_closed, digits=0)} %"
    return [*figures, Figure(gap, "of the gap from baseline to teacher closed")]


def _savings(record: RunRecord) -> list[Figure]:
    sizes = [networks.row_of(arm, record.sizes) for arm in ("teacher", "distilled")]
    times = [networks.row_of(arm, record.latencies) for arm in ("teacher", "distilled")]
    figures = []
    match sizes:
        case [teacher, student] if teacher and student:
            figures.append(_times(teacher.size_bytes, student.size_bytes, "file size"))
    match times:
        case [slow, fast] if slow and fast:
            figures.append(_speed(slow.p50_ms, fast.p50_ms))
    return figures


def _speed(teacher: float, student: float) -> Figure:
    if formatting.is_noise(teacher, student):
        return Figure(formatting.AS_FAST, "the student is, next to the teacher (latency p50)")
    return _times(teacher, student, "latency (p50)")


def _times(teacher: formatting.Number, student: formatting.Number, what: str) -> Figure:
    return Figure(
        formatting.ratio(teacher, student), f"teacher's {what} \N{DIVISION SIGN} student's"
    )
