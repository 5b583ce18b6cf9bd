import math

import pytest
import torch
import torch.nn.functional as F

from tutelage.errors import ConfigError, ShapeError, SignalError
from tutelage.losses import KD, CrossEntropy, LogitMSE
from tutelage.losses.divergences import (
    cross_entropy,
    kl_divergence,
    soft_cross_entropy,
    soften,
    squared_logit_distance,
)
from tutelage.types import Batch, Outputs


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(8, 10, generator=generator, dtype=torch.float64) * 3
    teacher = torch.randn(8, 10, generator=generator, dtype=torch.float64) * 3
    return student, teacher


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_kl_equals_a_slow_loop(logits, temperature):
    student, teacher = logits
    total = 0.0
    for z, v in zip(student.tolist(), teacher.tolist(), strict=True):
        q = [math.exp(x / temperature) for x in z]
        p = [math.exp(x / temperature) for x in v]
        for a, b in zip(p, q, strict=True):
            total += a / sum(p) * math.log((a / sum(p)) / (b / sum(q)))
    wanted = temperature**2 * total / len(student)
    assert float(kl_divergence(student, teacher, temperature)) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_gradient_is_temperature_times_the_gap(logits, temperature):
    student, teacher = logits
    student.requires_grad_()
    kl_divergence(student, teacher, temperature).backward()
    gap = soften(student.detach(), temperature) - soften(teacher, temperature)
    torch.testing.assert_close(student.grad, temperature * gap / len(student))


def test_kl_is_zero_at_equality_up_to_a_constant(logits):
    student, _ = logits
    assert float(kl_divergence(student, student + 5, 4.0)) == pytest.approx(0, abs=1e-14)


def test_high_temperature_is_logit_matching(logits):
    student, teacher = logits
    hot = float(kl_divergence(student, teacher, 1e4))
    assert hot == pytest.approx(float(squared_logit_distance(student, teacher)), rel=1e-3)


def test_gradcheck_in_float64(logits):
    student, teacher = logits
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: kl_divergence(z, teacher, 3.0), (student,))


def test_bf16_agrees_within_one_percent(logits):
    student, teacher = (tensor.bfloat16() for tensor in logits)
    exact = kl_divergence(student.double(), teacher.double(), 4.0)
    torch.testing.assert_close(
        kl_divergence(student, teacher, 4.0).double(), exact, rtol=1e-2, atol=1e-4
    )


def test_impossible_classes_give_no_nan(logits):
    student, teacher = (tensor.clone() for tensor in logits)
    student[:, 3] = teacher[:, 3] = -torch.inf
    teacher[:, 4] = -torch.inf
    student.requires_grad_()
    loss = kl_divergence(student, teacher, 2.0)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_masked_items_do_not_count(logits):
    student, teacher = logits
    mask = torch.tensor([True] * 5 + [False] * 3)
    wanted = kl_divergence(student[:5], teacher[:5], 4.0)
    torch.testing.assert_close(kl_divergence(student, teacher, 4.0, mask), wanted)
    assert float(kl_divergence(student, teacher, 4.0, torch.zeros_like(mask))) == 0


def test_cross_entropy_equals_torch(logits):
    labels = torch.arange(8)
    torch.testing.assert_close(cross_entropy(logits[0], labels), F.cross_entropy(logits[0], labels))


def test_textbook_example():
    student = torch.tensor([[-5.0, 2.0, 7.0, 9.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0006, 0.0171, 0.0466, 0.9375]], dtype=torch.float64)
    assert float(cross_entropy(student, torch.tensor([3]))) == pytest.approx(0.1277, abs=5e-5)
    assert float(soft_cross_entropy(student, teacher, 3.0)) == pytest.approx(0.5569, abs=5e-5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_wrong_temperature_is_refused(temperature):
    with pytest.raises(ConfigError, match="temperature must be above 0"):
        KD(temperature)


@pytest.mark.parametrize("loss", [KD(4.0), LogitMSE()])
def test_gradient_reaches_the_student_alone(loss):
    student = torch.randn(4, 5, requires_grad=True)
    teacher = torch.randn(4, 5, requires_grad=True)
    ids = torch.arange(4)
    batch = Batch(torch.zeros(4, 1), None, ids, ids)
    loss(Outputs(student), Outputs(teacher), batch).backward()
    assert student.grad is not None
    assert teacher.grad is None
    with pytest.raises(SignalError, match="needs a teacher"):
        loss(Outputs(student), None, batch)
    with pytest.raises(ShapeError, match="same classes"):
        loss(Outputs(student), Outputs(teacher[:, :3]), batch)
    with pytest.raises(SignalError, match="needs labels"):
        CrossEntropy()(Outputs(student), None, batch)
