"""A run's results as a table and a verdict in the terminal."""

from collections.abc import Callable
from pathlib import Path

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tutelage.cli.console import PlainConsole
from tutelage.records import (
    ACCURACY,
    MEASURED,
    LatencyRow,
    Metric,
    QuantisedRow,
    RunRecord,
    SizeRow,
    Summary,
    TextFileRow,
)
from tutelage.report.formatting import is_noise, number, speed_ratio
from tutelage.report.remarks import remarks

COLOURS = {"helped": "green", "no evidence": "yellow", "hurt": "red"}
ARMS = ("teacher", "baseline", "distilled")
COMPARED = ("teacher", "distilled")
PERCENT = ("agreement",)
HEADINGS = {"agreement": "agreement", "kl_to_teacher": "KL", "nll": "NLL", "ece": "ECE"}
LEFT = (("Report", "report.html"), ("Student", "export/student.onnx"), ("Student", "student"))


def print_results(console: PlainConsole, record: RunRecord, out: Path) -> None:
    """Print the comparison, the costs, the verdict and the paths of the outputs."""
    console.print()
    console.print(_comparison(record))
    if record.sizes:
        console.print()
        console.print(_costs(record))
    write = record.metric.difference
    against = "points of" if record.metric.unit else "than"
    for row in record.quantised:
        console.print(
            f"{row.file} ({row.scheme}): {record.metric.text(row.metric)} on the "
            f"{record.judged_on} data, {write(row.difference)} {against} float ({write(row.low)} "
            f"to {write(row.high)}), agrees on {row.agreement:.2%}.{_over_plain(write, row)}"
        )
    for file in record.text_files:
        console.print(text_file_line(file, record.judged_on), soft_wrap=True)
    for note in remarks(record):
        console.print(Text.assemble(("Note:", "yellow"), f" {note}"))
    verdict = record.verdict
    if verdict is not None:
        said = [Text(line) for line in (verdict.sentence, verdict.caveat) if line]
        text = Text("\n").join([*said, Text(_other_verdict(record), "dim")])
        title = Text(verdict.word)
        console.print(Panel(text, title=title, border_style=COLOURS[verdict.word]))
    for label, name in LEFT:
        if (out / name).exists():
            console.print(f"{label + ':':9}{out / name}", soft_wrap=True)


def _other_verdict(record: RunRecord) -> str:
    """The verdict after the last epoch, which does not lead."""
    last, write = record.verdicts["last"], record.metric.difference
    return (
        f"For information, after the last epoch: {last.word}, {write(last.difference)} "
        f"({write(last.low)} to {write(last.high)})."
    )


def text_file_line(row: TextFileRow, judged_on: str) -> str:
    """A language model's file in one line."""
    line = (
        f"{row.file}: {row.size_bytes / 1e6:.1f} MB, perplexity {number(row.perplexity, 2)} on "
        f"{row.count:,} {judged_on} tokens (PyTorch's "
        f"{number(row.expected_perplexity, 2)}), agrees on {row.agreement:.2%}"
    )
    if row.tokens_per_s is None or row.expected_tokens_per_s is None:
        return f"{line}."
    own, other = row.tokens_per_s, row.expected_tokens_per_s
    compared = "as fast as" if is_noise(own, other) else f"{own / other:.1f} times"
    return f"{line}; writes {own:.0f} tokens/s, {compared} PyTorch's."


def _over_plain(write: Callable[[float], str], row: QuantisedRow) -> str:
    """Effect of fine-tuning, for the rows that report it."""
    if row.over_plain is None or row.over_plain_low is None or row.over_plain_high is None:
        return ""
    return (
        f" Against int8 without fine-tuning: {write(row.over_plain)} "
        f"({write(row.over_plain_low)} to {write(row.over_plain_high)})."
    )


def _comparison(record: RunRecord) -> Table:
    title = f"On the {record.judged_on} data (network of the best validation epoch)"
    table = Table(title=title, box=None)
    table.add_column("")
    others = _others(record)
    for heading in (record.metric.title, "last epoch", *others.values(), "kept", "gap"):
        table.add_column(heading, justify="right")
    for arm in ARMS:
        summary, last = record.summary(arm, "selected"), record.summary(arm, "last")
        if summary is not None and last is not None:
            table.add_row(arm, *_cells(record.metric, list(others), summary, last))
    return table


def _others(record: RunRecord) -> dict[str, str]:
    """Headings of the other metrics, by name: the usual ones, then a task's own."""
    measured = dict.fromkeys(name for summary in record.summaries for name in summary.mean)
    beside = [metric.name for metric in record.metrics] if record.metric == ACCURACY else []
    own = {n: n.replace("_", " ") for n in measured if n not in (*MEASURED, *beside)}
    known = {name: heading for name, heading in HEADINGS.items() if name in measured}
    return {n: heading for n, heading in (known | own).items() if n != record.metric.name}


def _cells(metric: Metric, others: list[str], summary: Summary, last: Summary) -> list[str]:
    return [
        _metric(summary, metric.name, metric.is_share),
        _metric(last, metric.name, metric.is_share),
        *(_metric(summary, name) for name in others),
        "" if summary.retention is None else f"{summary.retention:.1%}",
        "" if summary.gap_closed is None else f"{summary.gap_closed:.0%}",
    ]


def _metric(summary: Summary, name: str, is_share: bool = False) -> str:
    value, spread = summary.mean.get(name), summary.spread.get(name)
    if value is None:
        return ""
    if is_share or name in PERCENT:
        text = f"{100 * value:.2f}"
        return text if spread is None else f"{text} ±{100 * spread:.2f}"
    return f"{value:.3f}"


def _costs(record: RunRecord) -> Table:
    table = Table(title="Cost of the exported files", box=None)
    table.add_column("")
    for heading in ("parameters", "MACs", "bytes", "p50 ms", "p95 ms"):
        table.add_column(heading, justify="right")
    first = {row.name: row for row in reversed(record.latencies)}
    sizes = {size.name: size for size in record.sizes}
    for size in record.sizes:
        table.add_row(size.name, *_cost_cells(size, first.get(size.name)))
    teacher, student = sizes.get("teacher"), sizes.get("distilled")
    if teacher is not None and student is not None:
        slow, fast = (first[name].p50_ms if name in first else None for name in COMPARED)
        table.add_row(
            Text("teacher / student", "bold"),
            f"{teacher.parameters / student.parameters:.1f} x",
            f"{teacher.macs / max(1, student.macs):,.1f} x",
            f"{teacher.size_bytes / student.size_bytes:.1f} x",
            speed_ratio(slow, fast),
        )
    return table


def _cost_cells(size: SizeRow, latency: LatencyRow | None) -> list[str]:
    cells = [f"{size.parameters:,}", f"{size.macs:,}", f"{size.size_bytes:,}"]
    if latency is None:
        return cells
    return [*cells, f"{latency.p50_ms:.3f}", f"{latency.p95_ms:.3f}"]


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"
