"""Losses and gradients of released implementations (tests/golden), one table row a case."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage.losses import (
    DKD,
    ERKD,
    KD,
    MLKD,
    TTM,
    WSLD,
    WTTM,
    AdaptiveKL,
    CrossEntropy,
    LogitMSE,
    OFALogit,
    ReverseKL,
    SkewReverseKL,
    TeacherFree,
)
from tutelage.losses.divergences import cross_entropy, entropy_per_item, log_soften
from tutelage.objective import Loss
from tutelage.types import Batch, Outputs, SparseLogits

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
    def teacher(self) -> Tensor | None:
        return self.rows("teacher") if self.find(*ROLES["teacher"]) is not None else None

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

    @property
    def correct(self) -> float:
        """What the published formula gives where the released code has a fault."""
        return float(CASES[self.name]["issue"]["correct_value"])

    def argument(self, name: str) -> float:
        return float(CASES[self.name]["args"][name])

    @property
    def task_loss(self) -> tuple[float, Tensor]:
        """Cross-entropy on the labels and its gradient."""
        assert self.labels is not None
        student = self.rows("student").double().requires_grad_()
        value = cross_entropy(student, self.labels)
        (gradient,) = torch.autograd.grad(value, student)
        return float(value.detach()), gradient

    def labelled_share(self, of: str) -> float:
        """Labelled tokens by a count that theirs divides by."""
        return float(self.labelled.sum()) / self.argument(of)


Numbers = tuple[float, Tensor | None]


def as_it_is(golden: Golden) -> Numbers:
    return golden.loss, golden.gradient


def centred_half_mean(golden: Golden) -> Numbers:
    """Theirs: sum of squares over classes. Ours: centred rows, half the mean over classes."""
    assert golden.attended is not None
    classes = golden.gradient.shape[1]
    gap = (golden.rows("student") - golden.rows("teacher"))[golden.attended]
    unseen = float(classes * gap.mean(dim=1).square().mean())
    centred = golden.gradient - golden.gradient.mean(dim=1, keepdim=True)
    return (golden.loss - unseen) / (2 * classes), centred / (2 * classes)


def labels_share_of_recipe(golden: Golden) -> Numbers:
    """Theirs: 5 KD + 2 cross-entropy + 1 cosine of hidden states, which logits do not move."""
    soft = Golden("distilbert_ce_only_f64")
    hard = float(CASES[golden.name]["components"]["loss_mlm"])
    return hard, (golden.gradient - 5 * soft.gradient) / 2


def without_alpha(golden: Golden) -> Numbers:
    """Theirs: with a weight of its own. Ours: that is the term's."""
    alpha = golden.argument("alpha")
    return golden.loss / alpha, golden.gradient / alpha


def without_alpha_and_labels(golden: Golden) -> Numbers:
    """Theirs: with the task loss, and a weight of its own."""
    hard, gradient = golden.task_loss
    alpha = golden.argument("alpha")
    return (golden.loss - hard) / alpha, (golden.gradient - gradient) / alpha


def without_mean_entropy(golden: Golden) -> Numbers:
    """Theirs: all rows times the batch's mean entropy, as a column meets a row. Ours: plain."""
    entropy = float(entropy_per_item(golden.rows("teacher"), golden.argument("t")).mean())
    return golden.loss / entropy, golden.gradient / entropy


def mean_of_sum(golden: Golden) -> Numbers:
    """Theirs: summed over tokens, without T squared. Ours: their mean, with it."""
    factor = golden.argument("temperature") ** 2 / float(golden.labelled.sum())
    return golden.loss * factor, golden.gradient * factor


def by_own_count(golden: Golden) -> Numbers:
    """Theirs: the sum over tokens by a count that is given. Ours: by the tokens that count."""
    share = golden.labelled_share("num_batch_labels")
    return golden.loss / share, golden.gradient / share


def as_it_should_be(golden: Golden) -> Numbers:
    """The published formula's value; of the faulty code there is no gradient to compare."""
    return golden.correct, None


def without_labels_as_it_should_be(golden: Golden) -> Numbers:
    """Likewise, less the task loss, by its own weight."""
    alpha = golden.argument("reg_alpha")
    return (golden.correct - (1 - alpha) * golden.task_loss[0]) / alpha, None


def all_of_it(golden: Golden, teacher: Tensor) -> Outputs:
    """The teacher's logits."""
    return Outputs(teacher)


def best_and_rest(golden: Golden, teacher: Tensor) -> Outputs:
    """Its k best log-probabilities, and the mass of all others."""
    values, indices = log_soften(teacher).topk(int(golden.argument("k")), dim=-1)
    num_classes = teacher.shape[-1]
    rest = torch.log1p(-values.exp().sum(dim=-1))
    filler = rest - math.log(num_classes - values.shape[-1])
    return Outputs(SparseLogits(values, indices, filler, num_classes, is_pooled=True))


def drawn(golden: Golden, teacher: Tensor) -> Outputs:
    """Classes that were drawn from it, and how often."""
    counts = golden.find("counts")
    assert counts is not None
    values, indices = counts.flatten(end_dim=-2).to(teacher.dtype).log().topk(20, dim=-1)
    indices = torch.where(values == -torch.inf, indices[:, :1], indices)
    filler = torch.full((len(values),), -torch.inf, dtype=teacher.dtype)
    return Outputs(SparseLogits(values, indices, filler, teacher.shape[-1], is_pooled=True))


@dataclass(frozen=True)
class Row:
    """A case, our loss for it, and how their numbers read in our convention.

    Attributes:
        case: Its name in cases.json.
        loss: Ours, with the case's settings.
        ours: Value and gradient (None where there is none) that ours must give, from theirs.
        counts: "attended" or "labelled" tokens; for one row a sample all count.
        rounding: Of its value in float32; at temperature 20 small differences are times 400.
        exact: Of its value in float64; some code computes in float32 whatever it is given.
        told: What of the teacher the student is told.
    """

    case: str
    loss: Loss
    ours: Callable[[Golden], Numbers] = as_it_is
    counts: str = "attended"
    rounding: float = 2e-6
    exact: float = 1e-11
    told: Callable[[Golden, Tensor], Outputs] = all_of_it

    def __str__(self) -> str:
        return f"{self.loss.title}-{self.case}"


def token_row(
    case: str,
    loss: Loss,
    ours: Callable[[Golden], Numbers] = as_it_is,
    told: Callable[[Golden, Tensor], Outputs] = all_of_it,
) -> Row:
    """A case of labelled tokens, whose code computes in float32."""
    return Row(case, loss, ours, counts="labelled", exact=3e-6, told=told)


ROWS = [
    Row("kd_mdistiller_T1_l10_f64", KD(1)),
    Row("kd_mdistiller_T4_l10_f64", KD(4)),
    Row("kd_mdistiller_T1_l100_f64", KD(1)),
    Row("kd_mdistiller_T4_l100_f64", KD(4)),
    Row("kd_repdistiller_T4_l10_f64", KD(4)),
    Row("mlkd_kd_T2_l10_f64", KD(2)),
    Row("mlkd_kd_T2_l100_f64", KD(2)),
    Row("ttm_g0.1_l10_f64", TTM(10)),
    Row("ttm_g0.5_l100_f64", TTM(2)),
    Row("wttm_g0.1_l10_f64", WTTM(10)),
    Row("wttm_g0.5_l100_f64", WTTM(2)),
    Row("wsld_clskd_T4_a2.25_l10_f64", WSLD(4), without_alpha),
    Row("wsld_clskd_T2_a2.5_l100_f64", WSLD(2), without_alpha),
    Row("wsld_official_full_1000_f64", WSLD(2), without_alpha_and_labels),
    Row("erkd_T4_t4_l10_f64", ERKD(KD(4))),
    Row("erkd_T1_t4_l100_f64", ERKD(KD(1))),
    Row("erdkd_l10_f64", DKD(), without_mean_entropy),
    Row("erdkd_l100_f64", DKD(), without_mean_entropy),
    Row("erdkd_l10_f64", ERKD(DKD()), as_it_should_be),
    Row("erdkd_l100_f64", ERKD(DKD()), as_it_should_be),
    Row("ofa_eps1_T1_l10_f64", OFALogit()),
    Row("ofa_eps1.5_T1_l10_f64", OFALogit(1.5)),
    Row("ofa_eps1.2_T2_l100_f64", OFALogit(1.2, temperature=2)),
    Row("mlkd_cc_T4_l10_f64", MLKD((4,), sample_weight=0, batch_weight=0)),
    Row("mlkd_bc_T4_l10_f64", MLKD((4,), sample_weight=0, class_weight=0)),
    Row("mlkd_cc_T2_l100_f64", MLKD((2,), sample_weight=0, batch_weight=0)),
    Row("mlkd_bc_T2_l100_f64", MLKD((2,), sample_weight=0, class_weight=0)),
    Row("mlkd_kd_T2_l10_f64", MLKD((2,), batch_weight=0, class_weight=0)),
    Row("ttm_g0.2_l10_f64", TTM(5)),
    Row("wttm_g0.2_l10_f64", WTTM(5)),
    Row("ttm_g0.5_l10_f64", TTM(2)),
    Row("wttm_g0.5_l10_f64", WTTM(2)),
    Row("wsld_clskd_T2_a2.5_l10_f64", WSLD(2), without_alpha),
    Row("erkd_T1_t4_l10_f64", ERKD(KD(1))),
    Row("ofa_eps1.2_T2_l10_f64", OFALogit(1.2, temperature=2)),
    Row("mlkd_cc_T2_l10_f64", MLKD((2,), sample_weight=0, batch_weight=0)),
    Row("mlkd_bc_T2_l10_f64", MLKD((2,), sample_weight=0, class_weight=0)),
    Row("mlkd_kd_T4_l10_f64", MLKD((4,), batch_weight=0, class_weight=0)),
    Row("ttm_g0.1_l100_f64", TTM(10)),
    Row("wttm_g0.1_l100_f64", WTTM(10)),
    Row("ttm_g0.2_l100_f64", TTM(5)),
    Row("wttm_g0.2_l100_f64", WTTM(5)),
    Row("wsld_clskd_T4_a2.25_l100_f64", WSLD(4), without_alpha),
    Row("erkd_T4_t4_l100_f64", ERKD(KD(4))),
    Row("ofa_eps1_T1_l100_f64", OFALogit()),
    Row("ofa_eps1.5_T1_l100_f64", OFALogit(1.5)),
    Row("mlkd_kd_T2_l100_f64", MLKD((2,), batch_weight=0, class_weight=0)),
    Row("mlkd_cc_T4_l100_f64", MLKD((4,), sample_weight=0, batch_weight=0)),
    Row("mlkd_bc_T4_l100_f64", MLKD((4,), sample_weight=0, class_weight=0)),
    Row("mlkd_kd_T4_l100_f64", MLKD((4,), batch_weight=0, class_weight=0)),
    Row("kd_repdistiller_T4_l100_f64", KD(4)),
    Row("tfkd_reg_l10_f64", TeacherFree(), without_labels_as_it_should_be, rounding=1e-5),
    Row("tfkd_reg_l100_f64", TeacherFree(), without_labels_as_it_should_be, rounding=1e-5),
    Row("distilbert_ce_only_f64", KD(2)),
    Row("distilbert_ce_restricted_f64", KD(2), counts="labelled"),
    Row("distilbert_mse_only_f64", LogitMSE(), centred_half_mean),
    Row("distilbert_recipe_f64", CrossEntropy(), labels_share_of_recipe, counts="labelled"),
    token_row("distillm_reverse_kl_f64", ReverseKL()),
    token_row("distillm_skew_rkl_l0.1_f64", SkewReverseKL(0.1)),
    token_row("distillm_skew_rkl_l0.5_f64", SkewReverseKL(0.5)),
    token_row("akl_mu0.5_f64", AdaptiveKL(0.5)),
    token_row("akl_reimplementation_taid_f64", AdaptiveKL(0.5), as_it_should_be),
    token_row("nemo_kd_T1_f64", KD(1)),
    token_row("nemo_kd_T2_f64", KD(2)),
    token_row("nemo_kd_T2_chunk3_f64", KD(2)),
    token_row("nemo_kd_T1_numlabels_f64", KD(1), by_own_count),
    token_row("distillkit_dense_T2_f64", KD(2), mean_of_sum),
    token_row("distillkit_sparse_symmetric_uniform_T1_f64", KD(1), mean_of_sum, best_and_rest),
    token_row("trl_server_topk_tail_f64", KD(1), told=best_and_rest),
    token_row("rskd_counts_N50_f64", KD(1), told=drawn),
]


def ours(row: Row, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    golden = Golden(row.case)
    student = golden.rows("student").to(dtype).requires_grad_()
    ids = torch.arange(len(student))
    mask: Tensor | None = getattr(golden, row.counts)
    batch = Batch(torch.zeros(len(student), 1), golden.labels, ids, ids, mask)
    teacher = None if golden.teacher is None else row.told(golden, golden.teacher.to(dtype))
    value = row.loss(Outputs(student), teacher, batch)
    (gradient,) = torch.autograd.grad(value, student)
    return value.detach().double(), gradient.double()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_value_and_gradient_are_those_of_the_released_code(row):
    value, gradient = ours(row, torch.float64)
    wanted, wanted_gradient = row.ours(Golden(row.case))
    assert float(value) == pytest.approx(wanted, rel=row.exact)
    if wanted_gradient is not None:
        assert (gradient - wanted_gradient).norm() < row.exact * wanted_gradient.norm()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_float32_inputs_agree_to_their_precision(row):
    value, gradient = ours(row, torch.float32)
    wanted, wanted_gradient = row.ours(Golden(row.case))
    assert float(value) == pytest.approx(wanted, rel=row.rounding)
    if wanted_gradient is not None:
        assert (gradient - wanted_gradient).norm() < 3e-6 * wanted_gradient.norm()


def test_every_case_that_was_taken_is_used():
    assert {row.case for row in ROWS} == set(CASES)
