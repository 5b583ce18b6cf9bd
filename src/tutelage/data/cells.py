"""Cells of a table: which are missing, which are numbers, and what text stands in the others."""

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from tutelage.errors import DataError

MISSING = ("", "NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", re.IGNORECASE)
_WHOLE = re.compile(r"([-+]?[0-9]+)(\.0*)?")
_COMMA = re.compile(r"[-+]?[0-9]+(,[0-9]+)+(\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Cells:
    """Some rows of some columns of a table.

    Attributes:
        columns: By name, one cell a row.
        place: Where a row stands, for messages.
        setting: The key that named the columns, for messages.
    """

    columns: Mapping[str, Sequence[Any]]
    place: Callable[[int], str]
    setting: str


def plain(cell: Any, place: str) -> str | float | None:
    """A cell as text, number, or None where nothing is said.

    Args:
        cell: Value as read from the file.
        place: Where it stands, for messages.

    Raises:
        DataError: It holds several values, or an infinite number.
    """
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, bool):
        return str(cell)  # as CSV files have it
    if isinstance(cell, str):
        return unicodedata.normalize("NFC", cell).strip()
    if cell is None or isinstance(cell, int | float | Decimal):
        return _number(cell, place)
    if isinstance(cell, list | tuple | dict | set | bytes | np.ndarray):
        raise DataError(
            f"{place}: the cell holds a {type(cell).__name__} ({cell!r:.60}). Give one number or "
            "text a cell."
        )
    return str(cell)  # dates and times


def _number(cell: float | int | Decimal | None, place: str) -> float | None:
    try:
        value = None if cell is None else float(cell)
    except OverflowError:  # a whole number of hundreds of digits
        value = math.inf
    if value is None or math.isnan(value):
        return None
    if math.isinf(value):
        raise DataError(f"{place}: the cell is {value}. Give a finite number, or leave it empty.")
    return value


def is_missing(cell: str | float | None, missing: Collection[str] = MISSING) -> bool:
    """Whether a plain cell says nothing."""
    return cell is None or (isinstance(cell, str) and cell in missing)


def number_of(cell: str | float | None) -> float | None:
    """The number that a plain cell holds; None where it is none.

    Numbers have a decimal point and nothing between thousands.
    """
    if not isinstance(cell, str):
        return cell
    found = float(cell) if _NUMBER.fullmatch(cell) else math.inf
    return found if math.isfinite(found) else None


def has_comma(cell: str | float | None) -> bool:
    """Whether it is a number with a comma in it, which may stand for a point or for nothing."""
    return isinstance(cell, str) and _COMMA.fullmatch(cell) is not None


def text_of(cell: str | float) -> str:
    """A plain cell as the name of a category: 1.0 is 1, and 007 stays 007."""
    text = cell if isinstance(cell, str) else repr(cell)
    whole = _WHOLE.fullmatch(text)
    return whole.group(1) if whole else text


def target_number(cell: Any, place: str, column: str) -> float:
    """A cell of a target column as a number.

    Args:
        cell: Value as read from the file.
        place: Where it stands, for messages.
        column: Its name, for messages.

    Raises:
        DataError: It is none, or empty.
    """
    found = plain(cell, place)
    if is_missing(found):
        raise DataError(
            f"{place}: {column!r} is empty. Give a number, or leave the row out: what is learned "
            "cannot be filled in."
        )
    number = number_of(found)
    if number is None:
        hint = (
            "Write a point, and nothing between thousands."
            if has_comma(found)
            else "Name a column of numbers; classes are learned with task: classification."
        )
        raise DataError(f"{place}: {column!r} is {found!r:.80}, no number. {hint}")
    return number
