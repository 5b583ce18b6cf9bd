"""Images out of a teacher: they fit what it knows, and leave it as it was."""

import copy

import pytest
import torch
from torch import nn

from tutelage.engine.inversion import Generator, InversionSettings, invert
from tutelage.errors import ConfigError, ModelError, UnknownNameError
from tutelage.models.nets import cnn, mlp

FEW = InversionSettings(steps=60, batch_size=30)
BY_GENERATOR = InversionSettings(kind="generator", steps=40, batch_size=30)
each_kind = pytest.mark.parametrize("settings", [FEW, BY_GENERATOR], ids=lambda s: s.kind)


@pytest.fixture(scope="module")
def teacher():
    """A small CNN that has learned where the light is."""
    torch.manual_seed(0)
    network = cnn(3, width=6)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(60):
        labels = torch.arange(48) % 3
        inputs = 0.3 * torch.randn(48, 1, 6, 6)
        for row, label in enumerate(labels.tolist()):
            inputs[row, :, :, 2 * label : 2 * label + 2] += 2
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()
    return network.eval()


@each_kind
def test_pictures_are_what_was_asked_for(teacher, settings):
    made = invert(teacher, 50, (1, 6, 6), 3, settings)
    assert made.inputs.shape == (50, 1, 6, 6)
    assert torch.equal(made.labels, torch.arange(50) % 3)
    assert (teacher(made.inputs).argmax(1) == made.labels).double().mean() > 0.9


@each_kind
def test_their_statistics_are_nearer_to_the_data_than_noise(teacher, settings):
    norm = teacher.stage1[1]
    seen = {}
    handle = norm.register_forward_pre_hook(lambda _, args: seen.update(inputs=args[0]))

    def distance(images):
        teacher(images)
        mean = seen["inputs"].mean(dim=(0, 2, 3))
        return float((mean - norm.running_mean).square().sum().detach())

    made = invert(teacher, 30, (1, 6, 6), 3, settings).inputs
    found, noise = distance(made), distance(torch.randn_like(made))
    handle.remove()
    assert found < 0.2 * noise


def test_the_teacher_is_left_as_it_was(teacher):
    teacher.train()
    teacher.head.weight.requires_grad_(requires_grad=False)
    before = copy.deepcopy(teacher.state_dict())
    invert(teacher, 4, (1, 6, 6), 3, InversionSettings(steps=2, batch_size=4))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert teacher.training
    assert not teacher.head.weight.requires_grad
    assert teacher.head.bias.requires_grad
    assert not teacher.stage1[1]._forward_pre_hooks
    teacher.eval()


@pytest.mark.parametrize("kind", ["pixels", "generator"])
def test_a_seed_gives_the_same_pictures(teacher, kind):
    few = InversionSettings(kind, steps=3, batch_size=4)
    first, second, other = (invert(teacher, 4, (1, 6, 6), 3, few, seed=s) for s in (1, 1, 2))
    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_what_is_drawn_elsewhere_does_not_change(teacher):
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    invert(teacher, 4, (1, 6, 6), 3, InversionSettings(steps=2, batch_size=4))
    assert torch.equal(torch.rand(3), wanted)


def test_no_batch_holds_a_single_picture(teacher):
    told = []
    few = InversionSettings("generator", steps=1, batch_size=4)
    made = invert(teacher, 9, (1, 6, 6), 3, few, progress=lambda *done: told.append(done))
    assert len(made) == 9
    assert told == [(3, 9), (6, 9), (9, 9)]


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 32, 32), (2, 7, 5), (1, 1, 1)])
def test_a_generator_makes_pictures_of_any_size_as_normalised_data_are(shape):
    torch.manual_seed(0)
    made = Generator(shape)(torch.randn(64, 64))
    assert made.shape == (64, *shape)
    if shape[1] % 4 == 0:  # others are cut out of larger ones
        torch.testing.assert_close(made.mean((0, 2, 3)), torch.zeros(shape[0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(made.var((0, 2, 3)), torch.ones(shape[0]), atol=0.02, rtol=0)


def test_a_teacher_without_statistics_tells_nothing():
    with pytest.raises(ModelError, match="no batch norm with running statistics"):
        invert(mlp(3, image_size=6), 4, (1, 6, 6), 3)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch_size": 1}, {"lr": 0.0}])
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(ConfigError, match="inversion: steps must be"):
        InversionSettings(**wrong)


def test_an_unknown_kind_is_refused_by_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'pixels'"):
        InversionSettings("pixel")
