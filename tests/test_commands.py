"""Every command that a page shows is run: as it stands, on small data, cut to an epoch."""

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import pytest
from programs import load_script
from shown import PAGES, ROOT, Shown, commands_of
from test_recipes import NETS, write_pictures
from texts import snippets, write_csv

from tests.data.test_cifar import write_set
from tutelage.bench import comparison, hinton
from tutelage.cli.app import app, guarded
from tutelage.config import read_recipe, shipped_recipes
from tutelage.config.schema import Recipe
from tutelage.data import builtin

WITH_COMMANDS = [page for page in PAGES if commands_of(page)]
SMALL: dict[str, dict[str, Any]] = {
    "smollm2": {
        "data": {"block_size": 40, "train_tokens": 1600, "valid_tokens": 320, "test_tokens": 640},
        "student": {"settings": {"keep_layers": [0, 3]}},
    },
    "images": {
        "data": {"image_size": 8},
        "teacher": {"settings": {"width": 4, "blocks": 1}},
        "student": {"settings": {"width": 2, "stages": 2}},
        "views": {"padding": 1},
        "train": {"workers": 0},
    },
    "mine.yaml": {"data": {"image_size": 8}, "views": {"padding": 1}},
    "wordnet_static": {"student": {"settings": {"width": 4}}},
    "vader": {"measure": {"int8": None}},  # of an epoch on few texts it is too far from the float
    "mnist": {"data": {"valid_fraction": 0.3}},
    "fashion_mnist": {"data": {"valid_fraction": 0.3}},
}
SHORT = {"train": {"epochs": 1}, "seeds": [0], "schedule": {"warmup_steps": 0}}
LESS = {
    "tune": ["--trials=2", "--confirm=0"],
    "measure": ["--seconds=0.2"],
    "propose": ["--count=1"],
}
EXTRA_OF = {"executorch": "executorch", "litert": "litert_torch", "openvino": "openvino"}
EXIT = {"run digits budget=3 kB, 1 ms": 2}
NOT_RUN = {
    "echo": "shows an exit code; tests/cli/test_exit_codes.py",
    "pytest": "a part of this suite",
    ".": "opens the environment that the line has made",
}
NEEDS_MORE = ("check", "export", "measure", "propose", "run", "tune")


class ParsedError(Exception):
    """A script has taken its arguments; what it does is for its own tests."""


@pytest.fixture
def place(home, tmp_path, monkeypatch) -> Path:
    """A folder to type commands in, with the files that pages ask people to have."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    for folder in ("path/to/folder", "photos", "data/images"):
        write_pictures(tmp_path / folder)
    write_set(tmp_path / "path/to/cifar-100-binary")
    write_csv(tmp_path / "reviews.csv", snippets(60), header="review,rating")
    rents = [
        f"{2 + n % 4},{40 + 7 * n % 90},{'north' if n % 3 else ''},{500 + 9 * n}" for n in range(90)
    ]
    (tmp_path / "rents.yaml").write_text(shipped_recipes()["diamonds"].read_text("utf-8"))
    (tmp_path / "rents.csv").write_text("\n".join(["rooms,area,district,rent", *rents]))
    (tmp_path / "nets.py").write_text(NETS)
    template = shipped_recipes()["template"].read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(template)
    (tmp_path / "recipe.yaml").write_text("base: digits\noutput: runs/mine\n")
    return tmp_path


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """The same recipes and the same commands, of an epoch and few samples."""

    def loader(valid_fraction=0.3, seed=0):
        return builtin.load_digits(valid_fraction, test_fraction=0.9, seed=seed)

    def shortened(name: str, overrides: Sequence[str] = ()) -> Recipe:
        plain = read_recipe(name, overrides).model_dump(mode="json")
        changes = merged(SHORT, SMALL.get(str(name), {}))
        if plain["teacher"] and plain["teacher"].get("training"):
            changes = merged(changes, {"teacher": {"training": SHORT_TEACHER}})
        if plain["measure"]:
            changes = merged(changes, {"measure": {"seconds": 0.1, "batch_sizes": [1]}})
        if plain["student"]["settings"].get("embeddings"):
            changes = merged(changes, {"student": {"settings": {"width": 8}}})
        if plain["data"].get("max_length"):
            changes = merged(changes, {"data": {"max_length": 16}})
        return Recipe.model_validate(merged(plain, changes))

    monkeypatch.setattr("tutelage.config.build.BUILTIN", builtin.BUILTIN | {"digits": loader})
    monkeypatch.setattr("tutelage.cli.commands.read_recipe", shortened)
    monkeypatch.setattr("tutelage.cli.tune.read_recipe", shortened)
    monkeypatch.setattr(comparison, "_boards", lambda study, chosen: iter(()))
    monkeypatch.setattr(hinton._Study, "parts", without_work(hinton._Study.parts))
    monkeypatch.setattr(
        "tutelage.cli.playground.serve", lambda folder, tell, names: tell("address")
    )


def without_work(parts: property) -> property:
    """A reproduction's parts by name, none of which trains; tests/bench/ runs them in small."""
    return property(lambda study: dict.fromkeys(parts.fget(study), lambda: ([], [])))


SHORT_TEACHER = {"train": {"epochs": 1}, "schedule": {"warmup_steps": 0}}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two mappings in one; where both have a mapping, theirs too."""
    both = {
        key: merged(below[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return {**below, **above, **both}


def call(*arguments: str) -> int:
    return guarded(lambda **settings: app(list(arguments), **settings))


def run_shown(command: Shown, place: Path) -> None:
    """Run one command of a page, or fail."""
    for words in joined_commands(command.words):
        program = Path(words[0]).name or words[0]
        if words[0].startswith("scripts/"):
            parse_script(ROOT / words[0], words[1:])
        elif program in RUNNERS:
            RUNNERS[program](words[1:], place)
        elif program not in NOT_RUN:
            pytest.fail(
                f"No test runs {shlex.join(words)!r}: say in tests/test_commands.py how it is run."
            )


def joined_commands(words: Sequence[str]) -> list[list[str]]:
    """What `&&` joins; quoted text is one word."""
    commands: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


def run_python(words: list[str], place: Path) -> None:
    """A benchmark takes its arguments; its work on tiny input is tests/test_benchmarks.py's.

    A delivered example runs as it stands.
    """
    match words:
        case [script, *arguments] if script.startswith("runs/"):
            subprocess.run([sys.executable, place / script, *arguments], check=True)
        case ["-m", "venv", ".venv"] | ["-c", "pass"] | ["-P"] | ["-m", "tutelage"]:
            return
        case [script, *arguments]:
            parse_script(ROOT / script, arguments)


def run_launcher(words: list[str], place: Path) -> None:
    """One process does what the launcher's several do (tests/processes has those)."""
    run_tutelage(words[words.index("tutelage") + 1 :], place)


def run_shell(program: str, words: list[str], place: Path) -> None:
    """As a shell does it: braces and the home folder are expanded, `>` writes a file."""
    plain = [word if re.fullmatch(r"[\w.,/~{}>-]+", word) else shlex.quote(word) for word in words]
    subprocess.run(["bash", "-ec", " ".join([program, *plain])], check=True)


def copy_to_machine(words: list[str], place: Path) -> None:
    """`scp` to a machine of that name: a folder beside the run."""
    _, folder, target = words
    shutil.copytree(place / folder, place / target.partition(":")[2], dirs_exist_ok=True)


def run_on_machine(words: list[str], place: Path) -> None:
    """`ssh`: the line in this machine's shell, for a moment."""
    _, line, _, file = words
    line = line.replace("python ", f"{sys.executable} ") + " --seconds 0.2"
    with (place / file).open("w") as rows:
        subprocess.run(["bash", "-ec", line], stdout=rows, check=True)


def look_for_events(words: list[str], place: Path) -> None:
    """What TensorBoard would show is there."""
    assert list((place / words[-1]).rglob("events.out*")), f"{words[-1]} has no events"


def run_tutelage(arguments: list[str], place: Path) -> None:
    """Run the command in this process, in small; what it prints is left to other tests."""
    output = None
    if ">" in arguments:
        arguments, output = arguments[: arguments.index(">")], arguments[-1]
    name = arguments[0]
    if len(arguments) == 1 and name in NEEDS_MORE:
        return  # the command's bare name in running text
    if output is not None and (place / output).exists():
        return
    if name in ("report", "export", "measure", "playground", "propose", "explain", "cache", "tune"):
        have_runs(arguments, place)
    if name == "run" and arguments[1].startswith("proposals/"):
        arguments = ["run", str(next(Path("proposals").glob("*.yaml")))]  # names hang on the clock
    target = arguments[arguments.index("--target") + 1] if "--target" in arguments else ""
    if target in EXTRA_OF and importlib.util.find_spec(EXTRA_OF[target]) is None:
        arguments = [word.replace(target, "onnx") for word in arguments]
    code = call(*arguments, *LESS.get(name, []))
    assert code == EXIT.get(" ".join(arguments), 0), f"{arguments} ends with {code}"


def have_runs(arguments: list[str], place: Path) -> None:
    """The runs that pages take for finished, where no command of the page has made them."""
    for folder in ("runs/digits", "runs/demo", "runs/smollm2"):
        is_named = folder in " ".join(arguments) or Path(folder).name in arguments[1:2]
        if is_named and not (place / folder / "results.json").is_file():
            recipe = "smollm2" if folder.endswith("smollm2") else "digits"
            assert call("run", recipe, f"output={folder}") == 0
    if arguments[1:2] == ["digits"] and arguments[0] != "tune":
        shutil.copytree(place / "runs/digits", place / "digits", dirs_exist_ok=True)


def parse_script(path: Path, arguments: list[str]) -> None:
    """Load a script and let it take its arguments, no further."""
    assert path.is_file(), f"{path.relative_to(ROOT)} is not there"
    assert path.suffix or os.access(path, os.X_OK), f"{path.name} cannot be executed"
    if path.read_bytes().startswith(b"#!/usr/bin/env bash"):
        subprocess.run(["bash", "-n", str(path)], check=True)
        return
    module = load_script(path)
    if not hasattr(module, "argparse"):
        return
    with pytest.MonkeyPatch.context() as patch:
        for name in ("parse_args", "parse_intermixed_args"):
            original = getattr(argparse.ArgumentParser, name)
            patch.setattr(argparse.ArgumentParser, name, partialmethod(stop_after, original))
        patch.setattr(sys, "argv", [path.name, *arguments])
        with pytest.raises(ParsedError):
            module.main()


def stop_after(parser: argparse.ArgumentParser, parse: Callable[..., Any], *args: Any) -> None:
    """Take the arguments and do no more."""
    parse(parser, *args)
    raise ParsedError


def check_extras(words: list[str], place: Path) -> None:
    """The extras that an install asks for are there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = re.findall(r"\[([\w,]+)\]", " ".join(words))
    for extra in ",".join(asked).split(","):
        assert not extra or extra in project["optional-dependencies"], f"no extra {extra}"


RUNNERS: dict[str, Callable[[list[str], Path], None]] = {
    "tutelage": run_tutelage,
    "python": run_python,
    "python3": run_python,
    "pip": check_extras,
    "torchrun": run_launcher,
    "accelerate": run_launcher,
    "tensorboard": look_for_events,
    "scp": copy_to_machine,
    "ssh": run_on_machine,
    "mkdir": partial(run_shell, "mkdir"),
    "cp": partial(run_shell, "cp"),
    "awk": partial(run_shell, "awk"),
}


@pytest.mark.commands
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_run(page, place):
    shown = commands_of(page)
    for number, command in enumerate(shown):
        if command not in shown[:number]:
            run_shown(command, place)


def test_a_command_with_a_placeholder_in_running_text_is_left_out():
    shown = {command.text for page in PAGES for command in commands_of(page)}
    assert "tutelage demo" in shown
    assert not any("RECIPE" in text or "[" in text.split()[-1][:1] for text in shown)
