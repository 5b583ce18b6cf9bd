"""`tutelage tune`: a search with its progress, its table and its page."""

from collections.abc import Sequence

from rich.table import Table

from tutelage.cli.console import PlainConsole
from tutelage.cli.progress import ProgressListener
from tutelage.config.read import read_recipe, recipe_path
from tutelage.errors import ConfigError
from tutelage.tune import Search, Tuned, tune
from tutelage.tune.page import say_what_was_found, settings_table, short, value_text, write_page
from tutelage.tune.search import BEST
from tutelage.tune.students import find_students

SHOWN = 10


def tune_recipe(
    name: str,
    overrides: Sequence[str],
    *,
    trials: int,
    over: str,
    students: int,
    budget: str,
    confirm: int,
    seed: int,
) -> None:
    """Search, and show the result."""
    console = PlainConsole()
    recipe, folder = read_recipe(name, overrides), recipe_path(name).parent
    groups = [part.strip() for part in over.split(",") if part.strip()]
    budget = budget or recipe.budget or ""
    if students and not budget:
        raise ConfigError(
            '--students: say what they may need, as in --budget "1 MB, 2 ms", or in the recipe.'
        )
    with ProgressListener(console) as listener:
        found = None
        if students:
            found = find_students(recipe, folder, budget, count=students, listener=listener)
        search = Search(
            recipe, trials, folder, groups=groups, students=found, confirm=confirm, seed=seed
        )
        tuned = tune(search, listener)
    best = search.out / BEST
    page = search.out / "tune.html"
    write_page(tuned, best.read_text(encoding="utf-8"), page)
    _print(console, tuned)
    console.print(f"Best recipe: {best}", soft_wrap=True)
    for place in range(1, len(tuned.front) + 1):
        console.print(f"Front:       {search.out / f'front-{place}.yaml'}", soft_wrap=True)
    console.print(f"Page:        {page}", soft_wrap=True)


def _print(console: PlainConsole, tuned: Tuned) -> None:
    table = Table(title="The best trials, on validation data", box=None, pad_edge=False)
    table.add_column("trial", justify="right")
    table.add_column(tuned.metric.title, justify="right")
    if tuned.front:
        table.add_column("p50 ms", justify="right")
    table.add_column("settings")
    keys = sorted(tuned.space, key=lambda key: key != "student")
    ranked = sorted(tuned.trials, key=lambda row: (row.state != "complete", -tuned.rank(row)))
    for row in ranked[:SHOWN]:
        cells = [tuned.text(row.score)]
        if tuned.front:
            cells.append("" if row.latency_ms is None else f"{row.latency_ms:.4g}")
        mark = " *" if row.number in (tuned.best, *tuned.front) else ""
        said = [f"{short(key)} {value_text(row.settings.get(key, '–'))}" for key in keys]
        table.add_row(f"{row.number + 1}{mark}", *cells, ", ".join(said))
    console.print()
    console.print(table)
    console.print()
    mattered = Table(title="What mattered", box=None, pad_edge=False)
    for heading in ("setting", "own", "best", "importance"):
        mattered.add_column(heading, justify="left" if heading == "setting" else "right")
    for line in settings_table(tuned):
        mattered.add_row(line["key"], line["own"], line["best"], line["importance"])
    console.print(mattered)
    console.print(say_what_was_found(tuned))
