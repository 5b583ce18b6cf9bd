"""The table of a language model's files."""

from tutelage.records import RunRecord, TextFileRow
from tutelage.report.formatting import count, number, percent, size, tiny
from tutelage.report.tables import Cell, Row, Table


def text_files_table(record: RunRecord) -> Table:
    """The student's files, each against PyTorch on the same tokens."""
    columns = [
        "runtime",
        "size",
        "KL, nats",
        "largest difference",
        "agrees, %",
        "perplexity",
        "PyTorch's",
        "tokens/s",
        "PyTorch's",
    ]
    rows = [Row(row.file, [Cell(text) for text in _cells(row)]) for row in record.text_files]
    tokens = count(max((row.count for row in record.text_files), default=0))
    title = f"The student as files, against PyTorch on {tokens} {record.judged_on} tokens"
    return Table(title=title, columns=columns, rows=rows)


def _cells(row: TextFileRow) -> list[str]:
    return [
        row.runtime,
        size(row.size_bytes),
        tiny(row.kl),
        tiny(row.max_abs_difference),
        percent(row.agreement),
        number(row.perplexity, 2),
        number(row.expected_perplexity, 2),
        number(row.tokens_per_s, 0),
        number(row.expected_tokens_per_s, 0),
    ]
