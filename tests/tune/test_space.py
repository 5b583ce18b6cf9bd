import pytest

from tutelage.config import build_job, read_recipe
from tutelage.config.schema import Recipe
from tutelage.errors import ConfigError, UnknownNameError
from tutelage.tune.space import GROUPS, applied, search_space

LAYERED = {
    "data": {"kind": "digits"},
    "teacher": {"model": "cnn", "settings": {"width": 8}, "training": {"train": {"epochs": 1}}},
    "student": {"model": "cnn", "settings": {"width": 4}},
    "objective": {
        "task_weight": 0.5,
        "terms": [
            {"loss": "kd", "weight": 2.0},
            {
                "loss": "attention_transfer",
                "weight": {"start": 0, "end": 8},
                "student_layers": ["stage1", "stage2"],
                "teacher_layers": ["stage1", "stage2"],
            },
        ],
    },
    "cache": None,
    "output": "runs/x",
}


def by_key(recipe, *groups):
    return {setting.key: setting for setting in search_space(recipe, groups)}


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion_mnist", "images"])
def test_a_recipe_s_own_values_are_within_what_is_searched(name):
    recipe = read_recipe(name)
    space = search_space(recipe)
    for setting in space:
        inside = setting.choices and setting.default in setting.choices
        assert inside or setting.low <= setting.default <= setting.high
    assert applied(recipe, space, {s.key: s.default for s in space}) == recipe


def test_groups_choose_what_is_searched():
    recipe = read_recipe("digits")
    assert list(by_key(recipe, "temperature")) == ["objective.terms.0.temperature"]
    assert set(by_key(recipe, "schedule")) == {
        "optimizer.lr",
        "schedule.kind",
        "schedule.warmup_steps",
    }
    assert set(by_key(recipe)) == set(by_key(recipe, *GROUPS))
    with pytest.raises(UnknownNameError, match=r"Unknown group of settings 'layer'.*layers"):
        search_space(recipe, ["layer"])
    with pytest.raises(ConfigError, match="nothing to search in layers"):
        search_space(recipe, ["layers"])


def test_a_default_temperature_is_searched_and_a_moving_weight_is_not():
    found = by_key(Recipe.model_validate(LAYERED))
    assert found["objective.terms.0.temperature"].default == 4.0
    assert "objective.terms.1.weight" not in found


def test_layers_are_searched_as_pairs_and_the_recipe_still_builds():
    recipe = Recipe.model_validate(LAYERED)
    space = search_space(recipe, ["layers"])
    assert space[0].choices == ("all", "stage1 and stage1 alone", "stage2 and stage2 alone")
    changed = applied(recipe, space, {space[0].key: "stage2 and stage2 alone"})
    job = build_job(changed)
    assert job.objective.terms[2].loss.student_layers == ("stage2",)
    assert applied(recipe, space, {space[0].key: "all"}) == recipe


def test_chosen_values_stand_in_the_recipe():
    recipe = read_recipe("digits")
    space = search_space(recipe, ["temperature", "weights"])
    chosen = {s.key: 2.5 if "temperature" in s.key else 0.5 for s in space}
    changed = applied(recipe, space, chosen)
    assert changed.objective.task_weight == changed.objective.terms[0].weight == 0.5
    assert build_job(changed).objective.temperature == 2.5
