"""Output of `tutelage export`: the new files, and how each compares."""

from pathlib import Path

from rich.table import Table

from tutelage.cli.console import PlainConsole
from tutelage.cli.results import text_file_line
from tutelage.pipeline.export_run import export_run
from tutelage.records import Metric, ParityRow, QuantisedRow


def export_student(
    folder: Path, *, target: str | None, scheme: str | None, allow_code: bool
) -> None:
    """Export, and print all files of the student that the run has now."""
    console = PlainConsole()
    with console.status("Exporting and running the files on samples"):
        record = export_run(folder, target=target, scheme=scheme, allow_code=allow_code)
    if record.text_files:
        for file in record.text_files:
            console.print(text_file_line(file, record.judged_on), soft_wrap=True)
        console.print(f"Student: {folder / 'student'}", soft_wrap=True)
        return
    sizes = {row.name: row.size_bytes for row in record.sizes}
    table = Table(box=None, pad_edge=False)
    name = record.metric.title
    for heading in ("file", "bytes", "agreement", "largest difference", name, "float"):
        table.add_column(heading, justify="left" if heading == "file" else "right")
    rows: list[ParityRow | QuantisedRow] = [*record.parity, *record.quantised]
    for row in rows:
        if row.name != "teacher":
            table.add_row(row.file, f"{sizes[row.name]:,}", *_cells(record.metric, row))
    console.print(table)
    console.print(f"Student: {folder / 'export' / 'student'}", soft_wrap=True)


def _cells(metric: Metric, row: ParityRow | QuantisedRow) -> list[str]:
    before = row.network_metric if isinstance(row, ParityRow) else row.float_metric
    texts = ["" if value is None else metric.text(value) for value in (row.metric, before)]
    return [f"{row.agreement:.2%}", f"{row.max_abs_difference:.2g}", *texts]
