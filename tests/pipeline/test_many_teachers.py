"""Several teachers as one, and assistants between teacher and student."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tutelage.config import build_job, read_recipe
from tutelage.data.sources import TensorSource
from tutelage.doctor import check
from tutelage.engine.events import StageDone
from tutelage.errors import ConfigError, TutelageError
from tutelage.models.nets import mlp
from tutelage.pipeline import run_job
from tutelage.teachers.ensemble import Ensemble
from tutelage.teachers.module import InputAdapter, state_fingerprint


class Says(torch.nn.Module):
    """Always the same probabilities."""

    def __init__(self, *probabilities):
        super().__init__()
        self.logits = torch.tensor(probabilities).log()

    def forward(self, inputs):
        return self.logits.expand(len(inputs), -1) + 3.0  # softmax does not see the constant


def test_an_ensemble_averages_probabilities():
    together = Ensemble([Says(0.7, 0.2, 0.1), Says(0.1, 0.4, 0.5)])
    found = together(torch.zeros(2, 1)).softmax(1)
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.3, 0.3]] * 2))


def test_weights_of_an_ensemble_are_shares():
    together = Ensemble([Says(0.7, 0.2, 0.1), Says(0.1, 0.4, 0.5)], [3, 1])
    found = together(torch.zeros(1, 1)).exp()
    torch.testing.assert_close(found, torch.tensor([[0.55, 0.25, 0.2]]))


@pytest.mark.parametrize(("members", "weights"), [(0, None), (2, [1.0]), (2, [1.0, 0.0])])
def test_an_ensemble_that_makes_no_sense_is_refused(members, weights):
    with pytest.raises(ConfigError, match="at least one"):
        Ensemble([Says(0.5, 0.5) for _ in range(members)], weights)


def done(events):
    return [event.name for event in events if isinstance(event, StageDone)]


def test_every_teacher_is_trained_and_the_students_learn_from_all(make_job, tmp_path):
    job = make_job(tmp_path)
    second = replace(job.teacher, seed=5, weight=2.0)
    events = []
    finished = run_job(replace(job, co_teachers=(second,)), events.append)
    assert done(events)[:3] == ["teacher", "teacher 2", "teacher cache"]
    assert isinstance(finished.teacher.selected, Ensemble)
    assert finished.teacher.progress.best_metric is not None
    assert (tmp_path / "teacher-2/selected.safetensors").is_file()
    events.clear()
    again = run_job(replace(job, co_teachers=(second,)), events.append)
    trained = [event for event in events if isinstance(event, StageDone)]
    assert all(event.was_there for event in trained if "evaluation" not in event.name)
    assert again.record.teacher.last == finished.record.teacher.last


def test_an_assistant_stands_between_teacher_and_student(make_job, tmp_path):
    job = make_job(tmp_path)
    chain = replace(job, assistants=(lambda: mlp(3, image_size=6, hidden=(9,)), job.make_student))
    events = []
    finished = run_job(chain, events.append)
    names = done(events)
    assert names.index("assistant 1, seed 0") < names.index("assistant 2, seed 0")
    assert names.count("teacher cache") == 3
    plain = run_job(replace(job, out=tmp_path / "plain"))
    pairs = zip(finished.arms, plain.arms, strict=True)
    same = [
        torch.equal(a.last.state_dict()["head.weight"], b.last.state_dict()["head.weight"])
        for a, b in pairs
    ]
    assert same == [True, True, False, False]  # baselines do not change, the distilled do


def test_a_recipe_names_teachers_and_assistants(tmp_path):
    recipe = read_recipe(
        "digits",
        [
            f"output={tmp_path}",
            "co_teachers=[{model: mlp, training: {seed: 1}, weight: 0.5}]",
            "assistants=[{model: cnn, settings: {width: 8}}]",
        ],
    )
    job = build_job(recipe)
    assert [plan.weight for plan in job.teachers] == [1.0, 0.5]
    assert job.teachers[1].seed == 1
    assert isinstance(job.new_teacher(), Ensemble)
    assert len(job.assistants) == 1
    assert job.assistants[0]().stage1[0].out_channels == 8


def test_a_co_teacher_that_would_teach_noise_is_refused_with_its_place(tmp_path):
    recipe = read_recipe("digits", [f"output={tmp_path}", "co_teachers=[{model: mlp}]"])
    with pytest.raises(ConfigError, match=r"co_teachers\[0\]: it has neither weights nor"):
        build_job(recipe)


def test_weights_that_no_float_can_compare_are_refused():
    with pytest.raises(ConfigError, match=r"too far apart, or too large"):
        Ensemble([nn.Linear(2, 2), nn.Linear(2, 2)], [1e308, 1e308])


def test_a_normalisation_of_other_channels_is_refused_by_its_key(make_job, tmp_path):
    job = make_job(tmp_path)
    for mean, std, key in [((0.5, 0.5), (1.0,), "mean"), ((0.5,), (1.0, 1.0, 1.0), "std")]:
        wrong = replace(job.teacher, norm=(mean, std))
        with pytest.raises(ConfigError, match=rf"^teacher\.{key}: \d values, .* 1 channels"):
            run_job(replace(job, teacher=wrong))
        with pytest.raises(ConfigError, match=rf"^co_teachers\[0\]\.{key}: \d values"):
            run_job(replace(job, co_teachers=(wrong,)))


def test_one_value_normalises_every_channel(make_job, tmp_path):
    job = make_job(tmp_path)
    plan = replace(job.teacher, norm=((0.5,), (2.0,)))
    colour = replace(job.splits, train=TensorSource(torch.rand(2, 3, 4, 4)))
    expected = ((0.5, 0.5, 0.5), (2.0, 2.0, 2.0))
    assert replace(job, teacher=plan).on(colour).own_norm(plan) == expected


def test_what_is_done_to_a_teachers_inputs_and_answers_is_in_its_fingerprint():
    network = nn.Linear(2, 2)

    def adapted(mean):
        return InputAdapter(network, data_norm=None, own_norm=((mean,), (0.2,)))

    assert state_fingerprint(adapted(0.5)) == state_fingerprint(adapted(0.5))
    assert state_fingerprint(adapted(0.5)) != state_fingerprint(adapted(0.4))
    one, other = (Ensemble([network, network], [1.0, weight]) for weight in (1.0, 2.0))
    assert state_fingerprint(one) != state_fingerprint(other)


def test_vectors_are_normalised_by_their_features():
    adapter = InputAdapter(nn.Identity(), data_norm=None, own_norm=((1.0, 2.0), (1.0, 2.0)))
    torch.testing.assert_close(adapter(torch.tensor([[1.0, 4.0]])), torch.tensor([[0.0, 1.0]]))


class NotTrainable(nn.Module):
    """Runs, and gives no gradient."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(36, 3)

    def forward(self, inputs):
        return self.head(inputs.flatten(1)).detach()


def test_an_assistant_that_cannot_be_trained_is_refused_before_the_teacher_is(make_job, tmp_path):
    chain = replace(make_job(tmp_path), assistants=(NotTrainable,))
    with pytest.raises(TutelageError, match=r"^assistant 1, a first step"):
        run_job(chain)
    assert not (tmp_path / "teacher").exists()
    assert any("assistant 1" in finding.text for finding in check(chain))
