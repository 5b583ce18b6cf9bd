"""The catalogue says of every loss what its documentation says, and the page is up to date."""

import json
from pathlib import Path

import pytest

from tutelage import methods
from tutelage.cli.app import app
from tutelage.losses import FAMILIES, LOSSES
from tutelage.methods import as_markdown, describe_method, list_methods

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"


def test_every_loss_is_listed_once():
    names = [method.name for method in list_methods()]
    assert sorted(names) == sorted(LOSSES)
    assert len(names) == sum(len(family) for family in FAMILIES.values())


@pytest.mark.parametrize("name", LOSSES)
def test_a_method_has_all_that_a_reader_needs(name):
    method = describe_method(name)
    assert method.summary.endswith(".")
    assert method.advice.endswith(".")
    assert method.needs
    assert any(year in method.source for year in map(str, range(1990, 2027)))
    assert all(setting.meaning for setting in method.settings)


def test_sections_of_a_docstring_end_up_in_their_fields():
    method = describe_method("fitnets")
    assert (method.family, method.needs) == ("feature", ("features",))
    assert [setting.name for setting in method.settings] == ["student_layer", "teacher_layer"]
    assert method.settings[0].default is None
    assert method.settings[1].default == "None"
    assert method.settings[1].meaning.startswith("Gives the same kind;")
    assert method.usual_weight == "100."
    assert method.source.startswith("Romero et al. 2014")
    assert method.differs.startswith("The mean over all elements")


def test_what_was_measured_stands_beside_the_method(monkeypatch):
    board = {
        "title": "Suite",
        "num_train": 8000,
        "epochs": 4,
        "standings": [
            {
                "method": "dkd",
                "last": [{"accuracy": 0.8}, {"accuracy": 0.82}],
                "over_baseline": [0.01, 0.005, 0.015],
                "over_kd": None,
            }
        ],
    }
    monkeypatch.setattr(methods, "_leaderboards", lambda: [board])
    assert describe_method("dkd").measured == (
        "Suite: 81.00 %, +1.00 [+0.50, +1.50] over labels alone (8,000 samples, 4 epochs)",
    )
    assert describe_method("kd").measured == ()


def test_the_page_is_what_the_losses_say():
    assert PAGE.read_text() == as_markdown(list_methods()), (
        "docs/methods.md is stale: tutelage methods --markdown > docs/methods.md"
    )


def test_the_command_prints_json_for_programs(capsys):
    app(["methods", "kd", "--json"], standalone_mode=False)
    (method,) = json.loads(capsys.readouterr().out)
    assert method["name"] == "kd"
    assert method["settings"][0]["default"] == "4.0"
