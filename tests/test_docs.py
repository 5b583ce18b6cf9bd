"""The pages say what the code says."""

import importlib.machinery
import importlib.util
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from tutelage.config.schema import Recipe
from tutelage.losses import LOSSES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("docs_script", str(ROOT / "scripts" / "docs"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def copy(script, tmp_path, monkeypatch):
    """The script with a page of its own."""
    page = tmp_path / "recipes.md"
    shutil.copy(PAGE, page)
    monkeypatch.setattr(script, "PAGE", page)
    return page


def call(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["docs", *arguments])
    return script.main()


def test_the_page_of_recipes_is_up_to_date(script):
    text = PAGE.read_text(encoding="utf-8")
    assert script.filled(text) == text, "docs/recipes.md is stale. Run scripts/docs."


def test_a_stale_page_is_found_and_mended(script, copy, monkeypatch, capsys):
    whole = copy.read_text(encoding="utf-8")
    copy.write_text(whole.replace("Passes over the training data", "Something else"), "utf-8")
    assert call(script, monkeypatch, "--check") == 1
    assert "is stale. Run scripts/docs" in capsys.readouterr().err
    assert call(script, monkeypatch) == 0
    assert copy.read_text(encoding="utf-8") == whole
    assert call(script, monkeypatch, "--check") == 0


def test_a_table_without_its_place_is_an_error(script):
    text = PAGE.read_text(encoding="utf-8").replace("<!-- begin train -->", "")
    with pytest.raises(SystemExit, match="no place for 'train'"):
        script.filled(text)


def test_a_usual_value_of_no_field_is_an_error(script, monkeypatch):
    monkeypatch.setattr(script, "USUAL", {"Train.epochz": "20"})
    with pytest.raises(SystemExit, match=r"USUAL names no field: Train\.epochz"):
        script.filled(PAGE.read_text(encoding="utf-8"))


def test_every_model_of_the_schema_has_a_table(script):
    named = {"Recipe", *Recipe.model_json_schema()["$defs"]}
    shown = {model.__name__ for model in script.MODELS.values()}
    assert named - shown == {"Views"}


def test_the_recipes_on_the_page_are_recipes():
    for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        Recipe.model_validate(yaml.safe_load(block))


def test_the_losses_on_the_page_are_losses():
    text = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)` \|", text[text.index("| `loss` |") :], re.MULTILINE)
    assert {"kd", "logit_mse", "cross_entropy"} <= {*named} & LOSSES.keys()
