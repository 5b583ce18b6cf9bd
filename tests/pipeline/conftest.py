"""One run that delivers several targets and ways, shared because an export takes seconds."""

from dataclasses import replace

import pytest

from tutelage.config import build_job, read_recipe
from tutelage.pipeline import exporting, run_job

RECIPE = """
data: {kind: digits}
teacher:
  model: mlp
  settings: {hidden: [16]}
  training: {train: {epochs: 1}}
student: {model: mlp, settings: {hidden: [8]}}
train: {epochs: 2, batch_size: 64}
optimizer: {lr: 1.0e-2}
seeds: [0, 1]
baseline: false
measure: {batch_sizes: [1], seconds: 0.2, int8: minmax}
export:
  targets: [torch_export]
  int8: [dynamic]
  finetune: {train: {epochs: 1, batch_size: 64}}
  licences: {data: "BSD | 3-clause"}
"""


@pytest.fixture(scope="session")
def recipe_of_exports():
    """The run's recipe, but for its output."""
    return RECIPE


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The run and its folder; its students are poor, and may be."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.yaml").write_text(RECIPE + f"output: {folder / 'out'}\n")
    recipe = read_recipe(folder / "recipe.yaml")
    job = build_job(recipe, folder=folder, command="tutelage run it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "LEAST_AGREEMENT", 0.5)
        yield run_job(replace(job, has_report=False)), folder / "out"
