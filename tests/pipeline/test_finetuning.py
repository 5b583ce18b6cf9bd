"""Fine-tuning for eight bits goes on where the training ended."""

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tutelage.config import build_job, read_recipe
from tutelage.engine.events import ignore
from tutelage.errors import RunFolderError
from tutelage.pipeline import training
from tutelage.pipeline.finetuning import finetune_stage
from tutelage.pipeline.run import live_teacher
from tutelage.pipeline.training import ADAPTERS, arm_stage, teacher_stage

HINT = {"loss": "fitnets", "weight": 1.0, "student_layer": "hidden1", "teacher_layer": "hidden1"}
RECIPE = {
    "data": {"kind": "digits"},
    "teacher": {"model": "mlp", "training": {"train": {"epochs": 1}}},
    "student": {"model": "mlp", "settings": {"hidden": [16]}},
    "objective": {"task_weight": 1.0, "terms": [HINT]},
    "train": {"epochs": 1},
    "seeds": [0],
    "cache": None,
    "export": {"int8": ["minmax"], "finetune": {"train": {"epochs": 1}}},
}


@pytest.fixture
def trained(tmp_path):
    """A job, its teacher and its student, trained with an adapter."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "output": str(tmp_path / "run")}))
    job = build_job(read_recipe(path))
    teacher = live_teacher(job, teacher_stage(job, ignore))
    return job, teacher, arm_stage(job, "distilled", 0, job.objective, teacher, ignore)


def test_fine_tuning_begins_with_the_adapters_that_the_training_ended_with(trained, monkeypatch):
    job, teacher, student = trained
    ended = load_file(job.out / "arms" / "distilled" / "seed-0" / ADAPTERS)
    assert ended
    begun, fit = {}, training.fit

    def spy(network, arm, listener):
        begun.update({name: value.clone() for name, value in arm.objective.state_dict().items()})
        return fit(network, arm, listener)

    monkeypatch.setattr(training, "fit", spy)
    finetune_stage(job, student, teacher, ignore)
    assert begun.keys() == ended.keys()
    assert all(torch.equal(value, ended[name]) for name, value in begun.items())
    moved = load_file(job.out / "arms" / "finetuned" / "seed-0" / ADAPTERS)
    assert not all(torch.equal(value, ended[name]) for name, value in moved.items())


def test_a_training_whose_adapters_were_not_kept_cannot_be_gone_on_from(trained):
    job, teacher, student = trained
    (job.out / "arms" / "distilled" / "seed-0" / ADAPTERS).unlink()
    with pytest.raises(RunFolderError, match=r"adapters were kept\. Remove .*stamp\.json to train"):
        finetune_stage(job, student, teacher, ignore)
