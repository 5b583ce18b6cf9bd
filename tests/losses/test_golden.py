"""Losses and gradients of released implementations (tests/golden), one table row a case."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage.losses import KD, CrossEntropy, LogitMSE
from tutelage.objective import Loss
from tutelage.types import Batch, Outputs

FOLDER = Path(__file__).parents[1] / "golden"
CASES = json.loads((FOLDER / "cases.json").read_text())
with np.load(FOLDER / "arrays.npz", allow_pickle=False) as file:
    ARRAYS = {name: torch.from_numpy(values) for name, values in file.items()}

ROLES = {"student": ("student", "logits"), "teacher": ("teacher", "teacher_logits")}


@dataclass(frozen=True)
class Golden:
    """One case, with a token of a text as a row of its own."""

    name: str

    def find(self, *roles: str) -> Tensor | None:
        inputs = CASES[self.name]["inputs"]
        return next((ARRAYS[inputs[role]] for role in roles if role in inputs), None)

    def rows(self, which: str) -> Tensor:
        found = self.find(*ROLES[which])
        assert found is not None
        return found.flatten(end_dim=-2)

    @property
    def labels(self) -> Tensor | None:
        found = self.find("labels", "mlm_labels")
        return None if found is None else found.flatten()

    @property
    def attended(self) -> Tensor | None:
        found = self.find("attention_mask")
        return None if found is None else found.flatten() == 1

    @property
    def labelled(self) -> Tensor:
        assert self.labels is not None
        return self.labels != -100

    @property
    def loss(self) -> float:
        return float(CASES[self.name]["loss"])

    @property
    def gradient(self) -> Tensor:
        return ARRAYS[f"gradient/{self.name}"].flatten(end_dim=-2)


def as_it_is(golden: Golden) -> tuple[float, Tensor]:
    return golden.loss, golden.gradient


def centred_half_mean(golden: Golden) -> tuple[float, Tensor]:
    """Theirs: sum of squares over classes. Ours: centred rows, half the mean over classes."""
    assert golden.attended is not None
    classes = golden.gradient.shape[1]
    gap = (golden.rows("student") - golden.rows("teacher"))[golden.attended]
    unseen = float(classes * gap.mean(dim=1).square().mean())
    centred = golden.gradient - golden.gradient.mean(dim=1, keepdim=True)
    return (golden.loss - unseen) / (2 * classes), centred / (2 * classes)


def labels_share_of_recipe(golden: Golden) -> tuple[float, Tensor]:
    """Theirs: 5 KD + 2 cross-entropy + 1 cosine of hidden states, which logits do not move."""
    soft = Golden("distilbert_ce_only_f64")
    hard = float(CASES[golden.name]["components"]["loss_mlm"])
    return hard, (golden.gradient - 5 * soft.gradient) / 2


@dataclass(frozen=True)
class Row:
    """A case, our loss for it, and how their numbers read in our convention.

    Attributes:
        case: Its name in cases.json.
        loss: Ours, with the case's settings.
        ours: Value and gradient that ours must give, from theirs.
        counts: "attended" or "labelled" tokens; for one row a sample all count.
    """

    case: str
    loss: Loss
    ours: Callable[[Golden], tuple[float, Tensor]] = as_it_is
    counts: str = "attended"

    def __str__(self) -> str:
        return f"{self.loss.title}-{self.case}"


ROWS = [
    Row("kd_mdistiller_T1_l10_f64", KD(1)),
    Row("kd_mdistiller_T4_l10_f64", KD(4)),
    Row("kd_mdistiller_T1_l100_f64", KD(1)),
    Row("kd_mdistiller_T4_l100_f64", KD(4)),
    Row("kd_repdistiller_T4_l10_f64", KD(4)),
    Row("mlkd_kd_T2_l10_f64", KD(2)),
    Row("mlkd_kd_T2_l100_f64", KD(2)),
    Row("distilbert_ce_only_f64", KD(2)),
    Row("distilbert_ce_restricted_f64", KD(2), counts="labelled"),
    Row("distilbert_mse_only_f64", LogitMSE(), centred_half_mean),
    Row("distilbert_recipe_f64", CrossEntropy(), labels_share_of_recipe, counts="labelled"),
]


def ours(row: Row, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    golden = Golden(row.case)
    student = golden.rows("student").to(dtype).requires_grad_()
    ids = torch.arange(len(student))
    mask: Tensor | None = getattr(golden, row.counts)
    batch = Batch(torch.zeros(len(student), 1), golden.labels, ids, ids, mask)
    value = row.loss(Outputs(student), Outputs(golden.rows("teacher").to(dtype)), batch)
    (gradient,) = torch.autograd.grad(value, student)
    return value.detach().double(), gradient.double()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_value_and_gradient_are_those_of_the_released_code(row):
    value, gradient = ours(row, torch.float64)
    wanted, wanted_gradient = row.ours(Golden(row.case))
    assert float(value) == pytest.approx(wanted, rel=1e-11)
    assert (gradient - wanted_gradient).norm() < 1e-11 * wanted_gradient.norm()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_float32_inputs_agree_to_their_precision(row):
    value, gradient = ours(row, torch.float32)
    wanted, wanted_gradient = row.ours(Golden(row.case))
    assert float(value) == pytest.approx(wanted, rel=2e-6)
    assert (gradient - wanted_gradient).norm() < 3e-6 * wanted_gradient.norm()


def test_every_case_that_was_taken_is_used():
    assert {row.case for row in ROWS} == set(CASES)
