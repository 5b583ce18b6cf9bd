"""Logit losses against slow loops, identities of their papers, and inputs at the edge."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tutelage.config import build_job, read_recipe
from tutelage.errors import ConfigError, ShapeError, SignalError
from tutelage.losses import (
    CTKD,
    DIST,
    DKD,
    ERKD,
    KD,
    MLKD,
    NKD,
    TTM,
    WSLD,
    WTTM,
    CrossEntropy,
    LabelSmoothing,
    LogitStandardisation,
    OFALogit,
    TeacherFree,
)
from tutelage.losses.decoupled import decoupled_parts
from tutelage.losses.divergences import kl_divergence, kl_per_item, soften
from tutelage.losses.transformed import standardise
from tutelage.objective import Objective, Ramp, Term
from tutelage.types import Batch, Outputs

ROWS, CLASSES = 6, 5


def draw(rows=ROWS, classes=CLASSES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return student, teacher, torch.randint(0, classes, (rows,), generator=generator)


def value(loss, student, teacher=None, labels=None, mask=None):
    ids = torch.arange(len(student))
    batch = Batch(torch.zeros(len(student), 1), labels, ids, ids, mask)
    return loss(Outputs(student), None if teacher is None else Outputs(teacher), batch)


def gradient(loss, student, *others):
    student = student.clone().requires_grad_()
    (found,) = torch.autograd.grad(value(loss, student, *others), student)
    return found


def softened(row, temperature=1.0):
    """Softmax by its definition, in plain Python."""
    powers = [math.exp(z / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def rest_of(row, label):
    return [z for c, z in enumerate(row) if c != label]


def mean_of_loop(each, *tensors):
    return np.mean([each(*items) for items in zip(*(t.tolist() for t in tensors), strict=True)])


def test_dkd_equals_a_slow_loop():
    def each(student, teacher, label):
        q, p = softened(student, 4), softened(teacher, 4)
        label_part = kl([p[label], 1 - p[label]], [q[label], 1 - q[label]])
        others = kl(softened(rest_of(teacher, label), 4), softened(rest_of(student, label), 4))
        return 16 * (0.5 * label_part + 3 * others)

    found = value(DKD(label_weight=0.5, other_weight=3, temperature=4), *draw())
    assert float(found) == pytest.approx(mean_of_loop(each, *draw()), rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_parts_of_dkd_add_up_to_kd(temperature):
    student, teacher, labels = draw()
    label_part, others = decoupled_parts(student, teacher, labels, temperature)
    doubt = 1 - soften(teacher, temperature).gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(
        label_part + doubt * others, kl_per_item(student, teacher, temperature)
    )


def test_dkd_of_two_classes_is_kd():
    tensors = draw(classes=2)
    torch.testing.assert_close(value(DKD(), *tensors), value(KD(4), *tensors[:2]))
    torch.testing.assert_close(gradient(DKD(), *tensors), gradient(KD(4), *tensors[:2]))


@pytest.mark.parametrize("loss", [DKD(), NKD(), OFALogit(1.5), WSLD(), ERKD(DKD())])
def test_labels_that_are_nearly_sure_leave_all_finite(loss):
    _, _, labels = draw()
    sure = 3e3 * F.one_hot(labels, CLASSES).float()
    for student, teacher in ((sure, -sure), (-sure, sure), (sure, sure)):
        assert value(loss, student, teacher, labels).isfinite()
        assert gradient(loss, student, teacher, labels).isfinite().all()


def test_a_teacher_that_knows_only_the_label_gives_the_others_no_part():
    student, teacher, labels = draw()
    teacher = teacher.masked_fill(~F.one_hot(labels, CLASSES).bool(), -torch.inf)
    found = value(DKD(temperature=1), student, teacher, labels)
    torch.testing.assert_close(found, F.cross_entropy(student, labels))
    assert gradient(DKD(), student, teacher, labels).isfinite().all()
    assert gradient(NKD(), student, teacher, labels).isfinite().all()


def test_nkd_equals_a_slow_loop():
    def each(student, teacher, label):
        hard = -softened(teacher)[label] * math.log(softened(student)[label])
        p, q = softened(rest_of(teacher, label), 3), softened(rest_of(student, label), 3)
        return hard - 2 * 9 * sum(a * math.log(b) for a, b in zip(p, q, strict=True))

    found = value(NKD(other_weight=2, temperature=3), *draw())
    assert float(found) == pytest.approx(mean_of_loop(each, *draw()), rel=1e-12)


def test_nkd_of_two_classes_is_its_part_on_the_label():
    student, teacher, labels = draw(classes=2)
    hard = F.cross_entropy(student, labels, reduction="none")
    sure = soften(teacher).gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(value(NKD(), student, teacher, labels), (sure * hard).mean())


def published_gap(q: np.ndarray, p: np.ndarray) -> float:
    """One minus the correlation of lines, mean over them, as the authors' code has it."""
    a, b = (lines - lines.mean(axis=1, keepdims=True) for lines in (q, p))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1) + 1e-8
    return float(np.mean(1 - (a * b).sum(axis=1) / lengths))


@pytest.mark.parametrize("lower_by", [0.0, 12.0, 25.0, math.inf])
def test_dist_is_the_published_form_whatever_the_teacher_says_of_a_class(lower_by):
    student, teacher, _ = draw()
    teacher[:, 0] -= lower_by
    q, p = soften(student, 2).numpy(), soften(teacher, 2).numpy()
    wanted = 4 * (0.5 * published_gap(q, p) + 3 * published_gap(q.T, p.T))
    found = value(DIST(inter_weight=0.5, intra_weight=3, temperature=2), student, teacher)
    assert float(found) == pytest.approx(wanted, rel=1e-12)


def test_dist_learns_nothing_of_how_a_class_that_is_never_named_varies():
    student, teacher, _ = draw()
    teacher[:, 0] = -25 + teacher[:, 0]
    other = teacher.clone()
    other[:, 0] = teacher[:, 0].flip(0)
    one, two = (gradient(DIST(inter_weight=0), student, each) for each in (teacher, other))
    assert (one - two).norm() < 1e-2 * one.norm()


def test_dist_of_a_student_that_says_the_same_of_all_is_finite():
    student = torch.zeros(ROWS, CLASSES)
    teacher = draw()[1].float()
    assert float(value(DIST(), student, teacher)) == 2.0
    assert gradient(DIST(), student, teacher).isfinite().all()


def test_one_sample_learns_only_of_the_part_over_its_classes():
    student, teacher, _ = draw(rows=1)
    whole, inter = DIST(), DIST(intra_weight=0)
    torch.testing.assert_close(value(whole, student, teacher), 1 + value(inter, student, teacher))
    torch.testing.assert_close(gradient(whole, student, teacher), gradient(inter, student, teacher))
    assert value(MLKD(), student, teacher).isfinite()


@pytest.mark.parametrize("loss", [DIST(), LogitStandardisation(KD(2))])
def test_two_classes_are_refused_where_they_say_nothing(loss):
    with pytest.raises(ShapeError, match=f"{loss.title}: the networks have 2 classes.*Use kd"):
        value(loss, *draw(classes=2)[:2])


def test_mlkd_equals_a_slow_loop():
    student, teacher, _ = draw()
    wanted = 0.0
    for temperature in (2, 5):
        q, p = soften(student, temperature).numpy(), soften(teacher, temperature).numpy()
        batch = sum((p[a] @ p[b] - q[a] @ q[b]) ** 2 for a in range(ROWS) for b in range(ROWS))
        classes = sum(
            (p[:, a] @ p[:, b] - q[:, a] @ q[:, b]) ** 2
            for a in range(CLASSES)
            for b in range(CLASSES)
        )
        wanted += 0.5 * float(kl_divergence(student, teacher, temperature))
        wanted += 2 * batch / ROWS + 3 * classes / CLASSES
    loss = MLKD((2, 5), sample_weight=0.5, batch_weight=2, class_weight=3)
    assert float(value(loss, student, teacher)) == pytest.approx(wanted, rel=1e-12)


def test_ttm_matches_powers_of_the_teachers_probabilities():
    def powers(teacher):
        raised = [p**0.2 for p in softened(teacher)]
        return sum(raised), [r / sum(raised) for r in raised]

    def each(student, teacher):
        return kl(powers(teacher)[1], softened(student))

    def weighted(student, teacher):
        return powers(teacher)[0] * each(student, teacher)

    pair = draw()[:2]
    assert float(value(TTM(5), *pair)) == pytest.approx(mean_of_loop(each, *pair), rel=1e-12)
    assert float(value(WTTM(5), *pair)) == pytest.approx(mean_of_loop(weighted, *pair), rel=1e-12)


def test_ttm_at_temperature_1_is_kd():
    pair = draw()[:2]
    torch.testing.assert_close(value(TTM(1), *pair), value(KD(1), *pair))
    torch.testing.assert_close(value(WTTM(1), *pair), value(KD(1), *pair))


def test_wsld_equals_a_slow_loop():
    def each(student, teacher, label):
        behind = math.log(softened(student)[label]) / math.log(softened(teacher)[label])
        soft = -sum(
            p * math.log(q) for p, q in zip(softened(teacher, 4), softened(student, 4), strict=True)
        )
        return 16 * (1 - math.exp(-behind)) * soft

    found = float(value(WSLD(), *draw()))
    assert found == pytest.approx(mean_of_loop(each, *draw()), rel=1e-5)  # 1e-7 keeps it finite


def test_wsld_sends_no_gradient_through_its_weights():
    student, teacher, labels = draw(rows=1)
    hard = [F.cross_entropy(z, labels) for z in (student, teacher)]
    weight = 1 - torch.exp(-hard[0] / hard[1])
    wanted = weight * gradient(KD(4), student, teacher)
    torch.testing.assert_close(
        gradient(WSLD(), student, teacher, labels), wanted, rtol=1e-5, atol=0
    )


def test_er_kd_weighs_each_sample_by_the_teachers_entropy():
    def each(student, teacher):
        p = softened(teacher, 2)
        entropy = -sum(a * math.log(a) for a in p)
        return entropy * 16 * kl(softened(teacher, 4), softened(student, 4))

    pair = draw()[:2]
    found = value(ERKD(KD(4), entropy_temperature=2), *pair)
    assert float(found) == pytest.approx(mean_of_loop(each, *pair), rel=1e-12)


@pytest.mark.parametrize("inner", [DIST(), MLKD(), CrossEntropy(), LabelSmoothing()])
def test_er_kd_refuses_what_it_cannot_weigh(inner):
    with pytest.raises(ConfigError, match=f"er_kd: inner must .*'{inner.title}'. Use kd"):
        ERKD(inner)


def test_er_kd_of_an_even_teacher_is_the_loss_times_the_log_of_the_classes():
    student, _, _ = draw()
    even = torch.zeros_like(student)
    found = value(ERKD(KD(4)), student, even)
    torch.testing.assert_close(found, math.log(CLASSES) * value(KD(4), student, even))


def test_ofa_equals_a_slow_loop():
    def each(student, teacher, label):
        p, q = softened(teacher, 2), softened(student, 2)
        is_label = [float(c == label) for c in range(CLASSES)]
        return -sum(
            ((a + one) ** 1.3 - one) * math.log(b) for a, b, one in zip(p, q, is_label, strict=True)
        )

    found = value(OFALogit(1.3, temperature=2), *draw())
    assert float(found) == pytest.approx(mean_of_loop(each, *draw()), rel=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_label_smoothing_equals_torch(share):
    student, _, labels = draw()
    wanted = F.cross_entropy(student, labels, label_smoothing=share)
    torch.testing.assert_close(value(LabelSmoothing(share), student, None, labels), wanted)


def test_label_smoothing_spreads_over_possible_classes():
    student, _, _ = draw()
    labels = torch.full((ROWS,), 2)
    wanted = value(LabelSmoothing(), student[:, 1:], None, labels - 1)
    student[:, 0] = -torch.inf
    torch.testing.assert_close(value(LabelSmoothing(), student, None, labels), wanted)


def test_teacher_free_is_kd_from_a_made_up_teacher():
    student, _, labels = draw()
    teacher = torch.full_like(student, 0.1 / (CLASSES - 1))
    teacher = teacher.scatter(1, labels[:, None], 0.9).log()
    found = value(TeacherFree(correct=0.9, temperature=5), student, None, labels)
    torch.testing.assert_close(found, value(KD(5), student, teacher))


def test_standardised_logits_have_mean_0_and_unbiased_spread_1():
    student, _, _ = draw()
    found = standardise(student).numpy()
    spread = student.numpy().std(axis=1, ddof=1, keepdims=True)
    centred = student.numpy() - student.numpy().mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, centred / spread, rtol=1e-12)


def test_standardisation_does_not_see_scale_and_shift():
    student, teacher, _ = draw()
    loss = LogitStandardisation(KD(2))
    wanted = value(loss, student, teacher)
    torch.testing.assert_close(value(loss, 7 * student - 3, 0.1 * teacher + 5), wanted)
    assert float(value(loss, student, 4 * student + 1)) == pytest.approx(0, abs=1e-14)


def test_logits_that_are_all_alike_standardise_to_zeros():
    alike = torch.full((2, 7), 0.1, requires_grad=True)
    found = standardise(alike)
    assert (found == 0).all()
    (back,) = torch.autograd.grad(found.sum(), alike)
    assert back.isfinite().all()


def test_impossible_classes_count_in_neither_mean_nor_spread():
    student, _, _ = draw()
    with_one_more = torch.cat([student, torch.full((ROWS, 1), -torch.inf)], dim=1)
    found = standardise(with_one_more)
    torch.testing.assert_close(found[:, :-1], standardise(student))
    assert (found[:, -1] == -torch.inf).all()


def test_standardisation_wraps_losses_with_labels_and_moving_temperatures():
    student, teacher, labels = draw()
    loss = LogitStandardisation(DKD(temperature=Ramp(4, 2)))
    assert loss.needs == DKD().needs
    loss.progress = 0.5
    pair = standardise(student), standardise(teacher)
    wanted = value(DKD(temperature=3), *pair, labels)
    torch.testing.assert_close(value(loss, student, teacher, labels), wanted)
    with pytest.raises(SignalError, match="needs labels"):
        value(loss, student, teacher)


@pytest.mark.parametrize("inner", [CrossEntropy(), LabelSmoothing()])
def test_standardisation_refuses_a_loss_without_a_teachers_logits(inner):
    with pytest.raises(ConfigError, match=f"inner must compare logits .*{inner.title}"):
        LogitStandardisation(inner)


def learned(progress):
    loss = CTKD(until=0.5).double()
    loss.progress = progress
    value(loss, *draw()[:2]).backward()
    return loss, float(loss.height.grad)


def test_a_learned_temperature_starts_as_in_the_paper():
    loss = CTKD().double()
    at = 1 + 20 / (1 + math.exp(-1))
    assert loss.temperature == pytest.approx(at, rel=1e-6)
    assert Objective([Term(loss, 1.0, "ctkd")]).temperature == loss.temperature
    found = value(loss, *draw()[:2])
    torch.testing.assert_close(found.detach(), value(KD(loss.temperature), *draw()[:2]))


def test_a_learned_temperature_climbs_faster_and_faster():
    pair = draw()[:2]
    height = torch.ones((), dtype=torch.float64, requires_grad=True)
    kl_divergence(*pair, 1 + 20 * height.sigmoid()).backward()
    for progress, share in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.9, 1.0)):
        assert learned(progress)[1] == pytest.approx(-share * float(height.grad), rel=1e-9)


def test_a_step_of_the_learned_temperature_raises_the_loss():
    pair = draw()[:2]
    loss, _ = learned(1.0)
    before = float(value(loss, *pair).detach())
    torch.optim.SGD(loss.parameters(), lr=0.1).step()
    assert float(value(loss, *pair).detach()) > before


MOVING = [
    KD,
    DKD,
    NKD,
    DIST,
    TTM,
    WTTM,
    WSLD,
    OFALogit,
    TeacherFree,
]


@pytest.mark.parametrize("kind", MOVING, ids=lambda kind: kind.title)
def test_a_temperature_moves_with_the_training(kind):
    student, teacher, labels = draw()
    loss = kind(temperature=Ramp(8, 2, until=0.5))
    for progress, at in ((0.0, 8), (0.25, 5), (0.9, 2)):
        loss.progress = progress
        wanted = value(kind(temperature=at), student, teacher, labels)
        torch.testing.assert_close(value(loss, student, teacher, labels), wanted)


def test_er_kd_passes_progress_on():
    pair = draw()[:2]
    loss = ERKD(KD(Ramp(8, 2)))
    loss.progress = 0.5
    torch.testing.assert_close(value(loss, *pair), value(ERKD(KD(5)), *pair))


@pytest.mark.parametrize("ends", [(0, 4), (4, 0), (4, math.inf), (-1, 4)])
def test_a_moving_temperature_must_stay_above_0(ends):
    with pytest.raises(ConfigError, match="temperature must be above 0"):
        KD(Ramp(*ends))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DKD(label_weight=-1), "label_weight must be 0 or more and finite, got -1"),
        (lambda: NKD(other_weight=math.nan), "other_weight must be 0 or more"),
        (lambda: DIST(intra_weight=math.inf), "intra_weight must be 0 or more"),
        (lambda: MLKD(()), "temperatures: there is none"),
        (lambda: MLKD((4, 0)), "temperature must be above 0"),
        (lambda: CTKD(until=0), "until must lie above 0"),
        (lambda: CTKD(lowest=0), "lowest must be above 0 and finite, got 0"),
        (lambda: CTKD(span=-1), "span must be above 0 and finite, got -1"),
        (lambda: OFALogit(0.5), "enhancement must be 1 or more"),
        (lambda: LabelSmoothing(1), "share must be 0 or more and below 1"),
        (lambda: TeacherFree(correct=1), "correct must lie above 0 and below 1"),
        (lambda: ERKD(KD(4), entropy_temperature=0), "temperature must be above 0"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("loss", [DKD(), DIST(), MLKD(), WTTM(), ERKD(NKD()), WSLD()])
def test_rows_that_do_not_count_are_as_if_not_there(loss):
    tensors = draw()
    mask = torch.tensor([True, True, False, True, False, True])
    wanted = value(loss, *(tensor[mask] for tensor in tensors))
    torch.testing.assert_close(value(loss, *tensors, mask), wanted)


def test_a_recipe_says_all_of_it():
    terms = (
        "objective.terms=["
        "{loss: logit_standardisation, weight: 9, inner: {loss: kd, temperature: 2}},"
        "{loss: dkd, weight: {start: 0, end: 1, until: 0.1}, temperature: {start: 8, end: 4}},"
        "{loss: er_kd, inner: {loss: nkd}}, {loss: mlkd, temperatures: [2, 4]}, {loss: ctkd}]"
    )
    said = build_job(read_recipe("digits", [terms])).objective.describe()
    assert "9.0 * logit_standardisation(inner=kd(temperature=2.0))" in said
    assert "(0.0 to 1.0 until 0.1) * dkd(" in said
    assert "temperature=(8 to 4 until 1.0)" in said
    assert "er_kd(entropy_temperature=4.0, inner=nkd(" in said
    assert "mlkd(" in said
    assert "temperatures=(2.0, 4.0)" in said
