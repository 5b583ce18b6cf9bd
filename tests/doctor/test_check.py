"""Every finding of the doctor, each on a job that has just that trouble."""

import os
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from tutelage.data.sources import SubsetSource, TensorSource
from tutelage.data.views import Identity
from tutelage.doctor import OK, PROBLEM, WARNING, check, preflight
from tutelage.engine.settings import ScheduleSettings, TrainSettings
from tutelage.errors import ConfigError, ModelError, RunFolderError, ShapeError, TutelageError
from tutelage.job import TeacherPlan, TransferPlan
from tutelage.losses import KD, CrossEntropy, FitNets, SimKD
from tutelage.losses.reuse import projector
from tutelage.models.nets import cnn, mlp
from tutelage.objective import Ramp
from tutelage.pipeline import run_job
from tutelage.report.remarks import few_samples_advice
from tutelage.tasks import Classification


def findings(job, about):
    return [(finding.level, finding.text) for finding in check(job) if finding.about == about]


def texts(job, level, about=None):
    found = [f for f in check(job) if f.level == level and about in (None, f.about)]
    return " ".join(finding.text for finding in found)


@pytest.fixture(scope="module")
def good_teacher(make_job, tmp_path_factory):
    """A teacher that is right about nearly everything."""
    plan = TeacherPlan(
        make=lambda: mlp(3, image_size=6, hidden=(24,)), train=TrainSettings(epochs=15)
    )
    folder = tmp_path_factory.mktemp("teacher")
    finished = run_job(make_job(folder, teacher=plan, seeds=(0,), codec=None, has_baseline=False))
    return finished.teacher.selected.eval()


@pytest.fixture
def job(make_job, tmp_path, good_teacher):
    return make_job(tmp_path / "run", teacher=TeacherPlan(make=lambda: good_teacher))


def taught_by(job, model):
    return replace(job, teacher=TeacherPlan(make=lambda: model))


def taught(job, make):
    return replace(job, make_student=make)


class Forward(nn.Module):
    """A network whose forward is a given function."""

    def __init__(self, function, inner=None):
        super().__init__()
        self.function = function
        self.inner = inner or mlp(3, image_size=6, hidden=(4,))

    def forward(self, inputs):
        return self.function(self.inner, inputs)


# All is well.


def test_a_good_job_has_no_problem_and_no_warning(job):
    gentle = 0.5 * CrossEntropy() + 0.5 * KD(temperature=2)
    found = check(replace(job, codec=None, objective=gentle))
    trouble = [finding.text for finding in found if finding.level != OK]
    assert all("A linear classifier on the inputs" in text for text in trouble), trouble
    about = {finding.about for finding in found}
    assert about >= {"output", "data", "student", "teacher", "time", "memory"}
    assert not (job.out / ".probe").exists()
    preflight(job)


def test_a_teacher_that_is_trained_here_is_said_so(make_job, tmp_path):
    job = make_job(tmp_path)
    assert (OK, "It is trained here before it teaches.") in findings(job, "teacher")


def test_nothing_is_changed_by_looking(job, good_teacher):
    before = {name: value.clone() for name, value in good_teacher.state_dict().items()}
    good_teacher.eval()
    check(job)
    assert all(
        torch.equal(value, before[name]) for name, value in good_teacher.state_dict().items()
    )
    assert not any(job.out.iterdir())


# Classes, shapes, networks that fail.


def test_a_student_with_another_class_count_is_a_problem(job):
    wrong = taught(job, lambda: mlp(5, image_size=6, hidden=(4,)))
    assert "shape (4, 5) for 4 samples; (4, 3) is needed" in texts(wrong, PROBLEM, "student")
    with pytest.raises(ShapeError, match=r"student: .*3.* is needed"):
        preflight(wrong)


def test_a_teacher_that_cannot_be_made_is_no_fault_of_the_student(job):
    def broken():
        raise ModelError("whole.pt: cannot be read as weights.")

    wrong = replace(job, teacher=replace(job.teacher, make=broken))
    assert any("whole.pt" in text for _, text in findings(wrong, "teacher"))
    assert not any("whole.pt" in text for _, text in findings(wrong, "student"))


def test_a_teacher_with_another_class_count_is_a_problem(job):
    wrong = taught_by(job, mlp(2, image_size=6, hidden=(4,)))
    assert "is needed, one logit a class" in texts(wrong, PROBLEM, "teacher")
    with pytest.raises(ShapeError, match=r"teacher: .* is needed"):
        preflight(wrong)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda inner, x: inner(x[:, :, :5]), "Forward failed on inputs of shape .* RuntimeError"),
        (lambda inner, x: {}["logits"], "Forward failed on inputs of shape .* KeyError"),
        (lambda inner, x: inner.layers(x), "Forward failed on inputs of shape .* AttributeError"),
        (lambda inner, x: 1 / 0, "Forward failed on inputs of shape .* ZeroDivisionError"),
        (lambda inner, x: (inner(x), x), "returned a tuple, not a tensor of logits"),
        (lambda inner, x: inner(x).mean(dim=0), r"returned shape \(3,\) for \d+ samples"),
        (lambda inner, x: inner(x)[:, :, None], r"returned shape \(\d+, 3, 1\)"),
    ],
)
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_forward_that_fails_or_gives_something_else_is_a_problem(job, role, function, message):
    network = Forward(function)
    wrong = taught(job, lambda: network) if role == "student" else taught_by(job, network)
    with pytest.raises(TutelageError, match=f"{role}: .*{message}"):
        preflight(wrong)
    assert re.search(message, texts(wrong, PROBLEM, role))


# One step of each training, and samples of each part.


def normed():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def only_in_eval(inner, inputs):
    """A network that is fine until it is trained."""
    return inner(inputs) if not inner.training else inner(inputs).exp_().log_().relu_().exp()


def test_batch_norm_on_batches_of_one_is_refused_before_any_training(job):
    wrong = replace(taught(job, normed), settings=replace(job.settings, batch_size=1))
    message = r"distilled, a first step of batch size 1: .*more than 1 value per channel"
    with pytest.raises(ModelError, match=message):
        preflight(wrong)
    assert "more than 1 value per channel" in texts(wrong, PROBLEM, "training")


def test_a_backward_that_fails_is_known_before_any_training(make_job, tmp_path, job):
    wrong = taught(job, lambda: Forward(only_in_eval))
    with pytest.raises(ModelError, match=r"distilled, a first step of .* inplace operation"):
        preflight(wrong)
    plan = TeacherPlan(make=lambda: Forward(only_in_eval), train=TrainSettings(epochs=1))
    with pytest.raises(ModelError, match=r"teacher, a first step of .* inplace operation"):
        preflight(make_job(tmp_path / "other", teacher=plan))


def test_a_student_of_which_the_objective_moves_nothing_is_refused(job):
    frozen = mlp(3, image_size=6, hidden=(4,)).requires_grad_(requires_grad=False)
    hint = 1.0 * CrossEntropy() + 1.0 * FitNets("hidden1", "hidden1")  # whose adapter can learn
    with pytest.raises(ConfigError, match="no weight of the student can be trained"):
        preflight(replace(taught(job, lambda: frozen), objective=hint, codec=None))


@pytest.mark.parametrize("part", ["valid", "test"])
def test_samples_that_a_network_cannot_take_are_found_in_every_part(job, part):
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    splits = replace(job.splits, **{part: TensorSource(images, torch.zeros(4, dtype=torch.long))})
    with pytest.raises(ModelError, match=f"student on {part} data, sample 0: .*shape"):
        preflight(job.on(splits))


def test_a_warm_up_longer_than_the_training_is_a_warning(job):
    schedule = ScheduleSettings(warmup_steps=8)  # 4 micro-steps an epoch, 2 epochs
    long = replace(job, settings=replace(job.settings, schedule=schedule))
    assert "never reaches optimizer.lr" in texts(long, WARNING, "training")
    short = replace(job, settings=replace(job.settings, schedule=replace(schedule, warmup_steps=7)))
    assert texts(short, WARNING, "training") == ""


@pytest.mark.parametrize(
    ("objective", "is_said"),
    [
        (0.1 * CrossEntropy() + 0.9 * KD(temperature=4), True),
        (0.1 * CrossEntropy() + 0.9 * KD(temperature=Ramp(8, 1)), True),
        (0.1 * CrossEntropy() + 0.9 * KD(temperature=2), False),
        (0.5 * CrossEntropy() + 0.5 * KD(temperature=4), False),
    ],
)
def test_few_samples_under_soft_targets_are_a_warning_with_settings(job, objective, is_said):
    found = texts(replace(job, objective=objective), WARNING, "objective")
    assert (found == few_samples_advice(len(job.splits.train))) == is_said
    assert ("temperature of 1 or 2" in found) == is_said


def test_many_samples_are_no_warning(job, monkeypatch):
    monkeypatch.setattr("tutelage.doctor.FEW_SAMPLES", len(job.splits.train))
    assert texts(job, WARNING, "objective") == ""


def test_a_student_that_is_no_smaller_is_a_warning(job):
    large = taught(job, lambda: mlp(3, image_size=6, hidden=(64,)))
    assert "It is no smaller" in texts(large, WARNING, "student")


def test_a_student_that_cannot_be_trained_is_a_problem(job):
    frozen = mlp(3, image_size=6, hidden=(4,)).requires_grad_(requires_grad=False)
    wrong = taught(job, lambda: frozen)
    assert "no parameter that can be trained" in texts(wrong, PROBLEM, "student")
    with pytest.raises(ConfigError, match="no weight of the student can be trained"):
        preflight(wrong)


def test_an_objective_of_weight_0_is_a_problem(job):
    wrong = replace(job, objective=0 * CrossEntropy() + 0 * KD(temperature=4))
    assert "no weight of the student can be trained" in texts(wrong, PROBLEM)
    with pytest.raises(ConfigError, match=r"objective: .* Give task_weight or a term a weight"):
        preflight(wrong)


# The teacher's state.


def test_a_teacher_given_in_train_mode_is_a_warning(job, good_teacher):
    good_teacher.train()
    assert "It was given in train mode" in texts(job, WARNING, "teacher")
    good_teacher.eval()
    assert "It was given in train mode" not in texts(job, WARNING, "teacher")


class Stubborn(nn.Module):
    """A part that stays in train mode whatever it is told."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def train(self, mode=True):
        return super().train(mode=True)

    def forward(self, inputs):
        return self.network(inputs)


def test_batch_norm_that_moves_while_teaching_is_a_problem(job):
    found = texts(taught_by(job, Stubborn(cnn(3, width=4))), PROBLEM, "teacher")
    assert "In train mode: " in found


def test_dropout_left_on_is_a_problem(job):
    moving = Stubborn(mlp(3, image_size=6, hidden=(24,), dropout=0.5))
    found = texts(taught_by(job, moving), PROBLEM, "teacher")
    assert "gives other logits for the same inputs in eval mode" in found


def test_parts_that_stay_in_train_mode_without_harm_are_a_warning(job, good_teacher):
    found = texts(taught_by(job, Stubborn(good_teacher)), WARNING, "teacher")
    assert "Parts stay in train mode" in found
    good_teacher.eval()


def test_a_teacher_no_better_than_chance_is_a_problem(job):
    constant = Forward(lambda inner, x: inner(x) * 0)
    found = texts(taught_by(job, constant), PROBLEM, "teacher")
    assert "no better than chance: 33.33% on 30 validation samples" in found
    assert "no better than chance" not in texts(job, PROBLEM)


def test_a_teacher_no_better_than_a_linear_baseline_is_a_warning(job, good_teacher):
    def often_wrong(inner, inputs):
        logits = good_teacher(inputs)
        swapped = logits.roll(1, dims=-1)
        every_third = torch.arange(len(inputs)) % 3 == 0
        return torch.where(every_third[:, None], swapped, logits)

    weak = Forward(often_wrong, inner=good_teacher)
    found = texts(taught_by(job, weak), WARNING, "teacher")
    assert "A linear classifier on the inputs reaches" in found
    assert "may be no better than the baseline" in found


def test_a_teacher_that_sees_more_than_a_linear_baseline_is_fine(job):
    """The class is the third that differs, be it brighter or darker."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    sign = 2 * torch.randint(0, 2, (90,), generator=generator) - 1
    inputs = torch.rand(90, 1, 6, 6, generator=generator)
    for number, label in enumerate(labels.tolist()):
        inputs[number, :, :, 2 * label : 2 * label + 2] += 2 * sign[number]
    data = TensorSource(inputs, labels)
    splits = replace(job.splits, train=data, valid=data, test=data, inputs=data.input_kind)

    def by_eye(inner, inputs):
        thirds = inputs.view(-1, 6, 3, 2).mean(dim=(1, 3))
        return 10 * (thirds - thirds.median(dim=1, keepdim=True).values).abs()

    seeing = replace(taught_by(job, Forward(by_eye)).on(splits), views=Identity())
    assert "linear classifier" not in texts(seeing, WARNING, "teacher")
    assert "100.00%" in texts(seeing, OK, "teacher")


# Data.


def test_a_label_out_of_range_is_a_problem_that_names_the_sample(job):
    inputs, labels = job.splits.valid.inputs, job.splits.valid.labels.clone()
    labels[11] = 3
    wrong = job.on(replace(job.splits, valid=TensorSource(inputs, labels)))
    assert "Sample 11 has label 3; allowed are 0 to 2" in texts(wrong, PROBLEM, "data")


def test_a_class_without_samples_is_a_warning(job):
    train = job.splits.train
    ids = (train.labels != 1).nonzero().squeeze(1)
    lacking = job.on(replace(job.splits, train=SubsetSource(train, ids)))
    assert "train: no sample of middle" in texts(lacking, WARNING, "data")


def test_skewed_classes_are_told_of_where_accuracy_leads(job):
    test = job.splits.test
    ids = torch.cat([(test.labels == 1).nonzero()[:14, 0], (test.labels != 1).nonzero()[:2, 0]])
    skewed = job.on(replace(job.splits, test=SubsetSource(test, ids)))
    message = "88% of the test samples are of one class"
    assert message in texts(skewed, WARNING, "data")
    assert message not in texts(job, WARNING, "data")
    task = Classification(3, "macro_f1")
    led = replace(skewed, problem=replace(skewed.problem, task=task))
    assert message not in texts(led, WARNING, "data")


def test_missing_validation_data_is_a_warning(job):
    lacking = job.on(replace(job.splits, valid=None))
    assert "There is no valid data" in texts(lacking, WARNING, "data")
    assert texts(lacking, PROBLEM) == ""


def test_samples_that_are_not_numbers_are_a_problem_and_no_traceback(job):
    parts = {
        name: TensorSource(source.inputs.float() / 255, source.labels)
        for name, source in (
            ("train", job.splits.train),
            ("valid", job.splits.valid),
            ("test", job.splits.test),
        )
    }
    for source in parts.values():
        source.inputs[3] = torch.nan
    wrong = replace(job.on(replace(job.splits, **parts)), views=Identity())
    assert "NaN" in texts(wrong, PROBLEM)


def test_data_without_labels_are_said_so(job):
    unlabelled = TensorSource(job.splits.train.inputs)
    lacking = job.on(replace(job.splits, train=unlabelled))
    assert "train: 60 samples without labels" in texts(lacking, WARNING, "data")


# Inputs.


def _pretrained(good_teacher, **configuration):
    model = Forward(lambda inner, x: inner(x), inner=good_teacher)
    model.pretrained_cfg = configuration
    return model.eval()


def test_a_teacher_of_another_input_size_is_a_warning(job, good_teacher):
    model = _pretrained(good_teacher, input_size=(1, 24, 24))
    found = texts(taught_by(job, model), WARNING, "inputs")
    assert "trained on 24 pixels, the data have 6. Set teacher.image_size: 24" in found
    same = _pretrained(good_teacher, input_size=(1, 6, 6))
    assert texts(taught_by(job, same), WARNING, "inputs") == ""


def test_a_teacher_of_another_normalisation_is_a_warning(job, good_teacher):
    model = _pretrained(good_teacher, input_size=(1, 6, 6), mean=(0.9,), std=(0.3,))
    found = texts(taught_by(job, model), WARNING, "inputs")
    assert "expects mean (0.9,), the data are normalised with (0.4,)" in found
    same = _pretrained(good_teacher, input_size=(1, 6, 6), mean=(0.4,), std=(0.3,))
    assert texts(taught_by(job, same), WARNING, "inputs") == ""


# Cost.


def test_time_and_memory_are_estimated_from_the_job(job):
    (time,) = findings(job, "time")
    assert "4 trainings of 8 steps" in time[1]
    (memory,) = findings(job, "memory")
    assert "(540 views)" in memory[1]
    live = replace(job, codec=None, has_baseline=False)
    assert "2 trainings of 8 steps" in texts(live, OK, "time")
    assert "live teaching" in texts(live, OK, "time")
    assert "views" not in texts(live, OK, "memory")


def test_a_slower_student_makes_a_longer_estimate(job):
    def slow(inner, inputs):
        import time

        time.sleep(0.05)
        return inner(inputs)

    (found,) = findings(taught(job, lambda: Forward(slow)), "time")
    shown = float(found[1].split("steps (")[1].split(" ms")[0])
    assert shown >= 50
    estimated = int(re.match(r"About (\d+) s for 4 trainings of 8 steps", found[1])[1])
    assert abs(estimated - 32 * shown / 1000) < 1  # the cache takes no time to speak of


# Output and codec.


def test_an_output_that_is_a_file_is_a_problem(job, tmp_path):
    (tmp_path / "file").write_text("")
    wrong = replace(job, out=tmp_path / "file")
    assert "is a file. Name a folder" in texts(wrong, PROBLEM, "output")
    with pytest.raises(RunFolderError, match="is a file"):
        preflight(wrong)


def test_an_output_that_cannot_be_written_is_a_problem(job, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    below = replace(job, out=tmp_path / "file" / "run")
    assert "cannot be written" in texts(below, PROBLEM, "output")
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        closed = replace(job, out=tmp_path / "closed" / "run")
        assert "cannot be written (Permission denied)" in texts(closed, PROBLEM, "output")


@pytest.mark.parametrize(
    ("codec", "message"),
    [("zip", "unknown codec 'zip'"), ("topk:0", "got 0"), ("topk:3", "keeps all 3 classes")],
)
def test_a_codec_that_cannot_work_fails_before_the_teacher_is_trained(job, codec, message):
    wrong = replace(job, codec=codec)
    assert message in texts(wrong, PROBLEM)
    with pytest.raises(ConfigError, match=message):
        preflight(wrong)


def test_every_trouble_is_told_and_not_only_the_first(job, tmp_path):
    (tmp_path / "file").write_text("")
    wrong = replace(
        taught(job, lambda: mlp(5, image_size=6, hidden=(4,))), out=tmp_path / "file", codec="zip"
    )
    about = {finding.about for finding in check(wrong) if finding.level == PROBLEM}
    assert {"output", "student"} <= about
    assert len(about) >= 3


def test_a_cache_of_more_views_than_are_ever_seen_is_a_warning(job):
    assert "9 views of each sample" in texts(job, WARNING, "cache")
    long = replace(job, settings=replace(job.settings, epochs=5))
    assert texts(long, WARNING, "cache") == ""
    assert texts(replace(job, codec=None), WARNING, "cache") == ""


def test_a_layer_that_a_loss_leaves_on_the_student_is_counted(job):
    def parameters(objective):
        (text,) = [t for _, t in findings(replace(job, objective=objective), "student")]
        return int(text.split()[0].replace(",", ""))

    job = replace(job, codec=None)
    bare = parameters(1.0 * CrossEntropy())
    between = sum(weight.numel() for weight in projector(4, 24, 2, is_map=False).parameters())
    own_head, teachers_head = 4 * 3 + 3, 24 * 3 + 3
    assert parameters(1.0 * SimKD()) == bare - own_head + between + teachers_head


def _fails():
    raise ModelError("cannot be made")


@pytest.mark.parametrize("look", [preflight, lambda job: texts(job, PROBLEM)])
def test_assistants_are_tried_before_any_training(job, look):
    job = replace(job, assistants=(job.make_student, _fails))
    if look is preflight:
        with pytest.raises(ModelError, match=r"assistants\[1\]: cannot be made"):
            preflight(job)
    else:
        assert "assistants[1]: cannot be made" in look(job)


def test_a_teacher_that_gives_no_pictures_is_seen_before_any_training(job):
    job = replace(job, transfer=TransferPlan(4))
    assert "no batch norm with running statistics" in texts(job, PROBLEM)
    with pytest.raises(ModelError, match=r"transfer: .* has no batch norm"):
        preflight(job)


def test_epochs_of_a_head_that_is_not_new_are_seen_before_any_training(job):
    plan = TeacherPlan(make=job.make_student, train=TrainSettings(epochs=1), head_epochs=1)
    assert "head_epochs: this network has no new head" in texts(replace(job, teacher=plan), PROBLEM)
