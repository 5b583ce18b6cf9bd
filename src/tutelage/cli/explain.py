"""`tutelage explain`: the effect of temperature, in the terminal, as an image or as JSON."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tutelage.cli.console import PlainConsole
from tutelage.errors import ConfigError, find
from tutelage.files import write_text

if TYPE_CHECKING:
    from tutelage.explain import Example

Numbers = Mapping[str, Any]

MOST_CLASSES = 6
MOST_LOGITS = 12
PAGE_WIDTH = 80
BAR_WIDTH = 60
NAME_WIDTH = 20
BRUSHES = (
    ("█", "green"),
    ("▓", "blue"),
    ("▒", "yellow"),
    ("░", "magenta"),
    ("▞", "cyan"),
    ("▚", "red"),
)
"""A fill and a colour for each class shown, the first for the class worth most attention."""


def explain_command(  # noqa: PLR0913 - one argument an option
    classes: Annotated[
        str | None, typer.Option(help="Class names, separated by commas.", metavar="A,B,...")
    ] = None,
    logits: Annotated[
        str | None,
        typer.Option(
            help="The student's logits, one a class: --logits=-5,2,7,9", metavar="Z,Z,..."
        ),
    ] = None,
    teacher_logits: Annotated[
        str | None, typer.Option(help="The teacher's logits.", metavar="Z,Z,...")
    ] = None,
    teacher_probabilities: Annotated[
        str | None,
        typer.Option(help="Or the teacher's probabilities, at --at.", metavar="P,P,..."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="The class that is right.")] = None,
    temperature: Annotated[
        list[str] | None,
        typer.Option(
            help="Temperatures to show; repeat, or separate by commas.", metavar="T,T,..."
        ),
    ] = None,
    at: Annotated[
        float | None,
        typer.Option(help="Temperature of the distillation loss: 3, or the run's own."),
    ] = None,
    task_weight: Annotated[
        float | None, typer.Option(help="Weight of the task loss: 0.1, or the run's own.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option(help="Weight of the distillation loss: 0.9, or the run's own.")
    ] = None,
    example_name: Annotated[
        str | None, typer.Option("--example", help="animals or textbook.", show_default="animals")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Take a test sample from this run's folder.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(help="Which of the run's samples, from 0.", show_default="0")
    ] = None,
    arm: Annotated[
        str | None,
        typer.Option(help="The run's student: distilled or baseline.", show_default="distilled"),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--image", "--picture", help="Write the chart to this .html file."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the numbers as JSON, and nothing else.")
    ] = False,
) -> None:
    """Show the effect of temperature on a distribution, and compute the two losses step by step.

    Without options it explains an example of four animals: cat, dog, donkey, horse.
    """
    from tutelage.explain import TEMPERATURES, explain

    if image is not None and image.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--image must end in .html, got {str(image)!r}.")
    typed = {
        "--classes": classes,
        "--logits": logits,
        "--teacher-logits": teacher_logits,
        "--teacher-probabilities": teacher_probabilities,
        "--label": label,
        "--example": example_name,
    }
    if run is None:
        _refuse("needs --run", {"--sample": sample, "--arm": arm})
        example = _typed_example(typed, at)
    else:
        _refuse("cannot stand beside --run, which brings its own", typed)
        example = _run_example(run, sample or 0, arm or "distilled")
    temperatures = _numbers("--temperature", ",".join(temperature)) if temperature else TEMPERATURES
    explanation = explain(example, temperatures, at, task_weight, weight)
    numbers = explanation.to_json()
    if image is not None:
        _write_picture(image, numbers, example.image_png)
    if as_json:
        sys.stdout.write(_json_text(numbers))
        return
    _show(numbers, PlainConsole(highlight=False))
    if image is not None:
        PlainConsole(highlight=False).print(f"\nImage: {image}", soft_wrap=True)


def _refuse(why: str, options: Mapping[str, object]) -> None:
    for name, value in options.items():
        if value is not None:
            raise ConfigError(f"{name} {why}.")


def _typed_example(typed: Mapping[str, str | None], at: float | None) -> "Example":
    """An example in which typed values replace its own."""
    from tutelage.explain import EXAMPLES, Example

    named = find("example", typed["--example"] or "animals", EXAMPLES)
    temperature = named.temperature if at is None else at
    logits, names, label = typed["--logits"], typed["--classes"], typed["--label"]
    if logits is not None:
        values = _numbers("--logits", logits)
        classes = _names(names) if names else tuple(str(number) for number in range(len(values)))
        example = Example(classes=classes, student_logits=values, temperature=temperature)
    elif names is not None:
        raise ConfigError("--classes needs --logits: the classes' scores, in the same order.")
    else:
        example = named
    if label is not None:
        example = replace(example, label=label.strip())
    return _with_teacher(
        example, temperature, typed["--teacher-logits"], typed["--teacher-probabilities"]
    )


def _with_teacher(
    example: "Example", temperature: float, logits: str | None, probabilities: str | None
) -> "Example":
    if logits is None and probabilities is None:
        return example
    given = None if probabilities is None else _numbers("--teacher-probabilities", probabilities)
    return replace(
        example,
        teacher_logits=None if logits is None else _numbers("--teacher-logits", logits),
        teacher_probabilities=given,
        temperature=temperature,
    )


def _run_example(run: Path, sample: int, arm: str) -> "Example":
    from tutelage.explain import from_run

    return from_run(run, sample, arm)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise ConfigError(f"--classes holds an empty name: {text!r}. Write A,B,C.")
    return names


def _numbers(option: str, text: str) -> tuple[float, ...]:
    return tuple(_number(option, part.strip()) for part in text.split(","))


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(
            f"{option}: {text!r} is not a number. Give numbers separated by commas, "
            f"as in {option}=1,2.5,4."
        ) from error


def _write_picture(path: Path, numbers: Numbers, image_png: str | None) -> None:
    from tutelage.report.explain_page import explain_page

    write_text(path, explain_page(numbers, image_png))


def _json_text(numbers: Numbers) -> str:
    """JSON with one key per line, for human readers."""
    lines = [f"  {json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in numbers.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _show(numbers: Numbers, console: PlainConsole) -> None:
    shown = _shown(numbers)
    console.print(_heading(numbers))
    console.print(_logits(numbers))
    console.print(_section("Student's probabilities by temperature"))
    console.print(_table(numbers, shown, prefix=""))
    if numbers["teacher_probabilities"] is not None:
        mended = ", made to sum to 1" if numbers["teacher_given"] is not None else ""
        console.print(_section(f"Teacher's probabilities by temperature{mended}"))
        console.print(_table(numbers, shown, prefix="teacher_"))
    console.print(_bars(numbers, shown))
    if numbers["steps"]:
        console.print(_section("The losses, step by step"))
        if numbers["teacher_at"] is not None:
            every = range(len(numbers["classes"]))
            console.print(_loss_table(numbers, every if len(every) <= MOST_LOGITS else shown))
        console.print(_steps(numbers))
    console.print(_section("How it was computed"))
    console.print(_notes(numbers))


def _shown(numbers: Numbers) -> list[int]:
    """The classes that get a column; if not all fit, one column holds the rest."""
    ranking = numbers["ranking"]
    return sorted(ranking if len(ranking) <= MOST_CLASSES else ranking[: MOST_CLASSES - 1])


def _short(name: str, width: int = NAME_WIDTH) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


def _section(title: str) -> Text:
    return Text(f"\n{title}", style="bold")


def _heading(numbers: Numbers) -> Group:
    label = "" if numbers["label"] is None else f" · label {numbers['label']}"
    return Group(
        Text(f"What temperature does: {numbers['source']}{label}", style="bold"),
        Text("q = exp(z/T) / sum of exp(z/T) for logits z: the higher T, the more even.", "dim"),
    )


def _logits(numbers: Numbers) -> Table:
    """The logits that everything is computed from, class by class."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("logits z")
    rows = {"student": numbers["student_logits"], "teacher": numbers["teacher_logits"]}
    there = {name: values for name, values in rows.items() if values is not None}
    for name in there:
        table.add_column(name, justify="right")
    for place, name in list(enumerate(numbers["classes"]))[:MOST_LOGITS]:
        cells = (f"{values[place]:.4f}" for values in there.values())
        table.add_row(Text(_short(name)), *cells)
    rest = len(numbers["classes"]) - MOST_LOGITS
    if rest > 0:
        table.add_row(f"{rest} more: --json")
    return table


def _is_here(numbers: Numbers, temperature: float) -> bool:
    return bool(temperature == numbers["at"])


def _table(numbers: Numbers, shown: Sequence[int], prefix: str) -> Table:
    """A table with one row per temperature and one column per class."""
    classes = numbers["classes"]
    has_rest = len(shown) < len(classes)
    width = (PAGE_WIDTH - 28 - 8 * has_rest) // len(shown) - 2
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("T", justify="right", no_wrap=True)
    for k in shown:
        style = "green" if classes[k] == numbers["label"] else ""
        name = Text(_short(classes[k], width), style)
        table.add_column(name, justify="right", style=style, no_wrap=True, min_width=6)
    if has_rest:
        table.add_column("others", justify="right", no_wrap=True)
    table.add_column("entropy", justify="right", no_wrap=True)
    table.add_column("of max", justify="right", no_wrap=True, style="dim")
    _add_rows(table, numbers, shown, prefix)
    return table


def _add_rows(table: Table, numbers: Numbers, shown: Sequence[int], prefix: str) -> None:
    num_classes = len(numbers["classes"])
    rows = zip(
        numbers["temperatures"],
        numbers[f"{prefix}probabilities"],
        numbers[f"{prefix}entropies"],
        strict=True,
    )
    for temperature, row, entropy in rows:
        rest = [math.fsum(row) - math.fsum(row[k] for k in shown)]
        cells = [row[k] for k in shown] + (rest if len(shown) < num_classes else [])
        table.add_row(
            f"{temperature:g}",
            *(f"{max(0.0, value):.4f}" for value in cells),
            f"{entropy:.4f}",
            f"{entropy / math.log(num_classes):.0%}",
            style="bold" if _is_here(numbers, temperature) else "",
        )


def _brushes(numbers: Numbers) -> dict[int, tuple[str, str]]:
    return dict(zip(numbers["ranking"], BRUSHES, strict=False))


def _bars(numbers: Numbers, shown: Sequence[int]) -> Group:
    """The student's distribution, one divided bar per temperature."""
    brushes = _brushes(numbers)
    width = min(NAME_WIDTH, (PAGE_WIDTH - 16) // len(shown) - 5)
    legend = Text("      ")
    for k in shown:
        fill, color = brushes[k]
        legend.append(2 * fill, color).append(f" {_short(numbers['classes'][k], width)}  ")
    if len(shown) < len(numbers["classes"]):
        legend.append("·· others")
    rows = [
        Text(f"{temperature:>5g} ").append_text(_bar(row, shown, brushes))
        for temperature, row in zip(numbers["temperatures"], numbers["probabilities"], strict=True)
    ]
    return Group(_section("The student's, drawn"), *rows, legend)


def _bar(
    row: Sequence[float], shown: Sequence[int], brushes: Mapping[int, tuple[str, str]]
) -> Text:
    bar, done, reached = Text(), 0.0, 0
    for k in shown:
        done += row[k]
        end = round(BAR_WIDTH * done)
        fill, color = brushes[k]
        bar.append(fill * (end - reached), color)
        reached = end
    return bar.append("·" * (BAR_WIDTH - reached))


def _loss_table(numbers: Numbers, shown: Sequence[int]) -> Table:
    """The soft cross-entropy's parts, class by class."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column(f"at T = {numbers['at']:g}", no_wrap=True)
    for title in ("student q", "-log q", "teacher p", "p · (-log q)"):
        table.add_column(title, justify="right", no_wrap=True)
    parts, teacher = numbers["soft_cross_entropy_parts"], numbers["teacher_at"]
    for k in shown:
        q = numbers["student_at"][k]
        surprise = 0.0 - math.log(q) if q > 0 else math.inf
        cells = (q, surprise, teacher[k], parts[k])
        table.add_row(Text(_short(numbers["classes"][k])), *(f"{value:.4f}" for value in cells))
    sums = f"{math.fsum(teacher):.4f}", f"{numbers['soft_cross_entropy']:.4f}"
    name = "sum" if len(shown) == len(teacher) else f"sum of all {len(teacher)}"
    table.add_row(name, f"{math.fsum(numbers['student_at']):.4f}", "", *sums, style="bold")
    return table


def _steps(numbers: Numbers) -> Table:
    grid = Table.grid(padding=(0, 1))
    for place, step in enumerate(numbers["steps"], start=1):
        grid.add_row("")
        grid.add_row(f"{place}.", Text(step["name"], "bold"))
        grid.add_row("", _indented(Text(step["formula"], "dim")))
        value = Text(step["shown"], "bold green")
        grid.add_row("", _indented(Text(f"= {step['inserted']} = ").append_text(value)))
    return grid


def _indented(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, 2))


def _notes(numbers: Numbers) -> Table:
    grid = Table.grid(padding=(0, 1))
    for note in numbers["notes"]:
        grid.add_row("-", Text(note))
    return grid
