"""Losses of language models against formulas written out another way."""

import math

import pytest
import torch
from torch import Tensor

from tutelage.errors import ConfigError
from tutelage.losses import (
    KD,
    TAID,
    AdaptiveKL,
    AlphaBeta,
    JensenShannon,
    ReverseKL,
    SampledReverseKL,
    SkewKL,
    SkewReverseKL,
    TotalVariation,
)
from tutelage.losses.relation_kd import in_head
from tutelage.objective import Loss
from tutelage.types import Batch, Outputs, SparseLogits

ROWS, CLASSES = 5, 7


def logits(seed: int, rows: int = ROWS, classes: int = CLASSES) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


def batch(rows: int = ROWS, labels: Tensor | None = None) -> Batch:
    ids = torch.arange(rows)
    return Batch(torch.zeros(rows, 1), labels, ids, ids)


def value(loss: Loss, student: Tensor, teacher: Tensor | Outputs) -> Tensor:
    given = teacher if isinstance(teacher, Outputs) else Outputs(teacher)
    return loss(Outputs(student), given, batch(len(student)))


def probabilities(rows: Tensor, temperature: float) -> list[list[float]]:
    """Softmax by hand."""
    found = []
    for row in rows.tolist():
        powers = [math.exp(entry / temperature) for entry in row]
        found.append([power / sum(powers) for power in powers])
    return found


def kl(first: list[float], second: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(first, second, strict=True))


def mix(share: float, first: list[float], second: list[float]) -> list[float]:
    return [share * a + (1 - share) * b for a, b in zip(first, second, strict=True)]


def generalised_js(teacher: list[float], student: list[float]) -> float:
    middle = mix(0.3, teacher, student)
    return (0.3 * kl(teacher, middle) + 0.7 * kl(student, middle)) / (0.3 * 0.7)


def alpha_beta(teacher: list[float], student: list[float]) -> float:
    a, b = 0.8, 0.3
    parts = [
        p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)
        for p, q in zip(teacher, student, strict=True)
    ]
    return -sum(parts) / (a * b)


def adaptive(teacher: list[float], student: list[float]) -> float:
    order = sorted(range(len(teacher)), key=lambda number: -teacher[number])
    mass, head, tail = 0.0, 0.0, 0.0
    for place, number in enumerate(order):
        mass += teacher[number]
        gap = abs(teacher[number] - student[number])
        if mass <= 0.6 or place == 0:
            head += gap
        else:
            tail += gap
    share = head / (head + tail)
    return share * kl(teacher, student) + (1 - share) * kl(student, teacher)


FORMULAS = [
    (ReverseKL(2), 2, lambda p, q: 4 * kl(q, p)),
    (JensenShannon(0.3, 2), 2, lambda p, q: 4 * generalised_js(p, q)),
    (SkewKL(0.2), 1, lambda p, q: kl(p, mix(0.2, p, q))),
    (SkewReverseKL(0.2), 1, lambda p, q: kl(q, mix(0.8, p, q))),
    (AdaptiveKL(0.6), 1, adaptive),
    (AlphaBeta(0.8, 0.3), 1, alpha_beta),
    (TotalVariation(3), 3, lambda p, q: sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2),
]


@pytest.mark.parametrize(
    ("loss", "temperature", "formula"), FORMULAS, ids=lambda x: getattr(x, "title", "")
)
def test_a_loss_is_its_formula_by_hand(loss, temperature, formula):
    student, teacher = logits(0), logits(1)
    pairs = zip(
        probabilities(teacher, temperature), probabilities(student, temperature), strict=True
    )
    wanted = sum(formula(p, q) for p, q in pairs) / ROWS
    assert float(value(loss, student, teacher)) == pytest.approx(wanted, rel=1e-12)


def test_jensen_shannon_has_no_jump_at_its_ends():
    student, teacher = logits(0), logits(1)
    for end, near in ((0, 0.001), (1, 0.999)):
        at = float(value(JensenShannon(end), student, teacher))
        assert float(value(JensenShannon(near), student, teacher)) == pytest.approx(at, rel=0.05)
    assert float(value(JensenShannon(0), student, teacher)) == float(value(KD(1), student, teacher))
    reverse = float(value(ReverseKL(), student, teacher))
    assert float(value(JensenShannon(1), student, teacher)) == reverse


def test_near_a_match_the_size_of_jensen_shannon_does_not_depend_on_the_share():
    teacher = logits(1)
    student = teacher + 1e-3 * logits(2)
    wanted = float(value(KD(1), student, teacher))
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        assert float(value(JensenShannon(share), student, teacher)) == pytest.approx(wanted, 0.01)


@pytest.mark.parametrize(("powers", "same"), [((1, 0), KD(1)), ((0, 1), ReverseKL())])
def test_alpha_beta_ends_in_forward_and_reverse_kl(powers, same):
    student, teacher = logits(0), logits(1)
    wanted = float(value(same, student, teacher))
    assert float(value(AlphaBeta(*powers), student, teacher)) == pytest.approx(wanted, rel=1e-12)
    near = tuple(power or 0.01 for power in powers)
    assert float(value(AlphaBeta(*near), student, teacher)) == pytest.approx(wanted, rel=0.05)


def test_the_head_is_chosen_in_the_order_of_the_teacher():
    teacher = torch.tensor([[0.1, 0.3, 0.2, 0.4]]).log()
    assert in_head(teacher, 0.71).tolist() == [[False, True, False, True]]
    assert in_head(teacher, 0.5).tolist() == [[False, False, False, True]]
    assert in_head(teacher, 0.01).tolist() == [[False, False, False, True]]


@pytest.mark.parametrize("loss", [ReverseKL(), SkewReverseKL(0.1)], ids=lambda loss: loss.title)
def test_entries_that_both_hold_impossible_are_as_if_they_were_not_there(loss):
    student, teacher = logits(0).requires_grad_(), logits(1)
    padded = torch.cat([student, torch.full((ROWS, 3), -torch.inf)], dim=1)
    wide = torch.cat([teacher, torch.full((ROWS, 3), -torch.inf)], dim=1)
    found, wanted = value(loss, padded, wide), value(loss, student, teacher)
    torch.testing.assert_close(found, wanted)
    (gradient,) = torch.autograd.grad(found, student)
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, student)[0])


def test_taid_learns_from_the_mean_of_logits():
    student, teacher = logits(0), logits(1)
    mean = 0.6 * student + 0.4 * teacher
    wanted = float(value(KD(1), student, mean))
    assert float(value(TAID(0.4), student, teacher)) == pytest.approx(wanted, rel=1e-6)


def test_the_share_of_taid_never_falls_behind_the_training():
    loss = TAID(0.2, 1.0)
    for step in range(11):
        loss.progress = step / 10
        loss.observe(torch.tensor(2.0))
    assert float(loss.share) == pytest.approx(1.0)


def test_the_share_of_taid_grows_faster_while_the_loss_falls():
    shares = []
    for losses in ([4.0, 3.0, 2.0, 1.0], [4.0, 4.0, 4.0, 4.0], [1.0, 2.0, 3.0, 4.0]):
        loss = TAID(0.2, rate=0.5, momentum=0.5)
        for cost in losses:
            loss.observe(torch.tensor(cost))
        shares.append(float(loss.share))
    assert shares[0] > shares[1] > shares[2] > 0.2


def test_the_steps_of_taid_are_those_of_its_algorithm():
    loss = TAID(0.2, rate=0.1, momentum=0.9)
    share, fall, last = 0.2, 0.0, None
    for cost in (3.0, 2.5, 2.6, 1.0):
        loss.observe(torch.tensor(cost))
        if last is not None:
            fall = 0.9 * fall + 0.1 * (last - cost) / last
            share += 0.1 / (1 + math.exp(-fall)) * (1 - share)
        last = cost
    assert float(loss.share) == pytest.approx(share, rel=1e-6)


def test_the_sampled_gradient_is_that_of_reverse_kl_on_average():
    student, teacher = logits(0, rows=1).requires_grad_(), logits(1, rows=1)
    (wanted,) = torch.autograd.grad(value(ReverseKL(), student, teacher), student)
    (chances,) = torch.tensor(probabilities(student.detach(), 1), dtype=torch.float64)
    found = torch.zeros_like(wanted)
    mean = 0.0
    for label, chance in enumerate(chances):
        given = batch(1, labels=torch.tensor([label]))
        one = SampledReverseKL()(Outputs(student), Outputs(teacher), given)
        found += chance * torch.autograd.grad(one, student)[0]
        mean += float(chance * one.detach())
    torch.testing.assert_close(found, wanted)
    assert mean == pytest.approx(float(value(ReverseKL(), student, teacher).detach()), rel=1e-12)


def best_and_rest(teacher: Tensor, k: int) -> Outputs:
    values, indices = teacher.log_softmax(dim=-1).topk(k, dim=-1)
    rest = torch.log1p(-values.exp().sum(dim=-1)) - math.log(teacher.shape[-1] - k)
    return Outputs(SparseLogits(values, indices, rest, teacher.shape[-1], is_pooled=True))


@pytest.mark.parametrize(
    "loss", [KD(1), KD(2), ReverseKL(), SkewKL(), JensenShannon(), AlphaBeta()]
)
def test_a_pooled_teacher_asks_nothing_of_a_student_that_matches_it(loss):
    teacher = logits(1)
    student = teacher.clone().requires_grad_()
    found = value(loss, student, best_and_rest(teacher, 3))
    (gradient,) = torch.autograd.grad(found, student)
    assert abs(float(found.detach())) < 1e-12
    assert gradient.abs().max() < 1e-10


def test_a_pooled_rest_is_one_class_of_its_mass():
    student, teacher = logits(0), logits(1)
    found = value(KD(1), student, best_and_rest(teacher, 3))
    total = 0.0
    for p, q in zip(probabilities(teacher, 1), probabilities(student, 1), strict=True):
        best = sorted(range(CLASSES), key=lambda number: -p[number])[:3]
        first = [p[n] for n in best] + [1 - sum(p[n] for n in best)]
        second = [q[n] for n in best] + [1 - sum(q[n] for n in best)]
        total += kl(first, second) / ROWS
    assert float(found) == pytest.approx(total, rel=1e-12)


REFUSED = [
    (JensenShannon, {"teacher_share": 0.0001}, "teacher_share must be 0 .* got 0.0001"),
    (JensenShannon, {"teacher_share": 1.5}, "teacher_share"),
    (SkewKL, {"skew": 1}, "skew must lie above 0 and below 1, got 1"),
    (SkewReverseKL, {"skew": 0}, "skew must lie"),
    (AdaptiveKL, {"head_mass": 0}, "head_mass must lie"),
    (AlphaBeta, {"teacher_power": 0, "student_power": 0}, "not both 0"),
    (AlphaBeta, {"teacher_power": 0.001}, "0.01 or more"),
    (TAID, {"start": 0.5, "end": 0.5}, "start < end"),
    (TAID, {"momentum": 1}, "momentum from 0 to below 1"),
    (ReverseKL, {"temperature": 0}, "temperature must be above 0"),
]


@pytest.mark.parametrize(("loss", "settings", "message"), REFUSED)
def test_settings_that_make_no_sense_are_refused(loss, settings, message):
    with pytest.raises(ConfigError, match=message):
        loss(**settings)
