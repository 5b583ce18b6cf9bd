"""Every entry of LOSSES keeps these promises; a loss of special needs has a row in SPECIAL."""

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor

from tutelage.errors import ConfigError, DataError, SignalError, UnknownNameError, find
from tutelage.losses import DIST, DKD, KD, LOSSES
from tutelage.objective import DryRun, Loss, describe_loss
from tutelage.types import SCORES, Batch, Outputs, Signal

ROWS, CLASSES = 8, 6


@dataclass(frozen=True)
class Situation:
    """All that a loss may look at. A new signal gets a field here and a line in `situation`."""

    student: Outputs
    teacher: Outputs | None
    batch: Batch

    def loss(self, loss: Loss) -> Tensor:
        return loss(self.student, self.teacher, self.batch)


def copy_of_teacher(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return teacher.clone()


def change(
    given: Situation, student: Callable, teacher: Callable
) -> tuple[Situation, list[Tensor]]:
    """A situation with what its networks give changed, and the student's tensors as leaves."""
    ours = student(given.student.logits).detach().requires_grad_()
    layers = {
        name: student(feature).detach().requires_grad_()
        for name, feature in given.student.features.items()
    }
    changed = replace(given, student=Outputs(ours, layers))
    if given.teacher is not None:
        others = {name: teacher(feature) for name, feature in given.teacher.features.items()}
        changed = replace(changed, teacher=Outputs(teacher(given.teacher.logits), others))
    return changed, [ours, *layers.values()]


def value_and_gradients(
    loss: Loss, given: Situation, leaves: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The loss, and its gradients for the student's tensors and the loss's own weights."""
    torch.manual_seed(3)
    found = given.loss(loss)
    wanted = [*leaves, *loss.parameters()]
    if not found.requires_grad:
        return found, [torch.zeros_like(each) for each in wanted]
    gradients = torch.autograd.grad(found, wanted, allow_unused=True, materialize_grads=True)
    return found.detach(), list(gradients)


def sure_of_labels(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return 60.0 * F.one_hot(labels, student.shape[-1]).to(student.dtype)


def surely_as_labelled(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return 120.0 * F.one_hot(labels, student.shape[-1]).to(student.dtype) - 60


def values_of_labels(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return 2.0 * F.one_hot(labels, student.shape[-1]).to(student.dtype)


def softened_teacher(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return teacher / 10


def mostly_labels(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    made_up = torch.full_like(student, 0.01 / (student.shape[-1] - 1))
    return made_up.scatter(1, labels[:, None], 0.99).log()


@dataclass(frozen=True)
class Special:
    """Where a loss differs from most; the defaults are what most promise.

    Attributes:
        settings: Constructor arguments, one trial each.
        match: Logits at which the loss is 0; None for a loss that claims no such thing.
        claims_sign: Whether it is never negative.
        is_mean: Whether halving the batch and averaging gives the same.
        bf16: Relative tolerance when logits are rounded to bfloat16 (8 bits, so 0.4 %).
        remembers: Whether training steps change it; it is looked at in eval mode, after one.
        zero: Largest value where the student matches.
        rest: Largest gradient there.
        holds: Whether it takes something of the student as a constant.
        step: Share of the gradient that is a small step down it.
    """

    settings: tuple[Mapping[str, Any], ...] = ({},)
    match: Callable[[Tensor, Tensor, Tensor], Tensor] | None = copy_of_teacher
    claims_sign: bool = True
    is_mean: bool = True
    bf16: float = 0.01
    remembers: bool = False
    zero: float = 1e-12
    rest: float = 1e-10
    holds: bool = False
    step: float = 0.1


def layers(*settings: Mapping[str, Any], **promises: Any) -> Special:
    """A loss with adapters between layers: no student is known to match, whatever its logits."""
    return Special(settings=settings, **({"match": None} | promises))


def between(student: str, teacher: str, **others: Any) -> Mapping[str, Any]:
    return {"student_layer": student, "teacher_layer": teacher} | others


def among(student: str, teacher: str, **others: Any) -> Mapping[str, Any]:
    names = {"student_layers": tuple(student.split()), "teacher_layers": tuple(teacher.split())}
    return names | others


SAME = ({"student_layer": "map"}, {"student_layer": "vector"}, {"student_layer": "tokens"})
RELATIONAL = Special(settings=SAME, is_mean=False, bf16=0.05)

SPECIAL: Mapping[str, Special] = {
    "cross_entropy": Special(match=sure_of_labels),
    "kd": Special(settings=({}, {"temperature": 1}, {"temperature": 20.0})),
    "dist": Special(  # of the floor under its lengths
        settings=({}, {"temperature": 4, "intra_weight": 2}), is_mean=False, zero=1e-4, rest=1e-5
    ),
    "dkd": Special(settings=({}, {"other_weight": 0.5, "temperature": 1})),
    "er_kd": Special(settings=({"inner": KD(2)}, {"inner": DKD(), "entropy_temperature": 1})),
    "label_smoothing": Special(match=None),
    "logit_standardisation": Special(
        settings=({"inner": KD(2)}, {"inner": DIST()}), is_mean=False, zero=1e-4, rest=1e-5
    ),
    "mlkd": Special(settings=({}, {"temperatures": (1,), "batch_weight": 0}), is_mean=False),
    "nkd": Special(settings=({}, {"other_weight": 3, "temperature": 3}), match=None),
    "ofa_logit": Special(settings=({}, {"enhancement": 1.5, "temperature": 2}), match=None),
    "teacher_free": Special(settings=({}, {"temperature": 1}), match=mostly_labels),
    "ttm": Special(match=softened_teacher),
    "binary_cross_entropy": Special(match=surely_as_labelled),
    "binary_kd": Special(settings=({}, {"temperature": 4})),
    "squared_error": Special(match=values_of_labels),
    "value_mse": Special(bf16=0.02),
    "bounded_regression": Special(settings=({"margin": 200},), match=values_of_labels, bf16=0.02),
    "gaussian_nll": Special(match=None, claims_sign=False, bf16=0.02, step=1e-3),
    "gaussian_kl": Special(bf16=0.2, step=1e-4),
    "wsld": Special(match=None, holds=True),
    "wttm": Special(match=softened_teacher),
    "reverse_kl": Special(settings=({}, {"temperature": 2}), bf16=0.05),
    "jensen_shannon": Special(
        settings=({}, {"teacher_share": 0.1, "temperature": 2}, {"teacher_share": 1}), bf16=0.05
    ),
    "skew_kl": Special(settings=({}, {"skew": 0.5, "temperature": 2})),
    "skew_reverse_kl": Special(settings=({}, {"skew": 0.5, "temperature": 2})),
    "adaptive_kl": Special(settings=({}, {"head_mass": 0.9, "temperature": 2}), holds=True),
    "alpha_beta": Special(
        settings=({}, *({"teacher_power": a, "student_power": b} for a, b in ((1, 0), (0, 2))))
    ),
    "total_variation": Special(settings=({}, {"temperature": 2})),
    "taid": Special(
        settings=({"start": 0.9}, {"start": 0.7, "rate": 0.1, "momentum": 0}), holds=True
    ),
    "sampled_reverse_kl": Special(settings=()),  # an estimate: tests/losses/test_language.py
    "span_likelihood": Special(settings=()),  # of texts: tests/language/test_other_tokenizer.py
    "margin_mse": Special(is_mean=False, bf16=0.05),
    "similarity_kl": Special(is_mean=False, bf16=0.1),
    "simcse": Special(settings=()),  # looks at other dropout: tests/losses/test_embedding.py
    "mutual_learning": Special(settings=()),  # no function of outputs alone: test_teacher_free.py
    "past_self": Special(match=sure_of_labels),
    # Layers are named by what they give: FEATURES below.
    "activation_boundaries": layers(among("map vector", "wide vector"), among("map", "small")),
    "attention_transfer": Special(
        settings=(among("map small", "map small"), among("tokens", "tokens"))
    ),
    "auxiliary_heads": layers({"student_layers": ("map", "tokens")}, holds=True),
    "correlation_congruence": RELATIONAL,
    "crd": layers(between("map", "vector"), between("tokens", "map"), is_mean=False, bf16=0.2),
    "crd_memory": layers(
        between("map", "vector", negatives=5), is_mean=False, bf16=0.2, remembers=True
    ),
    "cwd": Special(settings=({"student_layer": "map"},)),
    "factor_transfer": layers(between("map", "small"), between("vector", "vector"), bf16=0.05),
    "fitnets": layers(
        between("map", "wide"), between("tokens", "tokens"), between("vector", "vector")
    ),
    "fsp": Special(settings=(among("map small", "map small"),)),
    "nst": Special(settings=(among("map tokens", "map tokens"),), bf16=0.05),
    "ofa": layers({"student_layers": ("map", "vector", "tokens")}),
    "pkt": replace(RELATIONAL, rest=1e-7),  # of the floor under its logarithm
    "review_kd": layers(among("map small vector", "wide small vector"), is_mean=False, bf16=0.05),
    "rkd_angle": RELATIONAL,
    "rkd_distance": RELATIONAL,
    "similarity_preserving": RELATIONAL,
    "simkd": Special(settings=({}, {"student_parts": "map"})),
    "srd": layers(between("map", "vector"), claims_sign=False, is_mean=False, bf16=0.05),
    "distilbert_cosine": Special(settings=(among("tokens", "tokens"),), bf16=0.02),
    "minilm_v2": Special(settings=(between("attention", "attention", heads=2),), bf16=0.05),
    "tinybert_attention": Special(
        settings=(among("attention attention", "attention attention", heads=2),),
        bf16=0.05,
        step=1e-5,  # it is of the fourth power
    ),
    "tinybert_embedding": layers(between("tokens", "long")),
    "tinybert_hidden": Special(settings=(among("tokens long", "tokens long"),)),
    "vid": layers(among("map vector", "wide vector"), among("tokens", "tokens"), claims_sign=False),
    "vkd": layers(between("map", "vector"), between("small", "wide")),
}


@dataclass(frozen=True)
class Trial:
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def special(self) -> Special:
        return SPECIAL.get(self.name, Special())

    def make(self) -> Loss:
        torch.manual_seed(5)
        loss = LOSSES[self.name](**self.settings)
        with torch.no_grad():
            given = situation(loss, *(t.float() if t.is_floating_point() else t for t in numbers()))
            loss.setup(DryRun(given.student, given.teacher, num_samples=ROWS))
        loss.double()
        if self.special.remembers:
            value(loss, *numbers())
            loss.eval()
        return loss

    def __str__(self) -> str:
        return describe_loss(LOSSES[self.name](**self.settings))


TRIALS = [
    Trial(name, settings) for name in LOSSES for settings in SPECIAL.get(name, Special()).settings
]
every_loss = pytest.mark.parametrize("trial", TRIALS, ids=str)


def numbers() -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a student and of a teacher, and labels."""
    generator = torch.Generator().manual_seed(0)
    student = 3 * torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64)
    teacher = 3 * torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(0, CLASSES, (ROWS,), generator=generator)


QKV = ("query", "key", "value")
FEATURES: Mapping[str, tuple[int, ...]] = {
    "map": (4, 3, 3),
    "wide": (6, 3, 3),
    "small": (5, 2, 2),
    "vector": (7,),
    "tokens": (3, 4),
    "long": (3, 6),
    **{f"attention.{part}": (3, width) for part, width in zip(QKV, (4, 4, 6), strict=True)},
    "head": (5,),
}


def features(logits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Finite features that follow from the logits: what moves one moves the other."""
    generator = torch.Generator().manual_seed(9)
    spread = torch.randn(CLASSES, math.prod(shape), generator=generator, dtype=torch.float64)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    finite = wide.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    with torch.autocast("cpu", enabled=False):
        return (finite @ spread.to(wide.dtype)).view(-1, *shape)


def outputs(logits: Tensor, layers: tuple[str, ...]) -> Outputs:
    shapes = {layer: FEATURES[layer.removesuffix(":input")] for layer in layers}
    return Outputs(logits, {layer: features(logits, shape) for layer, shape in shapes.items()})


def labels_of(loss: Loss, labels: Tensor, dtype: torch.dtype) -> Tensor:
    """Classes as the labels that a loss takes: classes, yes or no for each, or real values."""
    if Signal.LOGITS in loss.takes or labels.ndim > 1 or labels.is_floating_point():
        return labels
    flags = F.one_hot(labels.long().clamp(0, CLASSES - 1), CLASSES).to(dtype)
    if Signal.BINARY_LOGITS in loss.takes:
        return flags
    values = torch.where(labels[:, None] < 0, torch.nan, 2 * flags)
    return values[:, : CLASSES // 2] if Signal.GAUSSIANS in loss.takes else values


def situation(
    loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor | None = None
) -> Situation:
    """What the loss says it needs and nothing more, so that a need left unsaid shows."""
    assert loss.takes <= SCORES
    ids = torch.arange(len(student))
    needs_teacher = loss.needs - {Signal.LABELS}
    return Situation(
        outputs(student, loss.student_layers),
        outputs(teacher, loss.teacher_layers) if needs_teacher else None,
        Batch(
            torch.zeros(len(student), 1),
            labels_of(loss, labels, student.dtype) if Signal.LABELS in loss.needs else None,
            ids,
            ids,
            mask,
        ),
    )


def value(
    loss: Loss, *tensors: Tensor, mask: Tensor | None = None, ids: Tensor | None = None
) -> Tensor:
    torch.manual_seed(3)  # what a loss draws comes from torch's own numbers
    given = situation(loss, *tensors, mask=mask)
    if ids is not None:
        given = replace(given, batch=replace(given.batch, sample_ids=ids))
    return given.loss(loss)


def test_no_special_row_is_of_a_loss_that_is_not_there():
    assert set(SPECIAL) <= set(LOSSES)


@every_loss
def test_a_loss_is_one_finite_number(trial):
    found = value(trial.make(), *numbers())
    assert found.shape == ()
    assert found.isfinite()
    assert found > 0


@every_loss
def test_a_loss_is_never_negative(trial):
    if not trial.special.claims_sign:
        pytest.skip("makes no such claim")
    loss = trial.make()
    _, teacher, labels = numbers()
    for scale in (0.0, 1e-6, 1.0, 100.0):
        generator = torch.Generator().manual_seed(1)
        near = torch.randn(teacher.shape, generator=generator, dtype=torch.float64)
        assert value(loss, teacher + scale * near, teacher, labels) >= -1e-12


@every_loss
def test_a_loss_is_zero_when_the_student_matches(trial):
    if trial.special.match is None:
        pytest.skip("makes no such claim")
    student, teacher, labels = numbers()
    matching = trial.special.match(student, teacher, labels).requires_grad_()
    loss = value(trial.make(), matching, teacher, labels)
    (gradient,) = torch.autograd.grad(loss, matching)
    assert abs(float(loss.detach())) < trial.special.zero
    assert gradient.abs().max() < trial.special.rest


@every_loss
def test_gradient_reaches_the_student_and_not_the_teacher(trial):
    student, teacher, labels = numbers()
    student.requires_grad_()
    teacher.requires_grad_()
    value(trial.make(), student, teacher, labels).backward()
    assert student.grad is not None
    assert (student.grad.abs().sum(dim=-1) > 0).all()
    assert teacher.grad is None


@every_loss
def test_a_step_down_the_gradient_lowers_the_loss(trial):
    student, teacher, labels = numbers()
    student.requires_grad_()
    loss = trial.make()
    before = value(loss, student, teacher, labels)
    (gradient,) = torch.autograd.grad(before, student)
    after = value(loss, student.detach() - trial.special.step * gradient, teacher, labels)
    assert after < before.detach()


@every_loss
def test_the_gradient_is_that_of_the_value(trial):
    if trial.special.holds:
        pytest.skip("the value moves with what the gradient holds")
    student, teacher, labels = numbers()
    loss = trial.make()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: value(loss, z, teacher, labels), (student,))


@every_loss
def test_the_order_of_samples_does_not_matter(trial):
    loss = trial.make()
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))
    shuffled = [tensor[order] for tensor in numbers()]
    torch.testing.assert_close(value(loss, *shuffled, ids=order), value(loss, *numbers()))


@every_loss
def test_the_mean_of_two_halves_is_the_whole(trial):
    if not trial.special.is_mean:
        pytest.skip("relates samples to one another")
    loss = trial.make()
    halves = [value(loss, *(t[part] for t in numbers())) for part in (slice(4), slice(4, None))]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, value(loss, *numbers()))


@every_loss
@pytest.mark.parametrize("garbage", [-1e4, torch.nan, -torch.inf])
def test_masked_rows_do_not_count_whatever_the_teacher_says(trial, garbage):
    student, teacher, labels = numbers()
    mask = torch.tensor([True, False] * (ROWS // 2))
    loss = trial.make()
    ids = torch.arange(ROWS)[mask]
    wanted = value(loss, student[mask], teacher[mask], labels[mask], ids=ids)
    student[~mask], teacher[~mask], labels[~mask] = 1e4, garbage, -100
    student.requires_grad_()
    found = value(loss, student, teacher, labels, mask=mask)
    torch.testing.assert_close(found, wanted)
    (gradient,) = torch.autograd.grad(found, student)
    assert (gradient[~mask] == 0).all()


@every_loss
def test_a_batch_in_which_nothing_counts_gives_zero(trial):
    student, teacher, labels = numbers()
    student.requires_grad_()
    found = value(trial.make(), student, teacher, labels, mask=torch.zeros(ROWS, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(found, student)
    assert float(found.detach()) == 0
    assert (gradient == 0).all()


@every_loss
def test_nothing_that_stands_in_masked_rows_reaches_value_or_gradient(trial):
    student, teacher, labels = numbers()
    mask = torch.tensor([True, False] * (ROWS // 2))
    loss = trial.make()
    kept = situation(loss, student[mask], teacher[mask], labels[mask])
    ids = torch.arange(ROWS)[mask]
    kept = replace(kept, batch=replace(kept.batch, sample_ids=ids))
    wanted, slopes = value_and_gradients(loss, *change(kept, torch.clone, torch.clone))

    def spoil(rows: Tensor) -> Tensor:
        spoiled = rows.detach().clone()
        for row, garbage in zip((1, 3, 5), (torch.nan, torch.inf, -torch.inf), strict=True):
            spoiled[row] = garbage
        return spoiled

    labels = torch.where(mask, labels, -100)
    given = situation(loss, student, teacher, labels, mask)
    found, gradients = value_and_gradients(loss, *change(given, spoil, spoil))
    torch.testing.assert_close(found, wanted)
    for gradient, slope in zip(gradients, slopes, strict=True):
        is_of_rows = gradient.shape != slope.shape
        torch.testing.assert_close(gradient[mask] if is_of_rows else gradient, slope)
        assert not is_of_rows or (gradient[~mask] == 0).all()


@every_loss
@pytest.mark.parametrize("rows", [0, ROWS])
def test_no_rows_give_zero_without_a_gradient(trial, rows):
    loss = trial.make()
    mask = torch.zeros(rows, dtype=torch.bool)
    given = situation(loss, *(tensor[:rows] for tensor in numbers()), mask if rows else None)
    spoiled = change(given, lambda t: t * torch.nan, lambda t: t * torch.nan)
    found, gradients = value_and_gradients(loss, *spoiled)
    assert float(found) == 0
    assert all((gradient == 0).all() for gradient in gradients)


SIDES = ("student", "teacher")


def zero_rows(rows: Tensor) -> Tensor:
    return rows.index_fill(0, torch.tensor([1, 2]), 0.0)


def nearly_zero_rows(rows: Tensor) -> Tensor:
    return torch.cat([1e-9 * rows[:2], rows[2:]])


def duplicates(rows: Tensor) -> Tensor:
    return torch.cat([rows[:1], rows[:1], rows[2:]])


def near_duplicates(rows: Tensor) -> Tensor:
    return torch.cat([rows[:1], rows[:1] + 1e-7 * rows[1:2], rows[2:]])


def all_alike(rows: Tensor) -> Tensor:
    return rows[:1].expand_as(rows).clone()


def constant(rows: Tensor) -> Tensor:
    return torch.full_like(rows, 3.3)


EDGES = (
    zero_rows,
    nearly_zero_rows,
    duplicates,
    near_duplicates,
    all_alike,
    constant,
    torch.zeros_like,
)


@every_loss
@pytest.mark.parametrize("whose", ["student", "teacher", "both"])
def test_gradients_are_bounded_where_vectors_have_no_direction(trial, whose):
    loss = trial.make().float()
    student, teacher, labels = numbers()
    given = situation(loss, student.float(), teacher.float(), labels)
    for edge in EDGES:
        sides = [edge if whose in (side, "both") else torch.clone for side in SIDES]
        found, gradients = value_and_gradients(loss, *change(given, *sides))
        assert found.isfinite(), edge
        assert all(gradient.isfinite().all() for gradient in gradients), edge
        assert max(float(gradient.abs().max()) for gradient in gradients) < 1e6, edge


PAIRS = (
    (torch.float16, torch.float32),
    (torch.bfloat16, torch.float64),
    (torch.float32, torch.float64),
    (torch.float64, torch.bfloat16),
)


@every_loss
def test_networks_of_any_two_precisions_give_one_loss(trial):
    student, teacher, labels = numbers()
    given = situation(trial.make(), student, teacher, labels)
    for ours, theirs in PAIRS:
        exact, _ = value_and_gradients(
            trial.make(),
            *change(
                given, lambda t, to=ours: t.to(to).double(), lambda t, to=theirs: t.to(to).double()
            ),
        )
        mixed = change(given, lambda t, to=ours: t.to(to), lambda t, to=theirs: t.to(to))
        loss = trial.make().float()
        found, gradients = value_and_gradients(loss, *mixed)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(value_and_gradients(loss, *mixed)[0], found)
        assert found.dtype in (torch.float32, torch.float64)
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-6)
        assert all(gradient.isfinite().all() for gradient in gradients)


@every_loss
def test_no_rounding_brings_a_loss_below_zero(trial):
    if not trial.special.claims_sign:
        pytest.skip("makes no such claim")
    loss = trial.make().float()
    _, teacher, labels = numbers()
    generator = torch.Generator().manual_seed(4)
    for size in (0.0, *(10.0**-power for power in range(2, 9)), 1.0):
        for scale in (1e-3, 1.0, 30.0):
            theirs = scale * teacher.float()
            near = theirs + size * torch.randn(theirs.shape, generator=generator)
            assert value(loss, near, theirs, labels) >= 0


@every_loss
def test_a_label_that_is_no_class_is_refused(trial):
    loss = trial.make()
    is_of_classes = Signal.LABELS in loss.needs and Signal.LOGITS in loss.takes
    if not is_of_classes or trial.name == "crd_memory":
        pytest.skip("looks at no classes, or only at whether two are alike")
    student, teacher, labels = numbers()
    for label in (-1, -100, CLASSES, 10**6):
        labels[3] = label
        with pytest.raises(DataError, match=f"{trial.name}' got the label {label}; .* 0 to 5"):
            value(trial.make(), student, teacher, labels)
    with pytest.raises(DataError, match=f"{trial.name}' takes one whole number a sample"):
        value(trial.make(), student, teacher, labels.double())
    with pytest.raises(DataError, match=f"{trial.name}' takes one whole number a sample"):
        value(trial.make(), student, teacher, F.one_hot(numbers()[2], CLASSES))


@every_loss
def test_labels_of_any_whole_numbers_are_taken(trial):
    student, teacher, labels = numbers()
    wanted = value(trial.make(), student, teacher, labels)
    for kind in (torch.int32, torch.uint8):
        assert torch.equal(value(trial.make(), student, teacher, labels.to(kind)), wanted)


def test_a_loss_whose_own_weights_are_imprecise_is_refused():
    trial = Trial("fitnets", between("vector", "vector"))
    with pytest.raises(
        ConfigError, match=r"fitnets' has weights .*bfloat16; .* Call its float\(\)"
    ):
        value(trial.make().bfloat16(), *numbers())


@every_loss
@pytest.mark.parametrize("whose", ["both", "teacher"])
def test_impossible_classes_give_no_nan(trial, whose):
    if not trial.make().takes & {Signal.LOGITS, Signal.BINARY_LOGITS}:
        pytest.skip("embeddings and values have no classes")
    student, teacher, labels = numbers()
    labels = labels.clamp(min=1)
    teacher[:, 0] = -torch.inf
    if whose == "both":
        student[:, 0] = -torch.inf
    student.requires_grad_()
    found = value(trial.make(), student, teacher, labels)
    (gradient,) = torch.autograd.grad(found, student)
    assert found.isfinite()
    assert gradient.isfinite().all()


@every_loss
def test_logits_in_bf16_give_the_loss_of_their_rounded_values_in_float32(trial):
    student, teacher, labels = numbers()
    low = (student.bfloat16(), teacher.bfloat16())
    loss = trial.make().float()
    found = value(loss, *low, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, value(loss, *(t.float() for t in low), labels))
    exact = value(trial.make(), student, teacher, labels)
    torch.testing.assert_close(found.double(), exact, rtol=trial.special.bf16, atol=0)


@every_loss
def test_autocast_changes_nothing(trial):
    student, teacher, labels = numbers()
    tensors = (student.float(), teacher.float(), labels)
    loss = trial.make().float()
    wanted = value(loss, *tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(value(loss, *tensors), wanted)


@every_loss
def test_a_loss_saves_and_loads(trial):
    loss, other = trial.make(), trial.make()
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(1)
    other.load_state_dict(load(save(dict(loss.state_dict()))))
    for twin in (other, copy.deepcopy(loss)):
        assert torch.equal(value(twin, *numbers()), value(loss, *numbers()))


@every_loss
def test_a_need_that_is_not_met_is_refused_by_name(trial):
    loss = trial.make()
    given = situation(loss, *numbers())
    no_labels = replace(given, batch=replace(given.batch, labels=None))
    words = {Signal.BINARY_LOGITS: "logits", Signal.GAUSSIANS: "values"}
    for need in loss.needs:
        without = no_labels if need is Signal.LABELS else replace(given, teacher=None)
        with pytest.raises(
            SignalError, match=f"{loss.title}' needs .*{words.get(need, need.value)}"
        ):
            without.loss(loss)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_found_by_the_name_it_bears(name):
    assert find("loss", name, LOSSES).title == name


@pytest.mark.parametrize("name", LOSSES)
def test_an_unknown_loss_brings_the_nearest_name(name):
    with pytest.raises(UnknownNameError, match=f"Did you mean '{name}'.* Known: .*cross_entropy"):
        find("loss", name + "x", LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_the_doc_names_the_source(name):
    text = inspect.getdoc(LOSSES[name]) or ""
    _, _, source = text.partition("Source:")
    assert "arXiv:" in source or "doi" in source


@pytest.mark.parametrize("name", LOSSES)
def test_every_setting_is_documented_and_told_apart_in_the_objective(name):
    # A result on disk is found again by this description: what it leaves out goes stale unseen.
    own = LOSSES[name].__init__ is not Loss.__init__
    settings = inspect.signature(LOSSES[name]).parameters if own else ()
    trials = SPECIAL.get(name, Special()).settings or ({},)
    said = describe_loss(LOSSES[name](**trials[0]))
    for setting in settings:
        assert f"{setting}=" in said
        assert f"{setting}:" in (inspect.getdoc(LOSSES[name]) or "")


@pytest.mark.parametrize(("old", "new"), [("build", "setup"), ("wrap", "modify_student")])
def test_a_loss_with_the_methods_of_before_is_refused(old, new):
    with pytest.raises(ConfigError, match=f"Mine: {old} of a loss is now {new}"):
        type("Mine", (Loss,), {old: lambda self, dry: None})
