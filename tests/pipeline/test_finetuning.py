"""Fine-tuning for int8 goes on where the training ended."""

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tutelage.config import build_job, read_recipe
from tutelage.engine.events import Advanced, ignore
from tutelage.engine.fit import _Loop
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


def test_fine_tuning_begins_with_the_adapters_that_the_training_left(trained, monkeypatch):
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


class Stopped(Exception):
    """The program is gone."""


@pytest.mark.parametrize("stops", [False, True], ids=["at once", "stopped and gone on"])
def test_adapters_are_those_of_the_epoch_that_the_student_is_of(tmp_path, monkeypatch, stops):
    path = tmp_path / "recipe.yaml"
    changes = {"output": str(tmp_path / "run"), "train": {"epochs": 3, "checkpoint_s": 0.0}}
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    job = build_job(read_recipe(path))
    teacher = live_teacher(job, teacher_stage(job, ignore))
    seen = []

    def worse_each_time(loop, judged):
        seen.append((cloned(judged), cloned(loop.trainee.objective)))
        return 1.0 / len(seen), 0.0

    def stop(event):
        if isinstance(event, Advanced) and len(seen) == 2:
            raise Stopped

    monkeypatch.setattr(_Loop, "_validate", worse_each_time)
    if stops:
        with pytest.raises(Stopped):
            arm_stage(job, "distilled", 0, job.objective, teacher, stop)
    trained = arm_stage(job, "distilled", 0, job.objective, teacher, ignore)
    assert len(seen) == 3 + stops  # the epoch after the last checkpoint is judged again
    (network, adapters), *_, (_, later) = seen
    kept = load_file(job.out / "arms" / "distilled" / "seed-0" / ADAPTERS)
    assert same(cloned(trained.selected), network)
    assert same(kept, adapters)
    assert not same(kept, later)


def cloned(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
