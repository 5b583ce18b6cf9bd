"""`tutelage propose`: students that fit a budget, as a table and as recipes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from tutelage.cli.console import PlainConsole
from tutelage.deploy.budgets import Needs, bytes_text, parse_budget
from tutelage.deploy.proposing import Form, Proposal, propose
from tutelage.errors import ConfigError
from tutelage.models.propose import Facts
from tutelage.pipeline.proposals import read_request, write_proposals


def propose_students(  # noqa: PLR0913 - one argument an option
    model: str,
    budget_text: str,
    *,
    settings: str,
    weights: Path | None,
    recipe: str | None,
    images: str,
    count: int,
    write: Path | None,
    form: Form,
) -> None:
    """Print the proposals that fit, and write them if asked."""
    console = PlainConsole()
    budget = parse_budget(budget_text)
    form.check()
    question = read_request(
        model,
        settings=_mapping(settings),
        weights=weights,
        base=recipe,
        facts=_facts(images) if images else None,
    )
    skipped: dict[str, str] = {}
    proposals = propose(
        question.original,
        question.facts,
        budget,
        count=count,
        form=form,
        on_skip=skipped.__setitem__,
    )
    console.print(_table(proposals, f"Students of {model} within {budget}", form))
    for name, reason in skipped.items():
        said = Text.assemble(("Left out: ", "yellow"), f"{name}: {reason}")
        console.print(said, soft_wrap=True)
    if not any(proposal.fits for proposal in proposals):
        console.print(Text("None fits; these come nearest.", "yellow"))
    if write is None:
        return
    for path in write_proposals(question, budget_text, proposals, write, form):
        console.print(f"Recipe: {path}", soft_wrap=True)


def _table(proposals: Sequence[Proposal], title: str, form: Form) -> Table:
    table = Table(title=title, box=None, pad_edge=False)
    table.add_column("student", no_wrap=True)
    table.add_column("starts from")
    for heading in ("parameters", "MACs", "size", "p50 ms", "ram", "budget"):
        table.add_column(heading, justify="right", no_wrap=True)
    for proposal in proposals:
        candidate = proposal.candidate
        table.add_row(
            candidate.name,
            "teacher" if candidate.from_teacher else "random",
            f"{candidate.parameters:,}",
            f"{candidate.macs:,}",
            *_cells(proposal.predicted, proposal.measured),
            Text(f"{proposal.excess:.0%}", "green" if proposal.fits else "red"),
        )
    table.caption = f"Predicted, and below it measured as {form}: batch 1, one thread, by turns."
    return table


def _cells(predicted: Needs, measured: Needs | None) -> list[Text]:
    def both(attribute: str, text: Any) -> Text:
        values = [getattr(needs, attribute) for needs in (predicted, measured) if needs]
        shown = ["?" if value is None else text(value) for value in values]
        return Text("\n").join([Text(shown[0], "dim"), *map(Text, shown[1:])])

    return [
        both("size_bytes", bytes_text),
        both("latency_ms", lambda ms: f"{ms:.3g}"),
        both("memory_bytes", bytes_text),
    ]


def _mapping(text: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text) if text else {}
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"--settings {text!r}: write a mapping, as in '{{width: 32}}'.")
    return found


def _facts(text: str) -> Facts:
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(
            f"--images {text!r}: write classes x channels x height, as in 1000x3x224."
        )
    return Facts(*map(int, parts))
