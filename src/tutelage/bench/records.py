"""Result of a reproduction on disk: our numbers beside the paper's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev

from scipy.stats import t as student_t


@dataclass(frozen=True, slots=True)
class Measured:
    """One number over seeds.

    Attributes:
        values: One a seed.
    """

    values: list[float]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return mean(self.values)

    @property
    def reach(self) -> float | None:
        """Half the width of the 95% interval of the mean over seeds; None for one seed."""
        count = len(self.values)
        if count < 2:
            return None
        quantile = float(student_t.ppf(0.975, count - 1))
        return quantile * stdev(self.values) / math.sqrt(count)

    def __str__(self) -> str:
        """Text such as `74.2 ± 3.1`."""
        shown = f"{self.mean:.1f}"
        return shown if self.reach is None else f"{shown} ± {self.reach:.1f}"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a published table.

    Attributes:
        name: What was trained and how it was judged.
        unit: Unit of both numbers.
        paper: The paper's number, in its own words; empty where the paper has none.
        ours: What was measured.
        note: What a reader must know to compare the two.
    """

    name: str
    unit: str
    paper: str
    ours: Measured
    note: str = ""


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A reproduced table.

    Attributes:
        title: Title of the table.
        source: The paper.
        command: What repeats it.
        version: Version of Tutelage.
        rows: The rows measured so far.
        seconds: Training time of each part, as first measured.
        environment: Versions and machine.
    """

    title: str
    source: str
    command: str
    version: str
    rows: list[Row] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    environment: dict[str, object] = field(default_factory=dict)


def as_markdown(found: Reproduction) -> str:
    """The table as a page."""
    lines = [
        f"# {found.title}",
        "",
        f"{found.source}",
        "",
        f"Repeat it: `{found.command}` (Tutelage {found.version}). Mean over seeds ± half the 95 % "
        "interval of that mean.",
        "",
        *table(("row", "paper", "ours", "unit", "note"), [_cells(row) for row in found.rows]),
        "",
        "Training time of each part, in minutes on one thread: "
        + ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in found.seconds.items())
        + ".",
        "",
    ]
    return "\n".join(lines)


def _cells(row: Row) -> Sequence[str]:
    return row.name, row.paper or "–", str(row.ours), row.unit, row.note


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    ruled = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(cells)} |" for cells in ruled]
