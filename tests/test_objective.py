import math
from typing import ClassVar

import pytest
import torch
from torch import nn

from tutelage.errors import ConfigError, SignalError
from tutelage.losses import DIST, KD, CrossEntropy, LogitMSE
from tutelage.objective import Loss, Objective, Ramp, Term, describe_loss, objective_of
from tutelage.types import Batch, Outputs, Signal


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (Outputs(torch.randn(6, 4, generator=generator)) for _ in range(2))
    ids = torch.arange(6)
    return student, teacher, Batch(torch.zeros(6, 1), ids % 4, ids, ids)


class Scaled(Loss):
    """A loss with a parameter of its own, as one with an adapter has."""

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LOGITS})
    title: ClassVar[str] = "scaled"

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, student, teacher, batch):
        return self.scale * student.logits.square().mean()


def test_the_total_is_the_weighted_sum_of_the_parts(given):
    report = (0.1 * CrossEntropy() + 0.9 * KD(4) + 2 * LogitMSE())(*given)
    assert list(report.parts) == ["cross_entropy", "kd", "logit_mse"]
    wanted = sum(
        weight * float(part)
        for weight, part in zip((0.1, 0.9, 2), report.parts.values(), strict=True)
    )
    assert float(report.total) == pytest.approx(wanted, rel=1e-6)


def test_a_part_is_its_loss_unweighted_and_without_gradient(given):
    student, teacher, batch = given
    student.logits.requires_grad_()
    report = (0.25 * CrossEntropy() + 3 * KD(2))(student, teacher, batch)
    assert torch.equal(report.parts["kd"], KD(2)(student, teacher, batch).detach())
    assert report.total.requires_grad
    assert not any(part.requires_grad for part in report.parts.values())


def test_the_gradient_is_the_weighted_sum_of_the_gradients(given):
    student, teacher, batch = given
    logits = student.logits.requires_grad_()
    objective = 0.3 * CrossEntropy() + 0.7 * KD(4)
    (whole,) = torch.autograd.grad(objective(student, teacher, batch).total, logits)
    single = [
        torch.autograd.grad(term.loss(student, teacher, batch), logits)[0]
        for term in objective.terms
    ]
    torch.testing.assert_close(whole, 0.3 * single[0] + 0.7 * single[1])


def test_adding_keeps_order_and_weights():
    first, second, third = 0.1 * CrossEntropy(), 0.9 * KD(4), 2 * LogitMSE()
    left, right = (first + second) + third, first + (second + third)
    for objective in (left, right):
        assert [(t.name, t.weight) for t in objective.terms] == [
            ("cross_entropy", 0.1),
            ("kd", 0.9),
            ("logit_mse", 2.0),
        ]
    assert left.describe() == right.describe()
    assert [t.name for t in first.terms] == ["cross_entropy"]


LOSS = KD(2)


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (lambda: CrossEntropy() + KD(4), "1.0 * cross_entropy + 1.0 * kd(temperature=4.0)"),
        (lambda: sum([CrossEntropy(), KD(4)]), "1.0 * cross_entropy + 1.0 * kd(temperature=4.0)"),
        (lambda: sum([2 * KD(4)], start=0.0), "2.0 * kd(temperature=4.0)"),
        (lambda: KD(4) + 0.5 * LogitMSE(), "1.0 * kd(temperature=4.0) + 0.5 * logit_mse"),
        (lambda: 0.5 * LogitMSE() + KD(4), "0.5 * logit_mse + 1.0 * kd(temperature=4.0)"),
        (lambda: KD(4) * 3, "3.0 * kd(temperature=4.0)"),
        (
            lambda: 2 * (CrossEntropy() + 3 * KD(4)),
            "2.0 * cross_entropy + 6.0 * kd(temperature=4.0)",
        ),
        (lambda: (CrossEntropy() + LogitMSE()) * 0.5, "0.5 * cross_entropy + 0.5 * logit_mse"),
        (lambda: 2 * LOSS + LOSS, "3.0 * kd(temperature=2.0)"),
        (lambda: LOSS + LOSS, "2.0 * kd(temperature=2.0)"),
        (lambda: 2 * (Ramp(0, 1, 0.5) * LogitMSE()), "(0.0 to 2.0 until 0.5) * logit_mse"),
        (lambda: Ramp(0, 1) * (2 * LogitMSE()), "(0.0 to 2.0 until 1.0) * logit_mse"),
        (lambda: objective_of(LogitMSE()), "1.0 * logit_mse"),
    ],
)
def test_losses_and_objectives_add_and_multiply(made, wanted):
    assert made().describe() == wanted


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: KD() + 3, r"losses and objectives add up, got 3\. Weights multiply: 0\.9 \* KD"),
        (lambda: 3 + KD(), r"losses and objectives add up, got 3\."),
        (lambda: CrossEntropy() + KD, r"add up, got <class .*KD'>\. Write KD\(\)"),
        (lambda: KD() + None, "add up, got None"),
        (lambda: KD() * KD(), r"a weight is a number or a Ramp, got KD\(\)\. Losses add"),
        (lambda: "2" * KD(), "a weight is a number or a Ramp, got '2'"),
        (lambda: True * KD(), "a weight is a number or a Ramp, got True"),
        (lambda: Ramp(0, 1) * (Ramp(0, 1) * KD()), r"times .* is no straight line"),
        (lambda: Ramp(0, 1) * LOSS + LOSS, "one 'kd' stands in two terms"),
        (lambda: -1 * KD(), "weight of 'kd' must be 0 or more"),
    ],
)
def test_what_is_no_sum_of_losses_is_refused(made, message):
    with pytest.raises(ConfigError, match=message):
        made()


def test_one_loss_in_two_terms_is_computed_and_kept_once(given):
    loss = Scaled()
    objective = 2 * loss + loss
    report = objective(*given)
    assert list(report.parts) == ["scaled"]
    torch.testing.assert_close(report.total, 3 * loss(*given))
    assert len(objective.state_dict()) == 1


def test_two_terms_of_one_loss_have_names_and_numbers_of_their_own(given):
    objective = 1 * KD(1) + 2 * KD(4) + 3 * KD(8)
    report = objective(*given)
    assert list(report.parts) == ["kd", "kd_2", "kd_3"]
    for temperature, part in zip((1, 4, 8), report.parts.values(), strict=True):
        assert torch.equal(part, KD(temperature)(*given))
    named = Objective([Term(KD(1), 1, "soft"), Term(KD(2), 1, "soft"), Term(KD(3), 1, "kd_2")])
    assert len({term.name for term in named.terms}) == 3


def test_a_term_of_weight_zero_is_not_computed_and_needs_nothing(given):
    student, _, batch = given
    objective = 1.0 * CrossEntropy() + 0 * KD(4)
    report = objective(student, None, batch)
    assert list(report.parts) == ["cross_entropy"]
    assert objective.needs == {Signal.LABELS}
    assert not objective.needs_teacher
    assert (1 * KD(4)).needs_teacher
    objective.check(frozenset({Signal.LABELS}), "the training data")


def test_an_objective_that_needs_more_than_there_is_is_refused():
    objective = 0.1 * CrossEntropy() + 0.9 * KD(4)
    objective.check(frozenset(Signal), "everything")
    with pytest.raises(SignalError, match=r"'kd' needs logits, but the data gives only labels\."):
        objective.check(frozenset({Signal.LABELS}), "the data")
    with pytest.raises(SignalError, match=r"'cross_entropy' needs labels, .* only nothing\."):
        objective.check(frozenset(), "the data")


@pytest.mark.parametrize("weight", [-0.1, math.inf, math.nan])
def test_a_weight_that_cannot_be_meant_is_refused(weight):
    with pytest.raises(ConfigError, match=r"weight of 'kd' must be 0 or more and finite"):
        weight * KD(4)


def test_an_objective_without_terms_is_refused():
    with pytest.raises(ConfigError, match="there is no term"):
        Objective([])


def test_parameters_of_a_loss_are_trained_and_saved(given):
    objective = 1 * CrossEntropy() + 0.5 * Scaled()
    assert [name for name, _ in objective.named_parameters()] == ["losses.scaled.scale"]
    objective(*given).total.backward()
    assert next(objective.parameters()).grad is not None
    assert "losses.scaled.scale" in objective.state_dict()


def test_the_temperature_is_of_the_first_term_that_has_one():
    assert (1 * CrossEntropy() + 1 * KD(7) + 1 * KD(2)).temperature == 7.0
    assert (1 * CrossEntropy()).temperature == 1.0


def test_the_description_tells_objectives_apart():
    assert (0.1 * CrossEntropy() + 0.9 * KD(4)).describe() == (
        "0.1 * cross_entropy + 0.9 * kd(temperature=4.0)"
    )
    assert (2.0 * DIST()).describe().startswith("2.0 * dist(form=2, inter_weight=1.0,")
    texts = [(w * KD(t)).describe() for w in (0.9, 0.90000001, 1e-9) for t in (4, 4.0000001, 4.5)]
    assert len(set(texts)) == len(texts)
    assert describe_loss(LogitMSE()) == "logit_mse"
