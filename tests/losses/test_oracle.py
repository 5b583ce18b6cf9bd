"""Losses without reference numbers, from the papers' formulas in NumPy: value and gradient.

The gradient is a central difference of the NumPy formula along random directions.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tutelage.losses import LOSSES
from tutelage.types import Batch, Outputs

ROWS, CLASSES = 6, 5
Array = np.ndarray
Formula = Callable[[Array, Array, Array], float]


def soft(z: Array, t: float = 1.0) -> Array:
    e = np.exp((z - z.max(axis=-1, keepdims=True)) / t)
    return e / e.sum(axis=-1, keepdims=True)


def kl(p: Array, q: Array) -> Array:
    return (p * np.log(p / q)).sum(axis=-1)


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def huber(x: Array) -> Array:
    return np.where(np.abs(x) < 1, 0.5 * x**2, np.abs(x) - 0.5)


def standard(z: Array) -> Array:
    return (z - z.mean(axis=1, keepdims=True)) / z.std(axis=1, ddof=1, keepdims=True)


def rest(z: Array, y: Array) -> Array:
    return np.array([np.delete(row, label) for row, label in zip(z, y, strict=True)])


def at(z: Array, y: Array) -> Array:
    return z[np.arange(len(z)), y]


def cross_entropy(z: Array, _: Array, y: Array) -> float:
    return -np.log(at(soft(z), y)).mean()


def label_smoothing(z: Array, _: Array, y: Array) -> float:
    targets = 0.9 * np.eye(CLASSES)[y] + 0.1 / CLASSES
    return -(targets * np.log(soft(z))).sum(axis=1).mean()


def logit_mse(z: Array, v: Array, _: Array) -> float:
    gap = z - v
    return 0.5 * ((gap - gap.mean(axis=1, keepdims=True)) ** 2).mean()


def dkd(z: Array, v: Array, y: Array) -> float:
    a, b = at(soft(v, 4), y), at(soft(z, 4), y)
    label = kl(np.stack([a, 1 - a], 1), np.stack([b, 1 - b], 1))
    return 16 * (label + 8 * kl(soft(rest(v, y), 4), soft(rest(z, y), 4))).mean()


def nkd(z: Array, v: Array, y: Array) -> float:
    label = -at(soft(v), y) * np.log(at(soft(z), y))
    others = -(soft(rest(v, y)) * np.log(soft(rest(z, y)))).sum(axis=1)
    return (label + 1.5 * others).mean()


def ctkd(z: Array, v: Array, _: Array) -> float:
    t = 1 + 20 / (1 + np.exp(-1.0))
    return t**2 * kl(soft(v, t), soft(z, t)).mean()


def standardised(z: Array, v: Array, _: Array) -> float:
    return 4 * kl(soft(standard(v), 2), soft(standard(z), 2)).mean()


def jensen_shannon(z: Array, v: Array, _: Array) -> float:
    p, q = soft(v), soft(z)
    m = 0.3 * p + 0.7 * q
    return (0.3 * kl(p, m) + 0.7 * kl(q, m)).mean() / 0.21


def skew_kl(z: Array, v: Array, _: Array) -> float:
    p, q = soft(v, 2), soft(z, 2)
    return 4 * kl(p, 0.1 * p + 0.9 * q).mean()


def alpha_beta(z: Array, v: Array, _: Array) -> float:
    a, b, p, q = 0.8, 0.3, soft(v), soft(z)
    each = p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)
    return -each.sum(axis=1).mean() / (a * b)


def total_variation(z: Array, v: Array, _: Array) -> float:
    return 0.5 * np.abs(soft(v) - soft(z)).sum(axis=1).mean()


def universal(z: Array, v: Array, _: Array) -> float:
    return np.abs(np.sort(soft(v)) - np.sort(soft(z))).sum(axis=1).mean()


def taid(z: Array, v: Array, _: Array, held: Array | None = None) -> float:
    held = z if held is None else held
    share = float(np.float32(0.4))  # as it is kept
    return kl(soft(share * v + (1 - share) * held), soft(z)).mean()


def embedding_mse(z: Array, v: Array, _: Array) -> float:
    return ((z - v) ** 2).sum(axis=1).mean()


def cosine(z: Array, v: Array, _: Array) -> float:
    return (1 - (unit(z) * unit(v)).sum(axis=1)).mean()


def similarity_kl(z: Array, v: Array, _: Array) -> float:
    own = np.arange(ROWS)
    ours, theirs = (rest(unit(x) @ unit(x).T, own) / 0.5 for x in (z, v))
    return kl(soft(theirs), soft(ours)).mean()


def margin_mse(z: Array, v: Array, _: Array) -> float:
    ours, theirs = z @ z.T, v @ v.T
    gaps = [
        (ours[i, j] - ours[i, k] - theirs[i, j] + theirs[i, k]) ** 2
        for i in range(ROWS)
        for j in range(ROWS)
        for k in range(ROWS)
        if len({i, j, k}) == 3
    ]
    return float(np.mean(gaps))


def rkd_distance(z: Array, v: Array, _: Array) -> float:
    def distances(x: Array) -> Array:
        found = np.linalg.norm(x[:, None] - x[None], axis=-1)
        return found / found[found > 0].mean()

    return huber(distances(z) - distances(v)).mean()


def rkd_angle(z: Array, v: Array, _: Array) -> float:
    def angle(x: Array, i: int, j: int, k: int) -> float:
        if i in (j, k):
            return 0.0
        a, b = x[j] - x[i], x[k] - x[i]
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    triples = [(i, j, k) for i in range(ROWS) for j in range(ROWS) for k in range(ROWS)]
    return float(huber(np.array([angle(z, *t) - angle(v, *t) for t in triples])).mean())


def similarity_preserving(z: Array, v: Array, _: Array) -> float:
    return ((unit(z @ z.T) - unit(v @ v.T)) ** 2).sum() / ROWS**2


def correlation_congruence(z: Array, v: Array, _: Array) -> float:
    def kernel(x: Array) -> Array:
        inner = unit(x) @ unit(x).T
        return np.exp(-0.8) * (1 + 0.8 * inner + 0.32 * inner**2)

    return ((kernel(z) - kernel(v)) ** 2).mean()


def pkt(z: Array, v: Array, _: Array) -> float:
    def chances(x: Array) -> Array:
        directions = x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-7)
        likeness = (directions @ directions.T + 1) / 2
        return likeness / likeness.sum(axis=1, keepdims=True)

    q, p = chances(z), chances(v)
    return (p * np.log((p + 1e-7) / (q + 1e-7))).sum(axis=1).mean()


LAYER = {"student_layer": "layer"}
ORACLES: dict[str, tuple[str, dict, Formula]] = {
    "cross_entropy": ("cross_entropy", {}, cross_entropy),
    "label_smoothing": ("label_smoothing", {}, label_smoothing),
    "logit_mse": ("logit_mse", {}, logit_mse),
    "dkd": ("dkd", {}, dkd),
    "nkd": ("nkd", {}, nkd),
    "ctkd": ("ctkd", {}, ctkd),
    "logit_standardisation": (
        "logit_standardisation",
        {"inner": LOSSES["kd"](temperature=2)},
        standardised,
    ),
    "jensen_shannon": ("jensen_shannon", {"teacher_share": 0.3}, jensen_shannon),
    "skew_kl": ("skew_kl", {"temperature": 2}, skew_kl),
    "alpha_beta": ("alpha_beta", {}, alpha_beta),
    "total_variation": ("total_variation", {}, total_variation),
    "universal_logit_distance": ("universal_logit_distance", {}, universal),
    "taid": ("taid", {}, taid),
    "embedding_mse": ("embedding_mse", {}, embedding_mse),
    "embedding_cosine": ("embedding_cosine", {}, cosine),
    "similarity_kl": ("similarity_kl", {"temperature": 0.5}, similarity_kl),
    "margin_mse": ("margin_mse", {}, margin_mse),
    "rkd_distance": ("rkd_distance", LAYER, rkd_distance),
    "rkd_angle": ("rkd_angle", LAYER, rkd_angle),
    "similarity_preserving": ("similarity_preserving", LAYER, similarity_preserving),
    "correlation_congruence": ("correlation_congruence", LAYER, correlation_congruence),
    "pkt": ("pkt", LAYER, pkt),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ORACLES)
def test_value_and_gradient_are_those_of_the_formula(name, seed):
    made, settings, formula = ORACLES[name]
    drawn = np.random.default_rng(seed)
    z, v = (2 * drawn.standard_normal((ROWS, CLASSES)) for _ in range(2))
    y, direction = drawn.integers(0, CLASSES, ROWS), drawn.standard_normal((ROWS, CLASSES))
    # A target that is made of the student's own logits is held while they move.
    held = {"held": z} if name == "taid" else {}
    student = torch.tensor(z, requires_grad=True)
    teacher = torch.tensor(v)
    ids = torch.arange(ROWS)
    batch = Batch(torch.zeros(ROWS, 1), torch.tensor(y), ids, ids)
    loss = LOSSES[made](**settings).double()
    value = loss(Outputs(student, {"layer": student}), Outputs(teacher, {"layer": teacher}), batch)
    (gradient,) = torch.autograd.grad(value, student)
    assert float(value.detach()) == pytest.approx(formula(z, v, y, **held), rel=1e-10)
    step = 1e-5
    ends = [formula(z + sign * step * direction, v, y, **held) for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * step)
    assert float((gradient.numpy() * direction).sum()) == pytest.approx(slope, rel=1e-6, abs=1e-9)
