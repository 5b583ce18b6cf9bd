"""Long comparisons in the terminal: published tables, and all methods side by side."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from tutelage.bench import REPRODUCTIONS, Leaderboard, Reproduction, compare
from tutelage.bench.leaderboard import Standing, as_points, ranked
from tutelage.bench.records import Row
from tutelage.cli.console import PlainConsole
from tutelage.cli.progress import ProgressListener
from tutelage.errors import find
from tutelage.locks import locked


def reproduce_table(
    name: str,
    out: Path,
    *,
    num_seeds: int,
    effort: float,
    precision: str,
    teacher_epochs: int | None,
    only: Sequence[str],
) -> None:
    """Measure a published table and print it as it grows."""
    console = PlainConsole()
    reproduction = find("reproduction", name, REPRODUCTIONS)
    shown = 0
    found = None
    with locked(out, "reproduce"), ProgressListener(console) as listener:
        for found in reproduction(
            out,
            num_seeds=num_seeds,
            effort=effort,
            precision=precision,
            teacher_epochs=teacher_epochs,
            only=only,
            listener=listener,
        ):
            for row in found.rows[shown:]:
                ours = (str(row.ours), "bold")
                paper = (_paper(row), "dim")
                listener.bar.print(Text.assemble(f"  {row.name}: ", ours, f" {row.unit} ", paper))
            shown = len(found.rows)
    if found is not None:
        console.print()
        console.print(_reproduction_table(found))
        console.print(f"Table: {out / 'table.md'}", soft_wrap=True)


def _paper(row: Row) -> str:
    return f"(paper: {row.paper})" if row.paper else ""


def _reproduction_table(found: Reproduction) -> Table:
    table = Table(title=found.title, box=None, pad_edge=False)
    for heading, side in (("row", "left"), ("paper", "right"), ("ours", "right"), ("", "left")):
        table.add_column(heading, justify=side, overflow="fold")  # type: ignore[arg-type]
    for row in found.rows:
        table.add_row(row.name, row.paper or "–", str(row.ours), row.unit)
    return table


def compare_methods(
    suite: str,
    out: Path,
    *,
    length: str,
    num_seeds: int,
    methods: Sequence[str],
    data: Path | None,
) -> None:
    """Compare methods and print each result as it is measured."""
    console = PlainConsole()
    board = None
    with ProgressListener(console) as listener:
        for board in compare(
            suite,
            out,
            length=length,
            num_seeds=num_seeds,
            methods=methods,
            data=data,
            listener=listener,
        ):
            if not board.costs:
                listener.bar.print(_standing(board.standings[-1]))
    if board is not None:
        console.print()
        console.print(_leaderboard(board))
        page = out / suite / length / "leaderboard.md"
        console.print(f"Leaderboard: {page}", soft_wrap=True)


def _standing(standing: Standing) -> Text:
    accuracy = standing.mean("accuracy")
    text = f": {accuracy.mean:.2f} %, over the baseline {as_points(standing.over_baseline)}"
    return Text.assemble("  ", (standing.method, "bold"), text)


def _leaderboard(board: Leaderboard) -> Table:
    table = Table(title=board.title, box=None, pad_edge=False)
    table.add_column("method")
    for heading in ("accuracy %", "over the baseline", "over KD", "step / KD's"):
        table.add_column(heading, justify="right")
    for standing in ranked(board.standings):
        cost = board.costs.get(standing.method)
        table.add_row(
            standing.method,
            f"{standing.mean('accuracy').mean:.2f}",
            as_points(standing.over_baseline),
            as_points(standing.over_kd),
            "" if cost is None else f"{cost.ratio:.2f}",
        )
    return table
