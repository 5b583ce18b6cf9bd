"""`tutelage measure`: a run's files on this machine, or results from another machine."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from tutelage.cli.console import PlainConsole
from tutelage.deploy.budgets import bytes_text
from tutelage.deploy.standalone import numbers
from tutelage.errors import ConfigError
from tutelage.pipeline.measuring import import_measurement, measure_run
from tutelage.records import Measurement, RunRecord


def measure_files(
    folder: Path, *, batch_sizes: str, threads: str, seconds: float, name: str, allow_code: bool
) -> None:
    """Measure here and print the result."""
    console = PlainConsole()
    sizes, counts = _numbers("--batch-sizes", batch_sizes), _numbers("--threads", threads)
    with console.status(f"Measuring for at least {seconds:g} s"):
        record = measure_run(
            folder,
            batch_sizes=sizes,
            threads=counts,
            seconds=seconds,
            name=name,
            allow_code=allow_code,
        )
    _show(console, folder, record)
    console.print(
        f"On another machine: copy {folder / 'export'} there, run measure.py > rows.json, and "
        f"tutelage measure {folder} --import rows.json",
        soft_wrap=True,
    )


def import_rows(folder: Path, file: Path) -> None:
    """Import another machine's results and print all."""
    _show(PlainConsole(), folder, import_measurement(folder, file))


def _show(console: PlainConsole, folder: Path, record: RunRecord) -> None:
    for measurement in record.measurements:
        machine = measurement.machine
        heading = Text.assemble("\n", (machine.name, "bold"), f", {measurement.when}")
        console.print(heading, soft_wrap=True)
        console.print(_files(measurement))
        console.print(_rows(measurement))
        for file in measurement.files:
            if file.problem:
                text = Text.assemble((f"{file.name}:", "yellow"), f" {file.problem}")
                console.print(text, soft_wrap=True)
    console.print(f"Report: {folder / 'report.html'}", soft_wrap=True)


def _table(*headings: str) -> Table:
    table = Table(box=None)
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _files(measurement: Measurement) -> Table:
    table = _table("size", "peak memory")
    for file in measurement.files:
        memory = "not told" if file.memory_bytes is None else bytes_text(file.memory_bytes)
        table.add_row(file.name, bytes_text(file.size_bytes), memory)
    return table


def _rows(measurement: Measurement) -> Table:
    table = _table("batch", "threads", "p50 ms", "p95 ms", "per s", "mJ")
    for row in measurement.rows:
        table.add_row(
            row.name,
            str(row.batch_size),
            str(row.threads),
            f"{row.p50_ms:.3g}",
            f"{row.p95_ms:.3g}",
            f"{row.throughput_per_s:,.0f}",
            "not told" if row.energy_mj is None else f"{row.energy_mj:.3g}",
        )
    return table


def _numbers(option: str, text: str) -> list[int]:
    try:
        return numbers(text)
    except Exception as error:  # argparse's own
        raise ConfigError(f"{option} {error}.") from error
