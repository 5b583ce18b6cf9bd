"""Preprocessing of a table's columns, fitted on training rows and kept as plain numbers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from tutelage.data.cells import Cells, has_comma, is_missing, number_of, plain, text_of
from tutelage.errors import DataError

Known = list[str | float | None]  # plain cells, None where one is missing
ID_SPAN = 2  # different whole numbers within so many times the rows number them, with holes
MOSTLY = 0.5


@dataclass(frozen=True, slots=True)
class ColumnSettings:
    """How columns are read and fitted.

    Attributes:
        columns: Names of the input columns; None takes all but those left out.
        leave_out: Names of columns that are not read.
        categories: Names of columns whose numbers stand for categories.
        log: Names of number columns of which the logarithm is taken, as sign(x) * log(1 + |x|).
        missing: Texts that stand for a missing cell.
        fill: What fills a missing number: "median" or "mean" of the training rows.
        max_categories: One-hot slots of a column at most; rarer categories share the last one.
    """

    columns: tuple[str, ...] | None = None
    leave_out: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    fill: str = "median"
    max_categories: int = 64


@dataclass(frozen=True, slots=True)
class NumberColumn:
    """A column of numbers: filled, held within the range of the training rows, standardised.

    Where training rows lack the cell, a further number flags it.

    Attributes:
        name: Name in the table.
        fill: Number in the place of a missing cell, before the logarithm.
        low: Smallest number of the training rows; what lies below is taken for it.
        high: Largest number of the training rows; what lies above is taken for it.
        log: Whether the logarithm is taken.
        mean: Mean of the training rows, subtracted.
        std: Standard deviation of the training rows, divided by.
        missing_slot: Whether a further number says that the cell was missing.
    """

    name: str
    fill: float
    low: float
    high: float
    log: bool
    mean: float
    std: float
    missing_slot: bool

    @property
    def width(self) -> int:
        """How many numbers a cell becomes."""
        return 1 + self.missing_slot

    def encode(self, known: Known, cells: Cells) -> Float[np.ndarray, "n width"]:
        """Cells as numbers.

        Args:
            known: The plain cells, None where one is missing.
            cells: For messages: where each stands.

        Raises:
            DataError: A cell is no number.
        """
        values = _numbers(self.name, known, cells)
        gaps = np.isnan(values)
        held = np.clip(np.where(gaps, self.fill, values), self.low, self.high)
        scaled = (_logged(held, self.log) - self.mean) / self.std
        parts = [scaled, gaps.astype(np.float64)][: self.width]
        return np.stack(parts, axis=1)

    def num_new(self, known: Known) -> int:
        """Cells with a number outside the range of the training rows."""
        numbers = [number_of(cell) for cell in known]
        return sum(n is not None and not self.low <= n <= self.high for n in numbers)

    @property
    def new_cells(self) -> str:
        """What is said of such cells."""
        return (
            f"with numbers outside the range of the training rows ({self.low:g} to {self.high:g}), "
            "taken for its nearest end"
        )


@dataclass(frozen=True, slots=True)
class CategoryColumn:
    """A column of categories: one-hot, with slots for rare and for missing ones.

    Attributes:
        name: Name in the table.
        categories: Categories with a slot of their own, in order.
        other_slot: Whether a further slot stands for all other categories, of which the training
            rows have some. Without it, a category that training lacks is all zeros.
        missing_slot: Whether a last slot says that the cell was missing.
    """

    name: str
    categories: tuple[str, ...]
    other_slot: bool
    missing_slot: bool

    @property
    def width(self) -> int:
        """How many numbers a cell becomes."""
        return len(self.categories) + self.other_slot + self.missing_slot

    def encode(self, known: Known, cells: Cells) -> Float[np.ndarray, "n width"]:  # noqa: ARG002
        """Cells as numbers; every text is taken."""
        slots = {category: slot for slot, category in enumerate(self.categories)}
        rows = np.zeros((len(known), self.width))
        for row, cell in enumerate(known):
            slot = self._slot(cell, slots)
            if slot is not None:
                rows[row, slot] = 1
        return rows

    def _slot(self, cell: str | float | None, slots: Mapping[str, int]) -> int | None:
        if cell is None and self.missing_slot:
            return self.width - 1
        other = len(self.categories) if self.other_slot else None
        return other if cell is None else slots.get(text_of(cell), other)

    def num_new(self, known: Known) -> int:
        """Cells with a category that no training row has; none where rare ones share a slot."""
        if self.other_slot:
            return 0
        seen = set(self.categories)
        return sum(cell is not None and text_of(cell) not in seen for cell in known)

    @property
    def new_cells(self) -> str:
        """What is said of such cells."""
        return "with a category that no training row has, encoded as none of the known ones"


@dataclass(frozen=True, slots=True)
class TableEncoder:
    """What makes a row of numbers of a row of a table.

    Attributes:
        columns: Columns in the order of their numbers.
        missing: Texts that stand for a missing cell.
    """

    columns: tuple[NumberColumn | CategoryColumn, ...]
    missing: tuple[str, ...]

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return sum(column.width for column in self.columns)

    def encode(self, cells: Cells) -> Float32[np.ndarray, "n width"]:
        """Rows of a table as rows of numbers.

        Raises:
            DataError: A cell cannot be read; the message says where it stands.
        """
        parts = [
            column.encode(known_cells(cells, column.name, self.missing), cells)
            for column in self.columns
        ]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """The same as plain data, which `example.py` of a delivered student reads."""
        kinds = {NumberColumn: "number", CategoryColumn: "category"}
        columns = [{"kind": kinds[type(column)], **asdict(column)} for column in self.columns]
        return {"kind": "table", "missing": list(self.missing), "columns": columns}


def known_cells(cells: Cells, name: str, missing: Sequence[str]) -> Known:
    """A column's plain cells, None where one is missing."""
    found = (plain(cell, cells.place(row)) for row, cell in enumerate(cells.columns[name]))
    return [None if is_missing(cell, missing) else cell for cell in found]


def fit_columns(cells: Cells, settings: ColumnSettings) -> tuple[TableEncoder, tuple[str, ...]]:
    """Fit the preprocessing of a table.

    Args:
        cells: Input columns of the training rows alone.
        settings: How columns are read and fitted.

    Returns:
        The encoder, and what a reader must know of how columns were taken.

    Raises:
        DataError: A column is neither numbers nor categories, or none is left.
    """
    columns: list[NumberColumn | CategoryColumn] = []
    notes: list[str] = []
    for name in cells.columns:
        known = known_cells(cells, name, settings.missing)
        reason = _why_left_out(name, known, settings)
        if reason is not None:
            notes.append(f"Column {name!r} was left out: {reason}.")
        elif _is_number(name, known, cells, settings):
            number = _fit_number(name, _numbers(name, known, cells), settings)
            columns.append(number)
            notes += _number_notes(number, known)
        else:
            category = _fit_category(name, known, settings)
            columns.append(category)
            notes += _category_notes(category, known)
    if not columns:
        raise DataError(f"{cells.setting}: no input column is left. {' '.join(notes)}")
    encoder = TableEncoder(tuple(columns), settings.missing)
    numbers = sum(isinstance(column, NumberColumn) for column in columns)
    said = (
        f"{numbers} columns of numbers and {len(columns) - numbers} of categories become "
        f"{encoder.width} inputs, fitted on {len(known)} training rows."
    )
    return encoder, (said, *notes)


def _why_left_out(name: str, known: Known, settings: ColumnSettings) -> str | None:
    """Why a column can say nothing; None where it can."""
    there = [cell for cell in known if cell is not None]
    if not there:
        return "every training row lacks it"
    distinct = len({text_of(cell) for cell in there})
    if distinct == 1 and len(there) == len(known):
        return f"every training row has {text_of(there[0])!r}"
    is_text = not any(number_of(cell) is not None for cell in there)
    is_asked_for = name in settings.categories or name in (settings.columns or ())
    if (
        is_text
        and not is_asked_for
        and distinct > max(settings.max_categories, MOSTLY * len(there))
    ):
        return (
            f"it has {distinct} different texts in {len(there)} rows, as names, free text and "
            "dates have. Write what it says as numbers or categories, or name it in data.categories"
        )
    return None


def _is_number(name: str, known: Known, cells: Cells, settings: ColumnSettings) -> bool:
    """Whether a column is of numbers.

    Raises:
        DataError: It is mostly, with something else among them.
    """
    if name in settings.categories:
        return False
    there = [(row, cell) for row, cell in enumerate(known) if cell is not None]
    others = [(row, cell) for row, cell in there if number_of(cell) is None]
    if not others:
        return True
    row, cell = others[0]
    if sum(has_comma(cell) for _, cell in others) > MOSTLY * len(there):
        raise DataError(
            f"{cells.place(row)}: {name!r} is {cell!r}. Write numbers with a decimal point and "
            "nothing between thousands, name the column in data.categories, or leave it out."
        )
    if len(others) < MOSTLY * len(there):
        raise DataError(
            f"{cells.place(row)}: {name!r} is {cell!r:.60}, among {len(there) - len(others)} "
            "numbers. Mend the cell; or add the text to data.missing, if it stands for a missing "
            "value; or name the column in data.categories."
        )
    if name in settings.log:
        raise DataError(f"data.log: {name!r} is no column of numbers. Leave it out there.")
    return False


def _numbers(name: str, known: Known, cells: Cells) -> Float[np.ndarray, " n"]:
    """Cells as numbers, NaN where one is missing."""
    values = np.empty(len(known))
    for row, cell in enumerate(known):
        number = np.nan if cell is None else number_of(cell)
        if number is None:
            raise DataError(
                f"{cells.place(row)}: {name!r} is {cell!r:.60}, but the training rows hold numbers "
                "there. Mend the cell; or add the text to data.missing; or name the column in "
                "data.categories."
            )
        values[row] = number
    return values


def _logged(values: Float[np.ndarray, " n"], log: bool) -> Float[np.ndarray, " n"]:
    return np.sign(values) * np.log1p(np.abs(values)) if log else values


def _fit_number(
    name: str, values: Float[np.ndarray, " n"], settings: ColumnSettings
) -> NumberColumn:
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    imputer = SimpleImputer(strategy=settings.fill)
    log = name in settings.log
    with np.errstate(over="ignore", invalid="ignore"):
        filled = imputer.fit_transform(values[:, None])
        scaler = StandardScaler().fit(_logged(filled[:, 0], log)[:, None])
    mean, std = float(scaler.mean_[0]), float(scaler.scale_[0])
    if not (np.isfinite(mean) and np.isfinite(std)):
        raise DataError(
            f"column {name!r}: its numbers are too large to be standardised (up to "
            f"{np.nanmax(np.abs(values)):.3g}). Take the logarithm: data.log."
        )
    return NumberColumn(
        name=name,
        fill=float(imputer.statistics_[0]),
        low=float(np.nanmin(values)),
        high=float(np.nanmax(values)),
        log=log,
        mean=mean,
        std=std,
        missing_slot=bool(np.isnan(values).any()),
    )


def _fit_category(name: str, known: Known, settings: ColumnSettings) -> CategoryColumn:
    from sklearn.preprocessing import OneHotEncoder

    texts = np.array([text_of(cell) for cell in known if cell is not None], dtype=object)
    encoder = OneHotEncoder(
        max_categories=settings.max_categories, handle_unknown="infrequent_if_exist"
    )
    encoder.fit(texts[:, None])
    rare = encoder.infrequent_categories_[0]
    others = set() if rare is None else set(rare)
    kept = tuple(str(text) for text in encoder.categories_[0] if text not in others)
    return CategoryColumn(name, kept, bool(others), len(texts) < len(known))


def _number_notes(column: NumberColumn, known: Known) -> list[str]:
    notes = []
    gaps = sum(cell is None for cell in known)
    if gaps:
        notes.append(
            f"Column {column.name!r} lacks {gaps} of {len(known)} training rows: filled with "
            f"{column.fill:g}, and flagged."
        )
    values = [number_of(cell) for cell in known if cell is not None]
    numbers = [value for value in values if value is not None]
    is_whole = all(value.is_integer() for value in numbers)
    dense = max(numbers) - min(numbers) + 1 <= ID_SPAN * len(numbers)
    if is_whole and len(set(numbers)) == len(numbers) > 1 and dense:
        notes.append(
            f"Column {column.name!r} numbers the rows: whole numbers, each once. If it is an "
            "identifier, leave it out: data.leave_out."
        )
    return notes


def _category_notes(column: CategoryColumn, known: Known) -> list[str]:
    notes = []
    gaps = sum(cell is None for cell in known)
    if gaps:
        notes.append(f"Column {column.name!r} lacks {gaps} of {len(known)} training rows: flagged.")
    if column.other_slot:
        counts = Counter(text_of(cell) for cell in known if cell is not None)
        rare = len(counts) - len(column.categories)
        notes.append(
            f"Column {column.name!r} has {len(counts)} categories: the {len(column.categories)} "
            f"most frequent have a slot each, the {rare} others share one (data.max_categories)."
        )
    return notes
