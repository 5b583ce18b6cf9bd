"""Inputs at the edge: two classes, one sample, a class never seen, samples all alike.

Equal networks, impossible classes and batches in which nothing counts are in test_contract.py.
"""

import pytest
import test_contract as contract
import torch
from test_contract import ROWS, every_loss, numbers, value
from torch import Tensor

from tutelage.errors import ShapeError, TutelageError
from tutelage.losses import DKD, KD, LOSSES, CrossEntropy
from tutelage.types import Batch, Outputs, Signal, SparseLogits

NOTHING_IN_ONE = {  # what relates samples, or normalises over them, has nothing to say of one
    "correlation_congruence",
    "crd",
    "margin_mse",
    "pkt",
    "review_kd",
    "rkd_angle",
    "rkd_distance",
    "similarity_kl",
    "similarity_preserving",
    "srd",
}
TOO_FEW_CLASSES = {"dist", "logit_standardisation"}
RELATES_CLASSES = {"mlkd"}  # sums over samples, so that its value goes with the batch


def found(trial, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient."""
    student, *others = tensors
    student = student.clone().requires_grad_()
    loss = value(trial.make(), student, *others)
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


@every_loss
def test_one_sample(trial):
    alone = [tensor[:1] for tensor in numbers()]
    loss, gradient = found(trial, *alone)
    assert gradient.isfinite().all()
    if trial.name in NOTHING_IN_ONE:
        assert float(loss) == 0
        assert (gradient == 0).all()
    else:
        assert 0 < float(loss) < float("inf")


@every_loss
def test_samples_that_are_all_alike_count_as_one_of_them(trial):
    alone = [tensor[:1] for tensor in numbers()]
    alike = [tensor.expand(ROWS, *tensor.shape[1:]) for tensor in alone]
    loss, gradient = found(trial, *alike)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    draws_samples = trial.special.remembers or trial.name in {"crd", "review_kd", "srd"}
    if not draws_samples and trial.name not in RELATES_CLASSES:
        torch.testing.assert_close(loss, found(trial, *alone)[0])


@every_loss
def test_labels_of_one_class_only(trial):
    student, teacher, labels = numbers()
    loss, gradient = found(trial, student, teacher, torch.zeros_like(labels))
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert (gradient.abs().sum(dim=-1) > 0).all()


@every_loss
def test_two_classes(trial, monkeypatch):
    monkeypatch.setattr(contract, "CLASSES", 2)
    if trial.name in TOO_FEW_CLASSES:
        with pytest.raises(TutelageError, match=f"{trial.name}: the networks have 2 classes"):
            found(trial, *numbers())
        return
    loss, gradient = found(trial, *numbers())
    assert 0 < float(loss) < float("inf")
    assert gradient.isfinite().all()


@every_loss
def test_one_class_is_refused_where_probabilities_are_compared(trial, monkeypatch):
    monkeypatch.setattr(contract, "CLASSES", 1)
    loss = trial.make()
    is_of_classes = Signal.LOGITS in loss.takes and loss.needs & {Signal.LOGITS, Signal.LABELS}
    if not is_of_classes or trial.name == "crd_memory":
        pytest.skip("compares no probabilities of classes")
    with pytest.raises(ShapeError, match=f"{trial.name}.* 1 (output|classes)"):
        found(trial, *numbers())


def test_with_two_classes_decoupled_distillation_is_plain_distillation(monkeypatch):
    monkeypatch.setattr(contract, "CLASSES", 2)
    student, teacher, labels = numbers()
    torch.testing.assert_close(
        value(DKD(other_weight=8.0, temperature=3.0), student, teacher, labels),
        value(KD(temperature=3.0), student, teacher, labels),
    )


def test_too_few_classes_is_an_error_of_shape(monkeypatch):
    monkeypatch.setattr(contract, "CLASSES", 2)
    trial = next(trial for trial in contract.TRIALS if trial.name == "dist")
    with pytest.raises(ShapeError, match=r"dist: the networks have 2 classes.*Use kd"):
        found(trial, *numbers())


EVERY_WAY = (
    "kd",
    "reverse_kl",
    "jensen_shannon",
    "skew_kl",
    "skew_reverse_kl",
    "adaptive_kl",
    "taid",
)


@pytest.mark.parametrize("name", EVERY_WAY)
@pytest.mark.parametrize("filler", [-torch.inf, 0.0])
@pytest.mark.parametrize("is_pooled", [True, False])
def test_a_sparse_row_that_keeps_every_class_is_the_dense_row(name, filler, is_pooled):
    student, teacher, _ = numbers()
    order = teacher.argsort(dim=-1, descending=True)
    sparse = SparseLogits(
        teacher.gather(1, order), order, torch.full((ROWS,), filler).double(), 6, is_pooled
    )
    ids = torch.arange(ROWS)
    batch = Batch(torch.zeros(ROWS, 1), None, ids, ids)
    found = []
    for scores in (teacher, sparse):
        leaf = student.clone().requires_grad_()
        loss = LOSSES[name]()(Outputs(leaf), Outputs(scores), batch)
        found.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    torch.testing.assert_close(found[1], found[0])


def test_a_part_of_a_batch_knows_which_of_its_labels_are_known():
    ids = torch.arange(ROWS)
    known = torch.tensor([True, False] * (ROWS // 2))
    labels = torch.where(known, ids % 6, -100)
    batch = Batch(torch.zeros(ROWS, 1), labels, ids, ids, is_labelled=known)
    student = numbers()[0]
    whole = CrossEntropy()(Outputs(student), None, batch)
    parts = batch.parts(2)
    halves = zip(student.split(ROWS // 2), parts, strict=True)
    values = [CrossEntropy()(Outputs(logits), None, part) for logits, part in halves]
    torch.testing.assert_close(sum(values) / 2, whole)
