"""Recipes that name data, views, codecs, optimizers, schedules and targets of one's own."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tutelage.config import build_job, read_recipe
from tutelage.config.resolved import own_files, resolved
from tutelage.engine import OptimizerSettings, ScheduleSettings
from tutelage.engine.checkpoint import Progress, load_checkpoint, save_checkpoint
from tutelage.errors import ConfigError, DataError, TutelageError
from tutelage.models.strangers import without_own_code
from tutelage.pipeline import reopen, run_job
from tutelage.pipeline.training import _fingerprinted_settings

OWN = Path(__file__).parent.parent / "own_objects.py"
sys.path.insert(0, str(OWN.parent))
import own_objects  # noqa: E402

RECIPE = {
    "data": {"kind": "own_objects.py:load", "count": 240, "noise": 0.8},
    "views": {"kind": "own_objects.py:Jitter", "size": 0.3},
    "teacher": {
        "model": "own_objects.py:network",
        "settings": {"width": 32},
        "training": {"train": {"epochs": 3}},
    },
    "student": {"model": "own_objects.py:network", "settings": {"width": 4}},
    "train": {"epochs": 2, "batch_size": 32},
    "optimizer": {"kind": "own_objects.py:Signs", "lr": 0.003, "options": {"beta": 0.95}},
    "schedule": {"kind": "own_objects.py:triangle", "options": {"floor": 0.05}},
    "cache": {"codec": "own_objects.py:Halves"},
    "export": {"targets": ["onnx", "own_objects.py:Npz"]},
    "measure": {"seconds": 0.2, "batch_sizes": [1]},
    "seeds": [0],
}


@pytest.fixture
def job_of(tmp_path):
    shutil.copy(OWN, tmp_path / "own_objects.py")

    def make(**changes):
        content = {**RECIPE, "output": str(tmp_path / "runs/own"), **changes}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
        return build_job(read_recipe(tmp_path / "mine.yaml"), folder=tmp_path)

    return make


def test_a_run_of_nothing_but_own_objects_ends_in_a_verdict_and_a_file(job_of, tmp_path):
    job = job_of()
    assert job.splits.class_names == ("ash", "birch", "cedar")
    assert (len(job.splits.train), len(job.splits.valid), len(job.splits.test)) == (240, 60, 90)
    finished = run_job(job)
    assert finished.record.verdict is not None
    assert (tmp_path / "runs/own/export/student.npz").is_file()
    assert (tmp_path / "runs/own/code/own_objects.py").is_file()
    rows = {row.file: row for row in finished.record.parity}
    assert rows["student.npz"].max_abs_difference < 1e-4


def test_a_finished_run_is_not_opened_with_its_code(job_of, tmp_path):
    job = job_of(baseline=False)
    run_job(job)
    folder = tmp_path / "runs/own"
    with (
        without_own_code(folder / "recipe.yaml"),
        pytest.raises(ConfigError, match=r"data kind .*own_objects.py.*--allow-code"),
    ):
        reopen.reopen(folder)
    assert reopen.reopen(folder).record.name == "own"


def test_a_recipe_keeps_the_paths_of_its_files_relative_to_the_run(job_of, tmp_path):
    job_of()
    recipe = read_recipe(tmp_path / "mine.yaml")
    content = resolved(recipe, tmp_path)
    file = "../../own_objects.py"
    assert content["data"]["load"] == f"{file}:load"
    assert content["views"]["kind"] == f"{file}:Jitter"
    assert content["optimizer"]["kind"] == f"{file}:Signs"
    assert content["cache"]["codec"] == f"{file}:Halves"
    assert content["export"]["targets"] == ["onnx", f"{file}:Npz"]
    assert own_files(recipe, tmp_path) == (tmp_path / "own_objects.py",)


def test_the_folder_of_a_file_is_not_in_the_fingerprint(job_of, tmp_path):
    found = _fingerprinted_settings(job_of().settings)
    assert found["optimizer"]["kind"] == "own_objects.py:Signs"
    assert found["schedule"]["kind"] == "own_objects.py:triangle"


def test_training_data_alone_are_split(job_of):
    job = job_of(data={"kind": "own_objects.py:pairs", "valid_fraction": 0.2, "seed": 3})
    sizes = [len(part) for part in (job.splits.train, job.splits.valid, job.splits.test)]
    assert sizes == [86, 22, 12]
    assert job.splits.class_names == ("0", "1", "2")
    assert any("No test part was given: 10%" in note for note in job.notes)


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"data": {"kind": "own_objects.py:nothing"}}, DataError, "own_objects.py:nothing.* None"),
        (
            {"data": {"kind": "own_objects.py:load", "coun": 3}},
            TutelageError,
            "setting of data kind .*'coun'.*'count'",
        ),
        ({"data": {"kind": "own_objects.py:lod"}}, ConfigError, "no function or class 'lod'.*load"),
        ({"views": {"kind": "own_objects.py:network"}}, ConfigError, "views .*cannot be made"),
        ({"views": {"kind": "own_objects.py:nothing"}}, ConfigError, "not a tutelage.ViewPolicy"),
        ({"views": {"kind": "own_objects.py:Nameless"}}, ConfigError, "fingerprint of Nameless"),
        (
            {"views": {"kind": "own_objects.py:Jitter", "num_views": 0}},
            ConfigError,
            "num_views of Jitter is 0",
        ),
        ({"cache": {"codec": "own_objects.py:Jitter"}}, ConfigError, "is no codec.*name"),
        ({"export": {"targets": ["own_objects.py:Halves"]}}, ConfigError, "is no target"),
        ({"optimizer": {"kind": "own_objects.py:Halves"}}, ConfigError, "no subclass of torch.opt"),
        ({"optimizer": {"kind": "LBFGS"}}, ConfigError, "LBFGS.*needs a closure"),
        ({"optimizer": {"kind": "RMSprop", "options": {"alfa": 1}}}, TutelageError, "'alpha'"),
        ({"optimizer": {"kind": "RMSprop", "nesterov": True}}, ConfigError, "optimizer.nesterov"),
        (
            {"optimizer": {"kind": "own_objects.py:TwoRates", "weight_decay": 0.1}},
            ConfigError,
            "TwoRates has none",
        ),
        ({"schedule": {"kind": "own_objects.py:below_zero"}}, ConfigError, "it gives -0.02 times"),
        ({"schedule": {"kind": "StepLR"}}, ConfigError, "StepLR.*step_size"),
        ({"schedule": {"kind": "ReduceLROnPlateau"}}, TutelageError, "Unknown schedule"),
        ({"schedule": {"kind": "cosine", "options": {"a": 1}}}, ConfigError, "takes none"),
    ],
)
def test_what_cannot_be_used_is_refused_before_training(job_of, changes, kind, text):
    with pytest.raises(kind, match=text):
        job_of(**changes).settings.optimizer.build([torch.nn.Parameter(torch.ones(2))] * 1)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cache": {"codec": "own_objects.py:Forgetful"}}, "forgetful: encode must give"),
        ({"views": {"kind": "own_objects.py:ByPlace"}}, "differs with its place in the batch"),
        ({"optimizer": {"kind": "own_objects.py:Listing"}}, "keeps 'seen', a list"),
        ({"optimizer": {"kind": "SparseAdam"}}, "its step fails.*dense"),
    ],
)
def test_what_shows_in_a_trial_is_refused_before_training(job_of, changes, text):
    with pytest.raises(TutelageError, match=text):
        run_job(job_of(**changes))


# Optimizers and schedules.


def steps(optimizer, weights, numbers):
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("kind", [own_objects.Signs, "NAdam", "RAdam", "Adagrad", "ASGD", "Rprop"])
def test_a_checkpoint_holds_all_state_of_an_optimizer(kind, tmp_path):
    settings = OptimizerSettings(kind, lr=0.01)

    def make():
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 2)
        return network, settings.build(network.parameters())

    network, optimizer = make()
    steps(optimizer, [*network.parameters()], range(6))
    again, resumed = make()
    steps(resumed, [*again.parameters()], range(3))
    save_checkpoint(tmp_path / "c", {"student": again}, resumed, Progress(step=3), "k")
    fresh, optimizer_of_fresh = make()
    assert load_checkpoint(tmp_path / "c", {"student": fresh}, optimizer_of_fresh, "k").step == 3
    for old, new in zip(resumed.state.values(), optimizer_of_fresh.state.values(), strict=True):
        for name in old:
            assert type(old[name]) is type(new[name])
            assert getattr(old[name], "dtype", None) == getattr(new[name], "dtype", None), name
    steps(optimizer_of_fresh, [*fresh.parameters()], range(3, 6))
    for one, other in zip(network.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, other)


def test_learning_rates_of_groups_keep_their_ratio(job_of):
    job = job_of(optimizer={"kind": "own_objects.py:TwoRates", "lr": 0.2}, cache=None)
    optimizer = job.settings.optimizer.build(torch.nn.Linear(2, 2).parameters())
    assert [group["initial_lr"] for group in optimizer.param_groups] == pytest.approx([0.02, 0.2])
    assert run_job(job).record.verdict is not None


def test_schedules_of_torch_are_followed_exactly():
    schedule = ScheduleSettings("OneCycleLR", options={"pct_start": 0.25})
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=40, pct_start=0.25, cycle_momentum=False
    )
    for step in range(40):
        assert schedule.factor(step, 40) == optimizer.param_groups[0]["lr"]
        optimizer.step()
        if step < 39:
            theirs.step()


def test_schedules_of_transformers_are_followed_exactly():
    transformers = pytest.importorskip("transformers")
    schedule = ScheduleSettings("transformers:polynomial", options={"num_warmup_steps": 4})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    theirs = transformers.get_scheduler("polynomial", optimizer, 4, 20)
    for step in range(20):
        assert schedule.factor(step, 20) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_warmup_comes_before_a_schedule_of_another_kind():
    schedule = ScheduleSettings(own_objects.triangle, warmup_steps=5, options={"floor": 0.0})
    assert [schedule.factor(step, 15) for step in (0, 4)] == [0.2, 1.0]
    assert schedule.factor(10, 15) == own_objects.triangle(5, 10, floor=0.0)
