"""DOT: two momenta, by hand and within a training."""

import copy

import pytest
import torch
from torch import nn

from tutelage.engine import Distiller, OptimizerSettings, TrainingModule, TrainSettings
from tutelage.engine.dot import DOT
from tutelage.errors import ConfigError
from tutelage.losses import KD, CrossEntropy
from tutelage.tasks import Classification
from tutelage.teachers import ModuleTeacher
from tutelage.types import Batch

TASK = Classification(num_classes=3)


def train(settings, steps=6):
    torch.manual_seed(0)
    student = nn.Linear(4, 3)
    teacher = ModuleTeacher(nn.Linear(4, 3), TASK, chunk=8)
    trainee = TrainingModule(student, 1.0 * CrossEntropy() + 2.0 * KD(temperature=2), TASK)
    optimizer = settings.build(trainee.parameters())
    distiller = Distiller(trainee, teacher, optimizer)
    ids = torch.arange(8)
    for _ in range(steps):
        distiller.step(Batch(torch.randn(8, 4), ids % 3, ids, ids))
    return student.weight.detach()


def test_without_a_difference_it_is_sgd():
    dot = train(OptimizerSettings(kind="dot", lr=0.1, delta=0.0, weight_decay=0.01))
    sgd = train(OptimizerSettings(kind="sgd", lr=0.1, weight_decay=0.01))
    torch.testing.assert_close(dot, sgd, atol=1e-6, rtol=1e-5)


def test_with_a_difference_it_is_another():
    dot = train(OptimizerSettings(kind="dot", lr=0.1, delta=0.075))
    sgd = train(OptimizerSettings(kind="sgd", lr=0.1))
    assert not torch.allclose(dot, sgd, atol=1e-3)


def test_two_steps_by_hand():
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = DOT([weight], lr=0.1, momentum=0.9, delta=0.1)
    for task, rest in ((2.0, 3.0), (5.0, 7.0)):
        loss = task * weight.sum()
        optimizer.take(loss)
        (loss + rest * weight.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    # momenta 2 and 3; then 0.8 · 2 + 5 = 6.6 and 1.0 · 3 + 7 = 10
    assert weight.item() == pytest.approx(1 - 0.1 * (2 + 3) - 0.1 * (6.6 + 10))


def test_its_momenta_are_kept_and_put_back():
    def steps(weight, optimizer, count):
        for number in range(count):
            loss = (weight**2).sum() * (number + 1)
            optimizer.take(0.3 * loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    first = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = DOT([first], lr=0.01)
    steps(first, optimizer, 3)
    second = nn.Parameter(first.detach().clone())
    other = DOT([second], lr=0.01)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(first, optimizer, 2)
    steps(second, other, 2)
    assert torch.equal(first, second)


def test_a_task_of_weight_zero_has_no_gradient_to_take():
    weight = nn.Parameter(torch.ones(1))
    optimizer = DOT([weight], lr=0.1)
    optimizer.take(torch.zeros(()))
    weight.sum().backward()
    optimizer.step()
    assert weight.item() == pytest.approx(0.9)


def test_clipping_is_refused_with_it():
    with pytest.raises(ConfigError, match="'dot' needs the gradients as they are"):
        TrainSettings(clip_norm=1.0, optimizer=OptimizerSettings(kind="dot"))
