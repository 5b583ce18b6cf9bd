"""Tables as data: input columns of numbers and categories, and one or several target columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from tutelage.data.cells import MISSING, Cells, number_of, text_of
from tutelage.data.columns import (
    ColumnSettings,
    TableEncoder,
    fit_columns,
    known_cells,
)
from tutelage.data.labels import CLASS_LABELS, LabelKind
from tutelage.data.sources import Splits, TensorSource
from tutelage.data.tables import Table
from tutelage.data.text import Columns, Examples, held_out_parts, read_parts
from tutelage.errors import ConfigError, DataError, find
from tutelage.inputs import TableInputs
from tutelage.paths import resolve_path
from tutelage.wording import quantity

SAME = 0.99999  # correlation from where on a column is the target written in another unit


class TableSource(TensorSource):
    """Rows of a table in memory, encoded.

    Args:
        rows: The input columns as they stand in the file.
        encoder: What makes numbers of them.
        labels: Labels of the rows.
        kind: What labels are.
    """

    def __init__(
        self, rows: Cells, encoder: TableEncoder, labels: Shaped[Tensor, "n ..."], kind: LabelKind
    ) -> None:
        """Encode the rows."""
        super().__init__(torch.from_numpy(encoder.encode(rows)), labels, kind)
        self.rows = rows
        self.encoder = encoder

    def row(self, number: int) -> dict[str, str | float | None]:
        """A row as it stands in the table: cells by column, None where one is missing."""
        one = {c.name: [self.rows.columns[c.name][number]] for c in self.encoder.columns}
        cells = Cells(one, lambda _: self.rows.place(number), self.rows.setting)
        return {name: known_cells(cells, name, self.encoder.missing)[0] for name in one}

    def text(self, number: int) -> str:
        """A row as text: every column with its cell."""
        cells = self.row(number).items()
        return ", ".join(f"{name} = {'—' if c is None else text_of(c)}" for name, c in cells)


def load_table(  # noqa: PLR0913 - the keys of data in a recipe
    path: str | Path,
    target: str | Sequence[str],
    columns: Sequence[str] | None = None,
    leave_out: Sequence[str] = (),
    categories: Sequence[str] = (),
    log: Sequence[str] = (),
    missing: Sequence[str] = MISSING,
    fill: str = "median",
    max_categories: int = 64,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    kind: LabelKind = CLASS_LABELS,
) -> Splits:
    """Load a table; its preprocessing is fitted on the training rows alone.

    Args:
        path: A file (.csv, .tsv, .jsonl, .ndjson, .parquet), or a folder with such files named
            train, valid and test.
        target: The column that is learned, or several.
        columns: Input columns; all but the target and those left out if not given.
        leave_out: Columns that are not read.
        categories: Columns whose numbers stand for categories.
        log: Columns of numbers of which the logarithm is taken, as sign(x) * log(1 + |x|).
        missing: Texts that stand for a missing cell.
        fill: What fills a missing number: "median" or "mean".
        max_categories: One-hot slots of a column; rarer categories share the last one.
        valid_fraction: Share of the training rows held out where there is no valid part.
        test_fraction: Share held out where there is no test part.
        seed: Random seed of the parts held out.
        kind: What labels are.

    Raises:
        DataError: A file, a column or a cell cannot be used; the message says where.
    """
    settings = ColumnSettings(
        None if columns is None else tuple(columns),
        tuple(leave_out),
        tuple(categories),
        tuple(log),
        tuple(missing),
        fill,
        max_categories,
    )
    targets = (target,) if isinstance(target, str) else tuple(target)
    place = resolve_path(path)
    if place is None:
        raise DataError(f"data.path: {path}: no such file or folder.")

    def classes(rows: Examples) -> Int[Tensor, " n"] | None:
        _, read = kind.read({"train": rows.cells(targets, "data.target")})
        return None if read["train"].is_floating_point() else read["train"]

    tables = read_parts(place)
    names = _input_columns(tables["train"], targets, settings)
    parts = held_out_parts(tables, Columns(), valid_fraction, test_fraction, seed, classes)
    labels = {part: rows.cells(targets, "data.target") for part, rows in parts.items()}
    outputs, encoded = kind.read(labels)
    rows = {part: examples.cells(names, "data.columns") for part, examples in parts.items()}
    encoder, notes = fit_columns(rows["train"], settings)
    train, valid, test = (
        TableSource(rows[part], encoder, encoded[part], kind) for part in ("train", "valid", "test")
    )
    leaks = _leaks(rows["train"], labels["train"], encoder)
    new = _new_cells(rows, encoder)
    inputs = TableInputs(encoder.describe())
    return Splits(train, valid, test, outputs, inputs, notes=(*notes, *new, *leaks))


def _input_columns(
    train: Table, targets: Sequence[str], settings: ColumnSettings
) -> tuple[str, ...]:
    """Names of the input columns.

    Raises:
        ConfigError: A target is an input, or a column is named twice over.
        UnknownNameError: A column is not there.
    """
    there = train.columns
    named = {
        "data.target": targets,
        "data.columns": settings.columns or (),
        "data.leave_out": settings.leave_out,
        "data.categories": settings.categories,
        "data.log": settings.log,
    }
    for setting, names in named.items():
        for name in names:
            find(f"column of {train.origin} ({setting})", name, there)
            if setting != "data.target" and name in targets:
                raise ConfigError(
                    f"{setting}: {name!r} is the target. Leave it out there; it is no input."
                )
    chosen = there if settings.columns is None else settings.columns
    inputs = [name for name in chosen if name not in (*targets, *settings.leave_out)]
    for setting in ("data.categories", "data.log"):
        for name in named[setting]:
            if name not in inputs:
                raise ConfigError(f"{setting}: {name!r} is no input column. Leave it out there.")
    return tuple(inputs)


def _new_cells(rows: Mapping[str, Cells], encoder: TableEncoder) -> list[str]:
    """Numbers and categories of other parts that the training rows lack."""
    notes = []
    for column in encoder.columns:
        counts = {
            part: column.num_new(known_cells(cells, column.name, encoder.missing))
            for part, cells in rows.items()
        }
        found = ", ".join(quantity(n, f"{part} row") for part, n in counts.items() if n)
        if found:
            notes.append(f"Column {column.name!r}: {found} {column.new_cells}.")
    return notes


def _leaks(rows: Cells, labels: Cells, encoder: TableEncoder) -> list[str]:
    """Input columns that say what the target says."""
    notes = []
    for target in labels.columns:
        wanted = known_cells(labels, target, encoder.missing)
        for column in encoder.columns:
            given = known_cells(rows, column.name, encoder.missing)
            if _says_the_same(given, wanted):
                notes.append(
                    f"Column {column.name!r} says what the target {target!r} says: the networks "
                    "can copy it. If it is not known when the student is used, leave it out: "
                    "data.leave_out."
                )
    return notes


def _says_the_same(
    given: Sequence[str | float | None], wanted: Sequence[str | float | None]
) -> bool:
    """Whether each cell of a column stands beside one cell of the target, and the other way."""
    pairs = {
        (text_of(one), text_of(other))
        for one, other in zip(given, wanted, strict=True)
        if one is not None and other is not None
    }
    firsts, seconds = {one for one, _ in pairs}, {other for _, other in pairs}
    is_one_to_one = len(pairs) == len(firsts) == len(seconds) > 1
    if is_one_to_one and len(pairs) < len(given) / 2:  # else all cells differ, which says nothing
        return True
    return _correlation(given, wanted) > SAME


def _correlation(
    given: Sequence[str | float | None], wanted: Sequence[str | float | None]
) -> float:
    """Correlation of two columns of numbers, without sign; 0 where one is none."""
    pairs = [
        (None if one is None else number_of(one), None if other is None else number_of(other))
        for one, other in zip(given, wanted, strict=True)
    ]
    firsts, seconds = np.array([pair for pair in pairs if None not in pair] or [(0, 0)]).T
    if len(firsts) < max(3, len(pairs) / 2) or not np.ptp(firsts) or not np.ptp(seconds):
        return 0.0
    return abs(float(np.corrcoef(firsts, seconds)[0, 1]))
