"""Trainings that go wrong are named, and what is good can be gone on from."""

import os
import resource
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tutelage.data.loading import BatchBuilder
from tutelage.data.sources import TensorSource
from tutelage.engine import (
    Arm,
    Distiller,
    OptimizerSettings,
    ScheduleSettings,
    TrainingModule,
    TrainSettings,
    fit,
)
from tutelage.engine.memory import in_parts_note, is_out_of_memory, oom_context
from tutelage.engine.watch import DEAD_LOOKS, ENOUGH, LOOK_EVERY, GradientWatch
from tutelage.errors import GradientError, OutOfMemoryError, TeacherChangedError, TrainingError
from tutelage.inputs import ImageInputs
from tutelage.losses import KD, CrossEntropy
from tutelage.models.nets import cnn, mlp
from tutelage.pipeline.stages import Clock
from tutelage.tasks import Classification
from tutelage.teachers import CachedTeacher, ModuleTeacher
from tutelage.teachers.build import build_cache, cache_key
from tutelage.teachers.codecs import make_codec
from tutelage.types import Batch

TASK = Classification(num_classes=4)
SGD = OptimizerSettings("sgd", lr=0.05)


def reader(count=70):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 4, (count,), generator=generator)
    return BatchBuilder(
        TensorSource(images, labels), inputs=ImageInputs([0.5], [0.3]), num_classes=4
    )


@pytest.fixture
def arm_of(tmp_path):
    def make(teacher=None, objective=None, **settings):
        chosen = {"epochs": 2, "batch_size": 16, "optimizer": SGD} | settings
        return Arm(
            name="distilled",
            seed=3,
            objective=objective or 1.0 * CrossEntropy(),
            task=TASK,
            settings=TrainSettings(**chosen),
            train=reader(),
            valid=reader(40),
            teacher=teacher,
            folder=tmp_path / "arm",
            key="k",
        )

    return make


def student():
    torch.manual_seed(1)
    return mlp(4, image_size=8, hidden=(16,))


def live(width=4):
    torch.manual_seed(7)
    return ModuleTeacher(cnn(4, width=width), TASK, chunk=16)


# Memory.


class Hungry(nn.Module):
    """A student that takes so much memory for each sample, and notes how many it was given."""

    def __init__(self, inner, per_row=0):
        super().__init__()
        self.inner = inner
        self.per_row = per_row
        self.rows = []

    def forward(self, inputs):
        if self.training:
            self.rows.append(len(inputs))
        torch.empty(len(inputs) * self.per_row, dtype=torch.uint8)
        return self.inner(inputs)


class Limited(Hungry):
    """A student whose training fails above so many rows, from its call number `after` on."""

    def __init__(self, inner, limit, error, after=0):
        super().__init__(inner)
        self.limit, self.error, self.after = limit, error, after

    def forward(self, inputs):
        logits = super().forward(inputs)
        if self.training and len(inputs) > self.limit and len(self.rows) > self.after:
            raise self.error
        return logits


@contextmanager
def at_most(more):
    """No more than so many bytes beyond what is mapped now."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def close(first, second):
    for key, value in second.state_dict().items():
        torch.testing.assert_close(first.state_dict()[key], value, rtol=1e-4, atol=1e-6)


def test_when_memory_really_runs_out_smaller_parts_learn_the_same(arm_of):
    """40 MB a sample and 400 MB in all: batches of 16 do not fit, smaller parts do."""
    arm = arm_of()
    hungry = Hungry(student(), per_row=40_000_000)
    with at_most(400_000_000):
        fitted = fit(hungry, arm)
    assert fitted.progress.parts in (2, 4, 8)
    assert hungry.rows.count(16) == 1
    close(fitted.last.inner, fit(student(), replace(arm, folder=arm.folder / "whole")).last)


ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "changes", [{}, {"accumulate": 2}, {"optimizer": OptimizerSettings("dot")}]
)
def test_a_batch_that_does_not_fit_is_learned_in_parts(arm_of, error, changes):
    objective = 0.3 * CrossEntropy() + 0.7 * KD(4.0)
    arm = arm_of(live(), objective, **changes)
    fitted = fit(Limited(student(), 5, error), arm)
    assert fitted.progress.parts == 4
    close(fitted.last.inner, fit(student(), replace(arm, folder=arm.folder / "whole")).last)
    assert fitted.progress.curve[-1].train_loss == pytest.approx(
        fit(student(), replace(arm, folder=arm.folder / "w2")).progress.curve[-1].train_loss,
        rel=1e-4,
    )


def test_the_stage_in_which_memory_ran_out_is_named_once():
    clock = Clock()
    with pytest.raises(OutOfMemoryError, match=r"^export: out of memory"), clock.time("export"):
        raise MemoryError
    with pytest.raises(OutOfMemoryError, match=r"^baseline, seed 0: out of memory \(MemoryError"):  # noqa: SIM117
        with clock.time("arms"), oom_context("baseline, seed 0"):
            raise MemoryError


def test_batches_are_not_cut_below_what_batch_norm_needs(arm_of):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    with pytest.raises(OutOfMemoryError, match=r"distilled, seed 3: out of memory"):
        fit(Limited(net, 1, MemoryError()), arm_of())


def test_no_gradient_is_left_of_the_attempt_that_did_not_fit(arm_of):
    arm = arm_of(accumulate=3)
    fitted = fit(Limited(student(), 5, MemoryError(), after=1), arm)
    close(fitted.last.inner, fit(student(), replace(arm, folder=arm.folder / "whole")).last)


def test_memory_that_runs_out_late_loses_nothing_before_the_checkpoint(arm_of):
    arm = arm_of(epochs=3, checkpoint_s=0.0)
    late = Limited(student(), 8, MemoryError(), after=12)
    fitted = fit(late, arm)
    assert fitted.progress.parts == 2
    assert late.rows.count(16) == 2 * 4 + 3  # the first steps were not made again
    close(fitted.last.inner, fit(student(), replace(arm, folder=arm.folder / "whole")).last)


def test_one_sample_that_does_not_fit_is_an_error_that_says_so(arm_of):
    with pytest.raises(OutOfMemoryError, match=r"distilled, seed 3: out of memory .*batch_size"):
        fit(Limited(student(), 0, RuntimeError("CUDA error: out of memory")), arm_of())


def test_other_errors_are_not_taken_for_a_lack_of_memory(arm_of):
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"), oom_context("x"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_the_note_says_what_parts_change():
    note = in_parts_note("distilled, seed 0", 128, 4, cnn(4, width=4))
    assert "batches of 128 did not fit" in note
    assert "4 parts of 32" in note
    assert "batch norm: its statistics are of 32" in note
    assert "batch norm" not in in_parts_note("x", 128, 4, mlp(4, image_size=8))


# Gradients.


def test_exploding_gradients_are_named_before_they_are_taken():
    watch, model = GradientWatch(), student()
    for number in range(ENOUGH * LOOK_EVERY + 1):
        _give(model, 1.0 + 0.01 * (number % 7))
        watch.see(model, None)
    _give(model, 1.0)
    model.head.weight.grad.fill_(1e7)
    for _ in range(LOOK_EVERY - 1):
        watch.see(model, None)
    with pytest.raises(
        GradientError, match=r"explode: their norm is .*, .* is usual, and head\.weight"
    ):
        watch.see(model, None)


def _give(model, value):
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, value / weight.numel() ** 0.5)


def test_large_but_steady_gradients_are_left_alone():
    watch, model = GradientWatch(), student()
    for number in range(30 * LOOK_EVERY):
        _give(model, 1e-3 * 1.02**number)
        watch.see(model, None)


class Exploding(nn.Module):
    """Its loss is fine, its gradient is not: the square root of 0 has none."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.root = nn.Parameter(torch.zeros(4))

    def forward(self, inputs):
        return self.inner(inputs) + self.root.sqrt()


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_lost(arm_of):
    broken = Exploding(student())
    with pytest.raises(GradientError, match=r"the gradient of .*root is not finite in epoch 1"):
        fit(broken, arm_of())
    assert all(weight.isfinite().all() for weight in broken.parameters())


class Dead(nn.Module):
    """No unit is ever above 0."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(64, 8)
        self.out = nn.Linear(8, 4)
        nn.init.constant_(self.inner.bias, -1e6)

    def forward(self, inputs):
        return self.out(self.inner(inputs.flatten(1)).relu())


def test_a_student_that_gives_one_output_for_everything_is_named(arm_of):
    with pytest.raises(TrainingError, match=r"the student is dead: it gives the same outputs .*2"):
        fit(Dead(), arm_of(epochs=4))


def test_a_student_without_any_gradient_is_named(arm_of):
    class Cut(Dead):
        def forward(self, inputs):
            return 0 * super().forward(inputs) + inputs.flatten(1)[:, :4]

    with pytest.raises(
        GradientError, match=f"every gradient has been 0 for {DEAD_LOOKS * LOOK_EVERY}"
    ):
        fit(Cut(), arm_of(epochs=20))


# A teacher that changes.


class Meddling(nn.Module):
    """A student that writes into the teacher at one of its steps."""

    def __init__(self, teacher, at=3):
        super().__init__()
        self.inner = student()
        self.teachers = [teacher.model]
        self.at, self.calls = at, 0

    def forward(self, inputs):
        self.calls += 1
        if self.calls == self.at:
            with torch.no_grad():
                next(self.teachers[0].parameters()).add_(1e-3)
        return self.inner(inputs)


def test_a_teacher_that_changes_is_named_and_nothing_of_it_is_kept(arm_of):
    teacher = live()
    arm = arm_of(teacher, 1.0 * KD(4.0), checkpoint_s=0.0)
    with pytest.raises(TeacherChangedError, match=r"distilled, seed 3: the teacher changed"):
        fit(Meddling(teacher), arm)
    assert not list(arm.folder.glob("*.safetensors"))


def test_a_teacher_that_turns_into_noise_is_named_rather_than_the_loss(arm_of):
    teacher = live()
    meddler = Meddling(teacher)
    with torch.no_grad():
        next(teacher.model.parameters()).fill_(torch.nan)
    with pytest.raises(TeacherChangedError):
        fit(meddler, arm_of(teacher, 1.0 * KD(4.0)))


def test_a_cache_that_is_written_to_while_it_teaches_is_named(arm_of, tmp_path):
    teacher, codec = live(), make_codec("float32")
    arm = arm_of()
    build_cache(tmp_path / "cache", teacher, arm.train, codec, device=torch.device("cpu"))
    cached = CachedTeacher(tmp_path / "cache", cache_key(teacher, arm.train, codec))
    shard = tmp_path / "cache/shard-00000.safetensors"
    os.utime(shard)
    cached.check()
    with shard.open("rb+") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"12345678")
    os.utime(shard, (1, 1))
    with pytest.raises(TeacherChangedError, match=r"shard-00000.safetensors: the cache changed"):
        fit(student(), replace(arm, teacher=cached, objective=1.0 * KD(4.0)))


def test_a_steady_training_meets_none_of_this(arm_of):
    arm = arm_of(
        live(), 0.1 * CrossEntropy() + 0.9 * KD(4.0), schedule=ScheduleSettings("constant")
    )
    assert fit(student(), arm).progress.parts == 1


def test_parts_of_unequal_size_teach_what_the_whole_batch_teaches():
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(5)
    batch = Batch(
        torch.randn(5, 4, generator=generator), torch.tensor([0, 1, 2, 0, 1]), ids, ids * 0
    )
    learned = []
    for parts in (1, 2, 3):
        torch.manual_seed(0)
        network = nn.Linear(4, 3)
        trainee = TrainingModule(network, 1.0 * CrossEntropy(), Classification(3))
        optimizer = torch.optim.SGD(trainee.parameters(), lr=1.0)
        Distiller(trainee, None, optimizer, parts=parts).step(batch)
        learned.append(network.weight.detach())
    torch.testing.assert_close(learned[1], learned[0])
    torch.testing.assert_close(learned[2], learned[0])
