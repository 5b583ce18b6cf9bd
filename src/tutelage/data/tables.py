"""Columns of text and labels from the usual kinds of files."""

import codecs
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import DataError, TutelageError, find, require
from tutelage.files import check_regular, open_regular
from tutelage.wording import quantity

Row = Mapping[str, Any]
LONGEST_HEADER = 100_000
DELIMITERS = (",", ";", "\t", "|")
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MAX_FIELD = 10_000_000  # characters of one field; csv's own limit is below a long document


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of a data set, with the location of each row.

    Attributes:
        columns: By name, all of one length.
        origin: Where they come from, for messages.
        first: What the first row is numbered in its file.
    """

    columns: Mapping[str, Sequence[Any]]
    origin: str
    first: int = 1

    def __len__(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values()), ()))

    def column(self, name: str, setting: str) -> Sequence[Any]:
        """One column.

        Args:
            name: Name of the column.
            setting: Where the name was given, for the message.

        Raises:
            UnknownNameError: There is no such column.
        """
        return find(f"column of {self.origin} ({setting})", name, self.columns)

    def place(self, row: int) -> str:
        """Location of a row, for messages."""
        return f"{self.origin}, row {row + self.first}"


def read_table(path: Path) -> Table:
    """Read one file: .csv, .tsv, .jsonl, .ndjson, .parquet, or .txt with one text a line.

    Raises:
        DataError: It cannot be read; the message gives file and line.
    """
    reader = find("kind of text file", path.suffix.lower(), READERS)
    try:
        check_regular(path)
        return reader(path)
    except (TutelageError, KeyboardInterrupt, ImportError):
        raise
    except UnicodeError as error:
        raise DataError(_no_text_of(path, error)) from error
    except Exception as error:  # whatever a damaged file does to its reader
        raise DataError(f"{path}: cannot be read: {type(error).__name__}: {error}.") from error


def encoding_of(path: Path) -> str:
    """Encoding of a file: UTF-8, or UTF-16 or UTF-32 by its byte order mark."""
    with open_regular(path) as file:
        begin = file.read(4)
    return next((name for mark, name in _MARKS if begin.startswith(mark)), "utf-8-sig")


def _no_text_of(path: Path, error: UnicodeError) -> str:
    """Error message for a file in another encoding, with the line."""
    encoding = encoding_of(path)
    read = encoding.removesuffix("-sig").upper()
    with open_regular(path) as file:
        for number, line in enumerate(file, start=1):
            if encoding == "utf-8-sig" and not _is_utf8(line):
                return (
                    f"{path}, line {number}: {line.strip()[:60]!r} is not {read} (perhaps "
                    "Windows-1252). Save the file as UTF-8; iconv -f WINDOWS-1252 -t UTF-8 does it."
                )
    return f"{path}: it is not {read} ({error}). Save the file as UTF-8."


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_csv(path: Path) -> Table:
    return _read_separated(path, ",")


def _read_tsv(path: Path) -> Table:
    return _read_separated(path, "\t")


def _read_separated(path: Path, delimiter: str) -> Table:
    csv.field_size_limit(MAX_FIELD)
    encoding = encoding_of(path)
    with path.open(encoding=encoding, newline="") as file:
        delimiter = _delimiter(file.readline(LONGEST_HEADER), delimiter)
    with path.open(encoding=encoding, newline="") as file:
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        header = [name.strip() for name in next(rows, [])]
        _check_header(path, header)
        return _joined(path, header, _checked(path, rows, header, lambda: rows.line_num), first=2)


def _delimiter(header: str, usual: str) -> str:
    """Delimiter of the columns: the usual one, or the one found in the first line.

    Spreadsheets write semicolons where a comma parts a number's digits.
    """
    if usual in header:
        return usual
    return next((other for other in DELIMITERS if other in header), usual)


def _check_header(path: Path, header: Sequence[str]) -> None:
    if not header or len(set(header)) < len(header):
        raise DataError(
            f"{path}: the first line must name the columns, each once; it is {list(header)}. Write "
            "for example: text,label"
        )


def _checked(
    path: Path, rows: Iterable[list[str]], header: Sequence[str], line: Callable[[], int]
) -> Iterator[list[str]]:
    for row in rows:
        if row and len(row) != len(header):
            raise DataError(
                f"{path}, line {line()}: {quantity(len(row), 'field')}, but the first line names "
                f"{quantity(len(header), 'column')}. Put a text that holds the separator into "
                "double quotes."
            )
        if row:
            yield row


def _joined(path: Path, header: Sequence[str], rows: Iterable[list[Any]], first: int) -> Table:
    columns: list[list[Any]] = [[] for _ in header]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return Table(dict(zip(header, columns, strict=True)), str(path), first)


def _read_json_lines(path: Path) -> Table:
    rows: list[Row] = []
    with path.open(encoding=encoding_of(path)) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                rows.append(_json_row(path, number, line))
    names = list(rows[0]) if rows else []
    for number, row in enumerate(rows, start=1):
        if missing := [name for name in names if name not in row]:
            raise DataError(
                f"{path}, row {number}: it has no {missing[0]!r}, which the first row has. Give "
                "every row the same keys."
            )
    return Table({name: [row[name] for row in rows] for name in names}, str(path))


def _json_row(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: no JSON ({error}).") from error
    if not isinstance(row, dict):
        raise DataError(
            f'{path}, line {number}: a {type(row).__name__}, not an object as {{"text": "..."}}.'
        )
    return row


def _read_parquet(path: Path) -> Table:
    parquet = require("pyarrow.parquet", "text", "Reading Parquet")
    return Table(parquet.read_table(path).to_pydict(), str(path))


def _read_lines(path: Path) -> Table:
    """One text per line; empty lines are skipped."""
    lines = path.read_text(encoding=encoding_of(path)).splitlines()
    return Table({"text": [line for line in lines if line.strip()]}, str(path))


READERS: Mapping[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
    ".txt": _read_lines,
}


def read_class_folders(path: Path) -> Table:
    """Read a folder with one subfolder per class and one .txt file per text.

    Raises:
        DataError: A class has no text, or a file cannot be read.
    """
    texts, labels = [], []
    for folder in class_folders(path):
        files = sorted(folder.glob("*.txt"))
        if not files:
            raise DataError(f"{folder}: the class has no .txt file. Add some, or remove it.")
        for file in files:
            texts.append(_read_text(file))
            labels.append(folder.name)
    return Table({"text": texts, "label": labels}, str(path))


def _read_text(file: Path) -> str:
    try:
        check_regular(file)
        return file.read_text(encoding=encoding_of(file))
    except UnicodeError as error:
        raise DataError(_no_text_of(file, error)) from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}.") from error


def class_folders(path: Path) -> list[Path]:
    """Subfolders by name, without hidden ones."""
    return [p for p in entries(path) if p.is_dir() and not p.name.startswith(".")]


def entries(path: Path) -> list[Path]:
    """Entries of a folder, by name.

    Raises:
        DataError: It cannot be listed.
    """
    try:
        return sorted(path.iterdir())
    except OSError as error:
        raise DataError(f"{path}: cannot be listed ({error.strerror}).") from error
