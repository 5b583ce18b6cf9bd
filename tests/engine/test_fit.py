import copy
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from tutelage.data.loading import BatchBuilder, training_requests
from tutelage.data.sources import TensorSource
from tutelage.data.views import Shift
from tutelage.engine import (
    Arm,
    Distiller,
    OptimizerSettings,
    ScheduleSettings,
    TrainingModule,
    TrainSettings,
    fit,
)
from tutelage.engine.events import Advanced
from tutelage.errors import SignalError
from tutelage.inputs import ImageInputs
from tutelage.losses import KD, CrossEntropy
from tutelage.models.nets import cnn, mlp
from tutelage.tasks import Classification
from tutelage.teachers import ModuleTeacher
from tutelage.types import Batch

TASK = Classification(num_classes=4)
SGD = OptimizerSettings("sgd", lr=0.05, momentum=0.0)


@pytest.fixture(scope="module")
def source():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (48, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = (images.float().mean(dim=(1, 2, 3)) > 127).long() + 2 * (images[:, 0, 0, 0] > 127)
    return TensorSource(images, labels)


@pytest.fixture
def arm_of(source, tmp_path):
    def make(teacher="live", name="arm", objective=None, **settings):
        chosen = {"epochs": 2, "batch_size": 16, "optimizer": SGD} | settings
        return Arm(
            name="distilled",
            seed=3,
            objective=objective or 0.1 * CrossEntropy() + 0.9 * KD(4.0),
            task=TASK,
            settings=TrainSettings(**chosen),
            train=BatchBuilder(source, Shift(1), inputs=ImageInputs([0.5], [0.3]), num_classes=4),
            valid=BatchBuilder(source, inputs=ImageInputs([0.5], [0.3]), num_classes=4),
            teacher=a_teacher() if teacher == "live" else teacher,
            folder=tmp_path / name,
            key="k",
        )

    return make


def a_teacher():
    torch.manual_seed(7)
    return ModuleTeacher(cnn(4, width=8), TASK, chunk=16)


def a_student():
    torch.manual_seed(1)
    return mlp(4, image_size=8, hidden=(16,))


def states(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(value, second[key]) for key, value in first.items())


def slow_training(arm, student):
    """Plain SGD on the same batches, written out; yields the weights after every update."""
    settings = arm.settings
    step, total = 0, arm.total_steps
    for epoch in range(settings.epochs):
        requests = training_requests(
            len(arm.train), arm.train.views, batch_size=16, seed=arm.seed, epoch=epoch
        )
        for request in requests:
            batch = arm.train[request]
            lr = settings.optimizer.lr * settings.schedule.factor(step, total)
            student.zero_grad()
            logits, wanted = student(batch.inputs), arm.teacher.model(batch.inputs).detach()
            soft = nn.functional.kl_div(
                nn.functional.log_softmax(logits / 4, 1),
                nn.functional.log_softmax(wanted / 4, 1),
                reduction="batchmean",
                log_target=True,
            )
            hard = nn.functional.cross_entropy(logits, batch.labels)
            (0.1 * hard + 0.9 * 16 * soft).backward()
            with torch.no_grad():
                for parameter in student.parameters():
                    parameter -= lr * parameter.grad
            step += 1
            yield states(student)


def close(first, second):
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], rtol=1e-4, atol=1e-6)


def test_training_is_what_the_formula_says(arm_of):
    arm = arm_of(schedule=ScheduleSettings("cosine", warmup_steps=2))
    *_, wanted = slow_training(arm, a_student())
    fitted = fit(a_student(), arm)
    close(states(fitted.last), wanted)
    assert fitted.progress.step == arm.total_steps == 6


def test_the_average_is_the_weights_it_says(arm_of):
    arm, student, decay = arm_of(ema=0.7), a_student(), 0.7
    average = None
    for weights in slow_training(arm, student):
        # The first update copies the weights; from then on they fade in.
        average = (
            weights
            if average is None
            else {key: decay * average[key] + (1 - decay) * value for key, value in weights.items()}
        )
    close(states(fit(a_student(), arm).last), average)


def test_accumulating_two_halves_is_one_whole_batch(arm_of):
    arm = arm_of(batch_size=8, accumulate=2, schedule=ScheduleSettings("constant"), epochs=1)
    whole = arm_of(name="whole", schedule=ScheduleSettings("constant"), epochs=1)
    close(states(fit(a_student(), arm).last), states(fit(a_student(), whole).last))


@pytest.mark.parametrize(("accumulate", "updates"), [(4, [4, 2]), (6, [6]), (100, [6])])
def test_micro_steps_left_at_the_end_make_an_update_of_their_own_mean(arm_of, accumulate, updates):
    # 3 micro-steps an epoch and 2 epochs: updates go on over the end of the first epoch.
    constant = ScheduleSettings("constant")
    arm = arm_of(accumulate=accumulate, schedule=constant)
    student, lr = a_student(), arm.settings.optimizer.lr
    requests = iter(
        request
        for epoch in range(2)
        for request in training_requests(
            len(arm.train), arm.train.views, batch_size=16, seed=arm.seed, epoch=epoch
        )
    )
    for size in updates:
        totals = []
        for batch in [arm.train[next(requests)] for _ in range(size)]:
            trainee = TrainingModule(student, arm.objective, TASK)
            totals.append(trainee(batch, arm.teacher(batch)).total)
        student.zero_grad()
        torch.stack(totals).mean().backward()
        with torch.no_grad():
            for parameter in student.parameters():
                parameter -= lr * parameter.grad
    fitted = fit(a_student(), arm)
    close(states(fitted.last), states(student))
    assert fitted.progress.step == arm.total_steps == len(updates)


def test_an_own_loop_may_end_an_update_early(source):
    images, labels = source.fetch(torch.arange(16))
    batch = Batch(images / 255, labels, torch.arange(16), torch.zeros(16, dtype=torch.long))
    moved = []
    for accumulate, due in ((4, 1), (1, 1)):
        student = a_student()
        trainee = TrainingModule(student, 1.0 * CrossEntropy(), TASK)
        optimizer = torch.optim.SGD(trainee.parameters(), lr=0.1)
        accelerator = Accelerator(gradient_accumulation_steps=accumulate)
        distiller = Distiller(trainee, None, optimizer, accelerator)
        distiller.due = due
        distiller.step(batch)
        moved.append(states(student))
    assert not same(moved[0], states(a_student()))
    close(*moved)


@pytest.mark.parametrize("batch_size", [47, 2])
def test_batch_norm_trains_where_one_row_would_be_left(arm_of, source, batch_size):
    images, labels = source.fetch(torch.arange(47 if batch_size == 2 else 48))
    arm = replace(
        arm_of(batch_size=batch_size, epochs=1),
        train=BatchBuilder(TensorSource(images, labels), inputs=ImageInputs([0.5], [0.3])),
    )
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    progress = fit(net, arm).progress
    assert progress.step == arm.total_steps == {47: 1, 2: 23}[batch_size]


def test_clipping_bounds_one_update(arm_of):
    before = states(a_student())
    arm = arm_of(clip_norm=1e-3, epochs=1, batch_size=48, schedule=ScheduleSettings("constant"))
    after = states(fit(a_student(), arm).last)
    moved = torch.cat([(after[key] - value).flatten() for key, value in before.items()]).norm()
    assert float(moved) == pytest.approx(0.05 * 1e-3, rel=1e-2)


def test_bf16_trains_close_to_float32_with_weights_in_float32(arm_of):
    exact, low = (
        fit(a_student(), arm_of(name=precision, precision=precision))
        for precision in ("float32", "bf16")
    )
    assert {value.dtype for value in states(low.last).values()} == {torch.float32}
    assert not same(states(exact.last), states(low.last))
    for one, two in zip(exact.progress.curve, low.progress.curve, strict=True):
        assert two.train_loss == pytest.approx(one.train_loss, rel=0.02)


def test_the_curve_says_what_was_done(arm_of):
    events = []
    arm = arm_of(schedule=ScheduleSettings("step", milestones=(0.5,), gamma=0.1))
    progress = fit(a_student(), arm, events.append).progress
    assert [(p.epoch, p.step) for p in progress.curve] == [(1, 3), (2, 6)]
    assert [p.learning_rate for p in progress.curve] == pytest.approx([0.05, 0.005])
    for point in progress.curve:
        assert list(point.train_parts) == ["cross_entropy", "kd"]
        wanted = 0.1 * point.train_parts["cross_entropy"] + 0.9 * point.train_parts["kd"]
        assert point.train_loss == pytest.approx(wanted, rel=1e-6)
    assert [e.done for e in events if isinstance(e, Advanced)] == list(range(1, 7))


def test_the_network_of_the_best_epoch_is_kept(arm_of):
    # So large a rate makes the network worse again, so that the best epoch is not the last.
    arm = arm_of(
        epochs=8, optimizer=OptimizerSettings("sgd", lr=2.0), schedule=ScheduleSettings("constant")
    )
    fitted = fit(a_student(), arm)
    metrics = [point.valid_metric for point in fitted.progress.curve]
    best = max(epoch for epoch, m in enumerate(metrics, 1) if m == max(metrics))
    assert fitted.progress.best_epoch == best
    assert best < 8
    batch = arm.valid[torch.arange(48), torch.zeros(48, dtype=torch.long)]
    for network, metric in ((fitted.selected, max(metrics)), (fitted.last, metrics[-1])):
        assert not network.training
        hits = network(batch.inputs).argmax(dim=1) == batch.labels
        assert float(hits.double().mean()) == pytest.approx(metric)


def test_tensorboard_logs_hold_the_curve(arm_of):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    arm = arm_of(tensorboard=True)
    curve = fit(a_student(), arm).progress.curve
    log = accumulator.EventAccumulator(str(arm.folder / "tensorboard")).Reload()
    found = {tag: [(e.step, e.value) for e in log.Scalars(tag)] for tag in log.Tags()["scalars"]}
    assert found["train/loss"] == [(p.step, pytest.approx(p.train_loss)) for p in curve]
    assert found["train/kd"] == [(p.step, pytest.approx(p.train_parts["kd"])) for p in curve]
    assert found["valid/accuracy"] == [(p.step, pytest.approx(p.valid_metric)) for p in curve]
    assert {"train/learning_rate", "train/cross_entropy", "valid/loss"} <= set(found)


def test_no_logs_are_written_unless_asked_for(arm_of):
    arm = arm_of()
    fit(a_student(), arm)
    assert not (arm.folder / "tensorboard").exists()


def test_an_objective_that_nobody_can_serve_is_refused_before_the_first_step(arm_of):
    with pytest.raises(SignalError, match="'kd' needs logits, but the training data gives only"):
        fit(a_student(), arm_of(teacher=None))


def test_the_teacher_stays_as_it_is_through_a_training(arm_of):
    network = cnn(4, width=8).train()
    teacher = ModuleTeacher(network, TASK, chunk=16)
    before = states(network)
    arm = arm_of(teacher=teacher)
    fit(a_student(), arm)
    assert same(before, states(network))
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())


def test_the_trainee_holds_the_student_and_nothing_of_the_teacher(arm_of):
    arm = arm_of()
    student = a_student()
    trainee = TrainingModule(student, arm.objective, TASK)
    assert {id(p) for p in trainee.parameters()} == {id(p) for p in student.parameters()}
    assert all(key.startswith("student.") for key in trainee.state_dict())


def test_a_step_of_ones_own_loop_lowers_the_loss(source):
    objective = 0.1 * CrossEntropy() + 0.9 * KD(4.0)
    student, teacher = a_student(), a_teacher()
    trainee = TrainingModule(student, objective, TASK)
    distiller = Distiller(trainee, teacher, torch.optim.SGD(trainee.parameters(), lr=0.05))
    ids = torch.arange(48)
    images, labels = source.fetch(ids)
    batch = Batch(images / 255, labels, ids, torch.zeros_like(ids))
    before = copy.deepcopy(student.state_dict())
    totals = [float(distiller.step(batch).total.detach()) for _ in range(3)]
    assert totals == sorted(totals, reverse=True)
    assert not same(before, student.state_dict())
    assert all(p.grad is None for p in teacher.model.parameters())
