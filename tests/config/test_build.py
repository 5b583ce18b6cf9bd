"""What a recipe becomes where it leaves something out."""

import pytest

from tutelage.config.schema import Recipe


@pytest.mark.parametrize(
    ("task", "loss"),
    [("classification", "kd"), ("regression", "value_mse"), ("multi_label", "binary_kd")],
)
def test_a_recipe_without_terms_distils_as_its_task_does(tmp_path, task, loss):
    content = {
        "task": task,
        "data": {"kind": "arrays", "path": str(tmp_path)},
        "teacher": {"model": "mlp", "training": {}},
        "student": {"model": "mlp"},
        "output": str(tmp_path / "run"),
    }
    recipe = Recipe.model_validate(content)
    assert [term.loss for term in recipe.objective.terms] == [loss]
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    own = Recipe.model_validate(content | {"task": "mine:Task"})
    assert own.objective.terms is None
