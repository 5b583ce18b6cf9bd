"""Every script in scripts/ can be started; those with tests of their own have them elsewhere."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from programs import load_script, run_script
from shown import ROOT

SCRIPTS = ROOT / "scripts"
ELSEWHERE = {
    "damage-test": "tests/test_survival.py",
    "docs": "tests/test_docs.py",
    "get-data": "tests/data/test_get_data.py",
    "get-language": "tests/data/test_get_language.py",
    "kill-test": "tests/test_survival.py",
}
HERE = {"check", "fuzz", "mutants", "test"}


def test_every_script_is_started_by_a_test():
    assert {path.name for path in SCRIPTS.iterdir() if path.is_file()} == HERE | set(ELSEWHERE)
    for name, test in ELSEWHERE.items():
        assert f'"{name}"' in (ROOT / test).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("name", ["check", "test"])
def test_a_script_of_the_shell_can_be_read(name):
    subprocess.run(["bash", "-n", str(SCRIPTS / name)], check=True)


@pytest.fixture
def fuzzed(monkeypatch, tmp_path) -> list[str]:
    """A fuzzer that tries what it begins with; the names of what it tried."""
    tried: list[str] = []
    given = {}

    def set_up(arguments, one_input) -> None:
        given.update(corpus=Path(arguments[-1]), call=one_input)

    def fuzz() -> None:
        for path in sorted(given["corpus"].iterdir()):
            given["call"](path.read_bytes())
            tried.append(path.name)

    module = SimpleNamespace(
        instrument_imports=lambda include: nullcontext(), Setup=set_up, Fuzz=fuzz
    )
    monkeypatch.setitem(sys.modules, "atheris", module)
    monkeypatch.setenv("FUZZED_RECIPE", "")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tried


def test_the_fuzzer_begins_with_the_shipped_recipes_and_takes_errors(fuzzed, tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "broken.yaml").write_bytes(b"data: {kind: \xff")
    assert run_script(SCRIPTS / "fuzz", "--runs", "1", "--corpus", str(tmp_path / "corpus")) == 0
    assert {"broken.yaml", "digits.yaml", "images.yaml"} <= set(fuzzed)


def test_every_mutation_has_its_one_place():
    script = load_script(SCRIPTS / "mutants")
    for mutant in script.MUTANTS:
        text = (ROOT / "src" / "tutelage" / mutant.file).read_text(encoding="utf-8")
        assert text.count(mutant.old) == 1, f"{mutant.what}: mend the list in scripts/mutants"
        assert mutant.new != mutant.old
        assert (ROOT / mutant.tests).exists(), mutant.what


def test_a_mutation_is_made_tried_and_taken_back(monkeypatch, capsys):
    seen: list[str] = []

    def turns_red(folder, *tests) -> str:
        file = folder / "src" / "tutelage" / "losses" / "divergences.py"
        seen.append(file.read_text(encoding="utf-8"))
        return "" if len(seen) == 1 else "test_that_failed"

    def copied_tree(folder) -> None:
        file = folder / "src" / "tutelage" / "losses" / "divergences.py"
        file.parent.mkdir(parents=True)
        source = ROOT / "src" / "tutelage" / "losses" / "divergences.py"
        file.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")

    script = load_script(SCRIPTS / "mutants")
    monkeypatch.setattr(script, "turns_red", turns_red)
    monkeypatch.setattr(script, "copied_tree", copied_tree)
    monkeypatch.setattr(sys, "argv", ["mutants", "mean over classes"])
    assert script.main() == 0
    assert "(teacher * gap).mean(dim=-1)" in seen[1]
    assert "1 of 1 mutations turn a test red." in capsys.readouterr().out
