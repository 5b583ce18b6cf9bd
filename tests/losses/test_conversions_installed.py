"""docs/conversions.md again, with the peers' own released packages where they are installed.

`pip install -e '.[peers]'` brings them. A package that is missing is skipped by its name;
test_conversions.py has its formula all the same.
"""

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_conversions import CLASSES, ROWS, TASK, A, T, logits
from torch import Tensor, nn

from tutelage.losses import (
    DIST,
    KD,
    PKT,
    AttentionTransfer,
    LogitStandardisation,
    RKDAngle,
    RKDDistance,
    SimilarityPreserving,
)
from tutelage.losses.review import pyramid_distance
from tutelage.objective import Loss, Objective
from tutelage.types import Batch, Outputs

pytestmark = [
    pytest.mark.slow,  # some of these packages take ten seconds to import
    pytest.mark.filterwarnings("ignore"),  # of theirs
]
Peer = Callable[[Tensor, Tensor, Tensor], Tensor]


def imported(name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)


def batch(labels: Tensor) -> Batch:
    ids = torch.arange(len(labels))
    return Batch(torch.zeros(len(labels), 1), labels, ids, ids)


def same(theirs: Callable[[Tensor], Tensor], ours: Callable[[Tensor], Tensor], at: Tensor) -> None:
    """One value and one gradient."""
    sides = []
    for total in (theirs, ours):
        z = at.clone().requires_grad_()
        found = total(z)
        sides.append((found.detach().double(), *torch.autograd.grad(found, z)))
    torch.testing.assert_close(sides[1][0], sides[0][0], rtol=1e-6, atol=0)
    torch.testing.assert_close(sides[1][1], sides[0][1], rtol=1e-5, atol=1e-8)


def agree(peer: Peer, ours: Objective) -> None:
    student, teacher, labels = logits()
    same(
        lambda z: peer(z, teacher, labels),
        lambda z: ours(Outputs(z), Outputs(teacher), batch(labels)).total,
        student,
    )


PATHS = {
    f"{role}_module_{part}": name
    for role in ("student", "teacher")
    for part, name in (("path", "."), ("io", "output"))
}
OUTPUTS = {"student_output_path": ".", "teacher_output_path": "."}


def told(loss: nn.Module) -> Peer:
    """A loss of torchdistill, asked as its trainer asks it."""
    return lambda z, v, labels: loss({".": {"output": z}}, {".": {"output": v}}, labels)


TORCHDISTILL = {
    "kd": ("KDLoss", {"temperature": T, "alpha": A}, A * TASK + (1 - A) * KD(T)),
    "kd, beta": ("KDLoss", {"temperature": T, "alpha": A, "beta": 2.0}, A * TASK + 2 * KD(T)),
    "kd, alpha 0": ("KDLoss", {"temperature": T, "alpha": 0}, T**-2 * KD(T)),
    "dist": ("DISTLoss", {"beta": 1.0, "gamma": 2.0, "tau": T}, 1.0 * DIST(1, 2, T)),
    "standardised": (
        "LogitStdKDLoss",
        {"temperature": T, "alpha": 0.1, "beta": 9.0},
        0.1 * TASK + 9 * LogitStandardisation(KD(T)),
    ),
}


@pytest.mark.parametrize("row", TORCHDISTILL)
def test_torchdistill_on_logits(row):
    library = imported("torchdistill.losses.mid_level")
    name, settings, ours = TORCHDISTILL[row]
    agree(told(getattr(library, name)(**PATHS, **settings)), ours)


def features() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ours = torch.randn(ROWS, 3, 5, 5, generator=generator, dtype=torch.float64)
    return ours, torch.randn(ROWS, 3, 5, 5, generator=generator, dtype=torch.float64)


def on(loss: Loss, student: Tensor, teacher: Tensor) -> Tensor:
    none = torch.zeros(ROWS, 3, dtype=torch.float64)
    given = (Outputs(none, {"layer": x}) for x in (student, teacher))
    return loss(*given, batch(torch.zeros(ROWS, dtype=torch.long)))


def test_torchdistill_attention_transfer():
    library = imported("torchdistill.losses.mid_level")
    pair = {role: {"path": ".", "io": "output"} for role in ("student", "teacher")}
    theirs = told(library.ATLoss({"pair": pair}))
    student, teacher = features()
    ours = AttentionTransfer("layer")
    same(lambda x: theirs(x, teacher, student), lambda x: on(ours, x, teacher), student)


def test_torchdistill_relations_of_distance_and_angle():
    library = imported("torchdistill.losses.mid_level")
    theirs = told(library.RKDLoss(**OUTPUTS, dist_factor=25, angle_factor=50, reduction="mean"))
    student, teacher = (x.mean(dim=(2, 3)) for x in features())
    distance, angle = RKDDistance("layer"), RKDAngle("layer")
    same(
        lambda x: theirs(x, teacher, student),
        lambda x: 25 * on(distance, x, teacher) + 50 * on(angle, x, teacher),
        student,
    )


def test_torchdistill_takes_neighbours_chances_over_all_pairs():
    library = imported("torchdistill.losses.mid_level")
    theirs = told(library.PKTLoss(**PATHS))
    student, teacher = (x.mean(dim=(2, 3)) for x in features())
    ours = PKT("layer")
    same(
        lambda x: ROWS * theirs(x.clone(), teacher.clone(), student),
        lambda x: on(ours, x, teacher),
        student,
    )


def test_torchdistill_scales_similarities_by_absolute_sums():
    library = imported("torchdistill.losses.mid_level")
    theirs = told(library.SPKDLoss(**OUTPUTS, reduction="batchmean"))
    student, teacher = features()
    found = float(theirs(student, teacher, student))
    rows = [x.flatten(1) @ x.flatten(1).T for x in (student, teacher)]
    by_sum = F.mse_loss(*(F.normalize(x, p=1, dim=1) for x in rows))
    assert found == pytest.approx(float(by_sum))
    assert found < 0.5 * float(on(SimilarityPreserving("layer"), student, teacher))


def test_torchdistill_pyramid_of_review_kd():
    library = imported("torchdistill.losses.mid_level")
    loss = library.HierarchicalContextLoss(**PATHS)
    student, teacher = features()
    same(
        lambda x: loss({".": {"output": (x, None)}}, {".": {"output": teacher}}),
        lambda x: pyramid_distance(x, teacher),
        student,
    )


def test_trl_at_beta_0():
    divergence = imported("trl.experimental.gkd").GKDTrainer.generalized_jsd_loss
    agree(
        lambda z, v, labels: divergence(z[None], v[None], labels[None], beta=0.0, temperature=T),
        T**-2 * KD(T),
    )


class Said(nn.Module):
    """A network that says what it is told to."""

    num_classes, in_chans, pretrained_cfg = CLASSES, 1, {"mean": (0.0,), "std": (1.0,)}

    def __init__(self, said: Tensor) -> None:
        super().__init__()
        self.said = said

    def forward(self, inputs: Tensor) -> Tensor:
        return self.said


@pytest.mark.parametrize(
    ("weights", "ours"),
    [
        ({"task_loss_weight": 0.1, "distill_loss_weight": 0.9}, 0.1 * TASK + 0.9 * KD(T)),
        ({"task_loss_weight": A}, A * TASK + (1 - A) * KD(T)),
        ({"distill_loss_weight": 2.0}, 1 * TASK + 2 * KD(T)),
        ({}, 1 * TASK + 1 * KD(T)),
    ],
)
def test_timm(weights, ours):
    task = imported("timm.task").LogitDistillationTask
    images = torch.zeros(ROWS, 1, 1, 1, dtype=torch.float64)

    def total(z: Tensor, v: Tensor, labels: Tensor) -> Tensor:
        made = task(
            Said(z), Said(v), nn.CrossEntropyLoss(), temperature=T, verbose=False, **weights
        )
        return made(images, labels)["loss"]

    agree(total, ours)


@pytest.fixture
def keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    found = imported("keras")
    if found.backend.backend() != "torch":
        pytest.skip("keras was imported with another backend")
    return found


def test_keras_with_its_divergence_as_an_object(keras):
    loss = keras.distillation.LogitsDistillation(temperature=T, loss=keras.losses.KLDivergence())

    def total(z: Tensor, v: Tensor, labels: Tensor) -> Tensor:
        soft = loss.compute_loss(v.float(), z.float())  # it computes in float32
        return A * F.cross_entropy(z, labels) + (1 - A) * soft

    agree(total, A * TASK + (1 - A) * KD(T))


def test_keras_with_its_divergence_by_name_takes_it_of_logits(keras):
    """The page's warning: softmax and T squared are left out where the divergence is a name."""
    student, teacher, _ = logits()
    by_name = keras.distillation.LogitsDistillation(temperature=T)
    found = float(by_name.compute_loss(teacher.float(), student.float()))
    p, q = ((z / T).clamp(1e-7, 1) for z in (teacher, student))
    assert found == pytest.approx(float((p * (p / q).log()).sum(dim=1).mean()), rel=1e-5)
    meant = KD(T)(Outputs(student), Outputs(teacher), batch(torch.zeros(ROWS, dtype=torch.long)))
    assert found > 2 * float(meant)


@pytest.mark.parametrize(("reduction", "share"), [("batchmean", 1.0), ("mean", 1 / CLASSES)])
def test_modelopt(reduction, share):
    distill = imported("modelopt.torch.distill")
    loss = distill.LogitsDistillationLoss(temperature=T, reduction=reduction)
    balancer = distill.StaticLossBalancer(kd_loss_weight=0.7)

    def total(z: Tensor, v: Tensor, labels: Tensor) -> Tensor:
        parts = {"student_loss": F.cross_entropy(z, labels), "kd": loss(z, v)}
        return balancer(parts)

    agree(total, 0.3 * TASK + 0.7 * share * KD(T))
