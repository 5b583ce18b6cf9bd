"""Remarks beside the numbers: a run's notes, and shortcomings of its files."""

from collections.abc import Iterator

from tutelage.records import ParityRow, QuantisedRow, RunRecord
from tutelage.report.formatting import is_noise, significant, size
from tutelage.wording import quantity

OTHERS = (
    "a higher task_weight (0.5) with a lower weight of the loss (0.5), more epochs, and a teacher "
    "that is clearly better than the baseline; let validation data choose (tutelage tune)."
)
SETTINGS = f"try a temperature of 1 or 2, {OTHERS}"
WHERE = (
    "Where distillation hurts or shows nothing, often with little data or a very small student, "
)
TRY = WHERE + SETTINGS
# 270 samples lost 9 points by T = 4 and weight 0.9; the 1,078 of the digits recipe lose nothing.
FEW_SAMPLES = 1000
MORE = "The interval is wide: more seeds narrow it most, 5 to 10 rather than 2 or 3."
FEW_SEEDS = 5


def remarks(record: RunRecord) -> list[str]:
    """All remarks, a sentence or two each: for the report, the model card and the terminal."""
    refused = (file.sentence for file in record.refused)
    return [*record.notes, *refused, *_useless(record), *_advice(record)]


def few_samples_advice(count: int) -> str:
    """Advice for few training samples under mostly soft targets."""
    return (
        f"There are only {quantity(count, 'training sample')}, and the teacher's softened outputs "
        "weigh more than the labels: this has hurt small students (9 points with 270 samples, "
        f"temperature 4, weight 0.9). If the verdict says so, {SETTINGS}"
    )


def _advice(record: RunRecord) -> Iterator[str]:
    """Advice if distillation did not help."""
    verdict = record.verdict
    if verdict is None or verdict.word == "helped":
        return
    has_classes = record.teacher.selected.accuracy is not None
    yield TRY if has_classes else f"{WHERE}try {OTHERS}"
    if verdict.word == "no evidence" and verdict.num_seeds < FEW_SEEDS:
        yield MORE


def _useless(record: RunRecord) -> Iterator[str]:
    """Int8 files that save neither bytes nor time."""
    floats = {row.target: row for row in record.parity if row.name != "teacher"}
    for row in record.quantised:
        if row.target in floats:
            yield from _no_smaller(record, row, floats[row.target])
            yield from _slower(record, row, floats[row.target])


def _no_smaller(record: RunRecord, row: QuantisedRow, before: ParityRow) -> Iterator[str]:
    sizes = {entry.name: entry.size_bytes for entry in record.sizes}
    own, other = sizes.get(row.name), sizes.get(before.name)
    if own is not None and other is not None and own >= other:
        yield (
            f"{row.file} is no smaller than {before.file} ({size(own)} against {size(other)}): "
            "int8 saves nothing here. Use the float file."
        )


def _slower(record: RunRecord, row: QuantisedRow, before: ParityRow) -> Iterator[str]:
    """Whether it is slower at the smallest batch size, on the machine of the run."""
    times = {entry.name: entry.p50_ms for entry in reversed(record.latencies)}
    if record.measurements:
        times = {entry.name: entry.p50_ms for entry in reversed(record.measurements[0].rows)}
    own, other = times.get(row.name), times.get(before.name)
    if own is not None and other is not None and own > other and not is_noise(own, other):
        yield (
            f"{row.file} is slower than {before.file} (p50 {significant(own)} ms against "
            f"{significant(other)} ms): int8 saves no time here. Use the float file, or try "
            "another int8 scheme."
        )
