"""Confusions of the delivered student, as a matrix or as the worst pairs."""

from dataclasses import dataclass

from tutelage.records import RunRecord
from tutelage.report import formatting, networks
from tutelage.report.figures import ELLIPSIS, LONGEST_NAME
from tutelage.report.tables import Cell, Row, Table

MOST_CLASSES = 30  # a larger matrix cannot be read; its worst pairs can
MOST_PAIRS = 20
WIDE, FITTING = 8, 4  # columns; letters of a name that a column of numbers has room for


@dataclass(frozen=True, slots=True)
class Entry:
    """A cell of the matrix: how many items of the row's class were predicted as the column's.

    Attributes:
        count: How many, as text; empty for none.
        share: Share of the row's items, 0 to 1; 0 for a class without items.
        is_right: Whether row and column are one class.
        meaning: The same in words.
    """

    count: str
    share: float
    is_right: bool
    meaning: str

    @property
    def percent(self) -> str:
        """The share in percent; empty if there is none."""
        return f"{100 * self.share:.0f} %" if self.count else ""


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the matrix: a class, its items, and their predictions."""

    name: str
    total: str
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Matrix:
    """All classes by all classes."""

    title: str
    columns: list[str]
    lines: list[Line]

    @property
    def has_upright_heads(self) -> bool:
        """Whether column names are printed upright because the table would be too wide."""
        return len(self.columns) > WIDE and max(map(len, self.columns)) > FITTING


def _counts(record: RunRecord) -> dict[tuple[int, int], int]:
    cells = [] if record.confusion is None else record.confusion.cells
    return {(label, picked): count for label, picked, count in cells}


def _title(record: RunRecord) -> str:
    seed = "" if record.confusion is None else f" of seed {record.confusion.seed}"
    return f"The distilled student{seed} on the {record.judged_on} data"


def matrix(record: RunRecord) -> Matrix | None:
    """Counts and row shares; None without counts, and for too many classes."""
    counts, size = _counts(record), len(record.class_names)
    if not counts or size > MOST_CLASSES:
        return None
    names = [networks.class_name(record, number) for number in range(size)]
    return Matrix(
        title=_title(record),
        columns=[_short(name) for name in names],
        lines=[_line(counts, names, label) for label in range(size)],
    )


def _line(counts: dict[tuple[int, int], int], names: list[str], label: int) -> Line:
    row = [counts.get((label, picked), 0) for picked in range(len(names))]
    total = sum(row)
    entries = [
        Entry(
            count=formatting.count(count) if count else "",
            share=count / total if total else 0.0,
            is_right=picked == label,
            meaning=f"{names[label]} taken for {names[picked]}: {count} of {total}",
        )
        for picked, count in enumerate(row)
    ]
    return Line(_short(names[label]), formatting.count(total), entries)


def worst_pairs(record: RunRecord) -> Table:
    """The pairs that are confused most often; empty without counts or mistakes."""
    counts = _counts(record)
    totals: dict[int, int] = {}
    for (label, _), count in counts.items():
        totals[label] = totals.get(label, 0) + count
    mistakes = [(pair, count) for pair, count in counts.items() if pair[0] != pair[1]]
    worst = sorted(mistakes, key=lambda entry: (-entry[1], entry[0]))[:MOST_PAIRS]
    rows = [
        Row(
            _short(networks.class_name(record, label)),
            [
                Cell(_short(networks.class_name(record, picked))),
                Cell(formatting.count(count)),
                Cell(formatting.count(totals[label])),
                Cell(formatting.percent(count / totals[label], digits=1)),
            ],
        )
        for (label, picked), count in worst
    ]
    columns = ["taken for", "items", "of all its items", "share, %"]
    return Table(title=f"{_title(record)}: the worst pairs", columns=columns, rows=rows)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + ELLIPSIS
