"""Names and messages are printed as they are: no markup, no control of the terminal."""

import ast
import io
import re
from pathlib import Path

import pytest
from rich.panel import Panel
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

import tutelage
from tutelage.cli.app import guarded
from tutelage.cli.commands import rewrite_report
from tutelage.cli.console import PlainConsole, without_controls
from tutelage.cli.progress import ProgressListener
from tutelage.engine.events import StageDone, StageStarted
from tutelage.errors import ConfigError

NAMES = [
    "x[/b]",
    "[red]run[/red]",
    "[link=file:///etc]a[/link]",
    ":smile:",
    "[",
    "a\\[b]",
    "[@click=f]x",
]
PACKAGE = Path(tutelage.__file__).parent


def printed(*things, **settings):
    file = io.StringIO()
    console = PlainConsole(file=file, width=200, **settings)
    for thing in things:
        console.print(thing, soft_wrap=True)
    return file.getvalue()


def table_of(text):
    table = Table(title=text, caption=text)
    table.add_column(text)
    table.add_row(text)
    return table


@pytest.mark.parametrize("name", NAMES)
def test_brackets_and_colons_are_printed_as_they_are(name):
    for thing in (name, Text(name), Panel(name, title=Text(name)), table_of(name)):
        assert name in printed(thing)


@pytest.mark.parametrize("name", NAMES)
def test_stages_and_notes_of_any_name_are_shown(name):
    file = io.StringIO()
    console = PlainConsole(file=file, width=200, force_terminal=True)
    with ProgressListener(console) as listener:
        listener(StageStarted(name, 3))
        listener.bar.refresh()
        listener(StageDone(name, was_there=False, note=f"note {name}"))
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
    assert f"✓ {name}" in plain
    assert f"note {name}" in plain


CONTROLS = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x1b]8;;http://x\x1b\\a",
    "\x9b2J",
    "\x08\x08",
    "\x7f",
    "\u202etxt",
]


@pytest.mark.parametrize("text", CONTROLS)
def test_data_cannot_control_the_terminal(text):
    for thing in (text, Text(text), Panel(text, title=Text(text)), table_of(text)):
        shown = printed(thing, force_terminal=False)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", shown)
    file = io.StringIO()
    bar = Progress(TextColumn("{task.description}", markup=False), console=PlainConsole(file=file))
    with bar:
        bar.add_task(text)
        bar.print(text)
    assert text not in file.getvalue()


def test_style_is_still_shown():
    assert "\x1b[1m" in printed(Text("bold", "bold"), force_terminal=True, color_system="standard")


def test_errors_cannot_control_the_terminal_either(capsys):
    def fail(standalone_mode):
        raise ConfigError("a\x1b[2Jb[/b]\nc\td")

    assert guarded(fail) == 2
    assert capsys.readouterr().err == "Error: a\ufffd[2Jb[/b]\nc\td\n"
    assert without_controls("größer\t\n") == "größer\t\n"


def test_a_report_is_written_into_a_folder_of_any_name(tmp_path, monkeypatch, capsys):
    from tests.report.conftest import build_record
    from tutelage.records import save_record

    folder = tmp_path / "x[/b]"
    folder.mkdir(parents=True)
    save_record(folder / "results.json", build_record())
    rewrite_report(folder)
    assert f"Report: {folder / 'report.html'}" in capsys.readouterr().out


def test_every_line_is_printed_by_the_one_console():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name == "console.py":
            continue
        assert "import Console" not in text, path
        assert "from_markup" not in text, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("TextColumn"):
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert given.get("markup") == "False", path
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Panel"):
                title = next((k.value for k in node.keywords if k.arg == "title"), None)
                assert not isinstance(title, ast.Constant | ast.JoinedStr), path
