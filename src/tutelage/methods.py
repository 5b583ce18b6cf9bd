"""The catalogue of methods as data: what each needs, its settings, its paper, when to use it."""

import inspect
import json
import re
import textwrap
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from tutelage.losses import FAMILIES, LOSSES
from tutelage.objective import Loss

_WEIGHT = re.compile(r"^Usual weight: (.+?)(?=\n\n|\Z)", flags=re.MULTILINE | re.DOTALL)
_SECTION = re.compile(r"^([A-Z][A-Za-z ]+):$", flags=re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Setting:
    """One argument of a loss.

    Attributes:
        name: Name as in a recipe.
        default: Default as Python source; None where the argument must be given.
        meaning: What it is, with usual values.
    """

    name: str
    default: str | None
    meaning: str


@dataclass(frozen=True, slots=True)
class Method:
    """One loss of the catalogue.

    Attributes:
        name: Name as in a recipe.
        family: labels, logit, feature, relational, transformer, embedding, language or
            teacher_free.
        summary: What it is, in a line.
        advice: When to use it and when not.
        needs: What must be there besides the student's logits.
        settings: Its arguments.
        usual_weight: Multiplier that papers or trials found good; empty where 1 or so will do.
        source: The paper.
        differs: Where it parts from the paper or from other libraries; empty where it does not.
        measured: What `tutelage bench` found of it, a line a suite.
    """

    name: str
    family: str
    summary: str
    advice: str
    needs: tuple[str, ...]
    settings: tuple[Setting, ...]
    usual_weight: str
    source: str
    differs: str
    measured: tuple[str, ...] = ()


def list_methods() -> list[Method]:
    """Every loss, family by family."""
    return [describe_method(name) for family in FAMILIES.values() for name in family]


def describe_method(name: str) -> Method:
    """One loss, from its docstring."""
    loss = LOSSES[name]
    text = inspect.getdoc(loss) or ""
    weight = _WEIGHT.search(text)
    sections = _sections(_WEIGHT.sub("", text))
    summary, _, advice = sections[""].partition("\n\n")
    differs = [text for title, text in sections.items() if title.startswith("Differs")]
    return Method(
        name=name,
        family=next(family for family, names in FAMILIES.items() if name in names),
        summary=_line(summary),
        advice=_line(advice),
        needs=tuple(sorted(signal.value for signal in loss.needs)) or ("nothing",),
        settings=_settings(loss, sections.get("Args", "")),
        usual_weight="" if weight is None else _line(weight.group(1)),
        source=_line(sections.get("Source", "")),
        differs=_line(" ".join(differs)),
        measured=tuple(
            _found(board, standing)
            for board in _leaderboards()
            for standing in board["standings"]
            if standing["method"] == name
        ),
    )


@cache
def _leaderboards() -> list[dict[str, Any]]:
    """The shipped results of `tutelage bench`, by name."""
    folder = files("tutelage") / "leaderboards"
    pages = sorted((p for p in folder.iterdir() if p.name.endswith(".json")), key=lambda p: p.name)
    return [json.loads(page.read_text(encoding="utf-8")) for page in pages]


def _found(board: dict[str, Any], standing: dict[str, Any]) -> str:
    """Accuracy and differences in a line."""
    accuracies = [100 * score["accuracy"] for score in standing["last"]]
    text = f"{board['title']}: {sum(accuracies) / len(accuracies):.2f} %"
    for other, interval in (("labels alone", "over_baseline"), ("KD", "over_kd")):
        if standing[interval] is not None:
            mean, low, high = (100 * value for value in standing[interval])
            text += f", {mean:+.2f} [{low:+.2f}, {high:+.2f}] over {other}"
    usual = board.get("student_parameters") or 1
    growth = (standing.get("parameters") or usual) / usual
    other = "" if growth == 1 else f"; its student is another, of {growth:.2f} times the parameters"
    return f"{text} ({board['num_train']:,} samples, {board['epochs']} epochs{other})"


def as_markdown(methods: list[Method]) -> str:
    """The catalogue as a page: one table per family, then each method."""
    lines = [
        "# Methods",
        "",
        "Every loss by its name in a recipe. Made from the losses' own documentation by "
        "`tutelage methods --markdown`.",
    ]
    for family in FAMILIES:
        lines += [
            "",
            f"## {family.capitalize()}",
            "",
            "| name | what it is | needs |",
            "|---|---|---|",
        ]
        chosen = [method for method in methods if method.family == family]
        lines += [
            f"| [`{m.name}`](#{m.name}) | {m.summary} | {', '.join(m.needs)} |" for m in chosen
        ]
        for method in chosen:
            lines += ["", f"### {method.name}", "", *_entry(method)]
    return "\n".join(lines) + "\n"


def _entry(method: Method) -> list[str]:
    lines = [" ".join(part for part in (method.summary, method.advice) if part)]
    if method.settings:
        lines += ["", "| setting | default | meaning |", "|---|---|---|"]
        lines += [
            f"| `{s.name}` | {'–' if s.default is None else f'`{s.default}`'} | {s.meaning} |"
            for s in method.settings
        ]
    if method.usual_weight:
        lines += ["", f"Usual weight: {method.usual_weight}"]
    lines += ["", f"Source: {method.source}"]
    if method.differs:
        lines += ["", f"Differs: {method.differs}"]
    if method.measured:
        lines += ["", "Measured (accuracy, points with 95 % interval):", ""]
        lines += [f"- {line}" for line in method.measured]
    return lines


def _sections(text: str) -> dict[str, str]:
    """Parts of a docstring by heading; the part before the first heading is under ""."""
    found = {}
    title, begin = "", 0
    for match in _SECTION.finditer(text):
        found[title] = text[begin : match.start()].strip("\n")
        title, begin = match.group(1), match.end()
    found[title] = text[begin:].strip("\n")
    return found


def _settings(loss: type[Loss], text: str) -> tuple[Setting, ...]:
    meanings = _arguments(textwrap.dedent(text))
    if loss.__init__ is Loss.__init__:  # it has no constructor of its own
        return ()
    return tuple(
        Setting(
            name,
            None if parameter.default is parameter.empty else repr(parameter.default),
            meanings.get(name, ""),
        )
        for name, parameter in inspect.signature(loss).parameters.items()
    )


def _arguments(text: str) -> dict[str, str]:
    """Meaning of each argument in a Google-style section."""
    meanings: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        match = re.match(r"(\w+): (.*)", line)
        if match:
            name, meanings[match.group(1)] = match.group(1), match.group(2)
        elif name:
            meanings[name] = f"{meanings[name]} {line.strip()}"
    return meanings


def _line(text: str) -> str:
    return " ".join(text.split())
