"""The catalogue of methods in the terminal."""

import json
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from tutelage.cli.console import PlainConsole
from tutelage.errors import find
from tutelage.losses import LOSSES
from tutelage.methods import Method, as_markdown, describe_method, list_methods


def print_methods(name: str | None, *, as_json: bool, as_page: bool) -> None:
    """Print one loss or all of them: as a table, as JSON or as Markdown."""
    if name is not None:
        find("loss", name, LOSSES)
    chosen = list_methods() if name is None else [describe_method(name)]
    console = PlainConsole()
    if as_json:
        console.out(json.dumps([asdict(method) for method in chosen], indent=2), highlight=False)
    elif as_page:
        console.out(as_markdown(chosen), end="", highlight=False)
    elif name is None:
        console.print(_table(chosen))
    else:
        _print_one(console, chosen[0])


def _table(methods: list[Method]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("family", "name", "needs", "what it is"):
        table.add_column(heading, overflow="fold")
    family = ""
    for method in methods:
        shown = "" if method.family == family else method.family
        family = method.family
        needs = ", ".join(method.needs)
        table.add_row(shown, Text(method.name, "bold"), Text(needs, "dim"), method.summary)
    return table


def _print_one(console: PlainConsole, method: Method) -> None:
    about = f" ({method.family}; needs {', '.join(method.needs)})"
    console.print(Text.assemble((method.name, "bold"), about))
    console.print(" ".join(part for part in (method.summary, method.advice) if part))
    if method.settings:
        table = Table(box=None, pad_edge=False)
        for heading in ("setting", "default", "meaning"):
            table.add_column(heading, overflow="fold")
        for setting in method.settings:
            table.add_row(setting.name, setting.default or "", setting.meaning)
        console.print(table)
    if method.usual_weight:
        console.print(f"Usual weight: {method.usual_weight}")
    console.print(f"Source: {method.source}")
    if method.differs:
        console.print(f"Differs: {method.differs}")
    for line in method.measured:
        console.print(f"Measured: {line}")
