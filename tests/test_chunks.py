"""An objective on hidden states, in chunks, is the objective on the logits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tutelage import chunks
from tutelage.errors import ShapeError
from tutelage.losses import (
    CTKD,
    DIST,
    DKD,
    KD,
    TAID,
    AdaptiveKL,
    AlphaBeta,
    CrossEntropy,
    JensenShannon,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
    TotalVariation,
)
from tutelage.objective import LossReport, Objective
from tutelage.types import Batch, HiddenStates, Outputs, SparseLogits

ROWS, WIDTH, WORDS = 23, 6, 17


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Five rows a chunk, so that the last one is not full."""
    monkeypatch.setattr(chunks, "CHUNK_NUMBERS", 5 * WORDS + 3)
    monkeypatch.setattr(chunks, "LEAST_ROWS", 1)


def randn(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def batch(mask: Tensor | None = None) -> Batch:
    ids = torch.arange(ROWS)
    labels = torch.randint(0, WORDS, (ROWS,), generator=torch.Generator().manual_seed(3))
    return Batch(torch.zeros(ROWS, 1), labels, ids, ids, mask)


def dense_teacher() -> Outputs:
    return Outputs(3 * randn(ROWS, WORDS, seed=4))


def hidden_teacher() -> Outputs:
    return Outputs(HiddenStates(randn(ROWS, 4, seed=5), randn(WORDS, 4, seed=6)))


def sparse_teacher() -> Outputs:
    values, indices = dense_teacher().logits.topk(4, dim=-1)
    return Outputs(SparseLogits(values, indices, values[:, -1] - 2, WORDS, is_pooled=True))


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "kd": lambda: 0.3 * CrossEntropy() + 0.7 * KD(2),
    "reverse": lambda: 0.3 * CrossEntropy() + 2 * ReverseKL() + 0.5 * SkewReverseKL(),
    "js": lambda: 1 * JensenShannon(0.3),
    "skew": lambda: 0.1 * CrossEntropy() + 1 * SkewKL(),
    "adaptive": lambda: 1 * AdaptiveKL() + 1 * TotalVariation(),
    "alpha_beta": lambda: 1 * AlphaBeta(),
    "taid": lambda: 1 * TAID(),
    "labels": lambda: 1 * CrossEntropy(),
    "not by item": lambda: 0.2 * CrossEntropy() + 0.5 * DIST() + 0.5 * KD(1),
    "learned temperature": lambda: 1 * CTKD() + 1 * KD(1),
    "looks at labels too": lambda: 1 * DKD(),
}


def gradients(
    objective: Objective,
    teacher: Outputs,
    given: Batch,
    *,
    in_chunks: bool,
    bias: bool = True,
) -> tuple[LossReport, list[Tensor]]:
    values = randn(ROWS, WIDTH, seed=0).requires_grad_()
    weight = randn(WORDS, WIDTH, seed=1).requires_grad_()
    offset = randn(WORDS, seed=2).requires_grad_() if bias else None
    hidden = HiddenStates(values, weight, offset)
    torch.manual_seed(0)
    report = objective.double()(Outputs(hidden if in_chunks else hidden.dense()), teacher, given)
    (2 * report.total).backward()
    leaves = [leaf for leaf in (values, weight, offset) if leaf is not None]
    found = [leaf.grad for leaf in leaves] + [p.grad for p in objective.parameters()]
    return report, [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("teacher", [dense_teacher, hidden_teacher, sparse_teacher])
@pytest.mark.parametrize("is_masked", [False, True])
def test_value_parts_and_gradients_are_those_of_the_dense_loss(name, teacher, is_masked):
    mask = torch.arange(ROWS) % 3 > 0 if is_masked else None
    make = OBJECTIVES[name]
    found, slopes = gradients(make(), teacher(), batch(mask), in_chunks=True)
    wanted, wanted_slopes = gradients(make(), teacher(), batch(mask), in_chunks=False)
    torch.testing.assert_close(found.total, wanted.total)
    assert list(found.parts) == list(wanted.parts)
    for part, value in wanted.parts.items():
        torch.testing.assert_close(found.parts[part], value)
    torch.testing.assert_close(found.task.detach(), wanted.task.detach())
    assert len(slopes) == len(wanted_slopes) >= 3
    for slope, wanted_slope in zip(slopes, wanted_slopes, strict=True):
        torch.testing.assert_close(slope, wanted_slope)


def test_each_product_with_a_head_is_made_once_a_chunk(monkeypatch):
    made = []
    product = HiddenStates.product
    monkeypatch.setattr(HiddenStates, "product", lambda own: made.append(len(own)) or product(own))
    objective = 0.3 * CrossEntropy() + 0.4 * KD(2) + 0.2 * JensenShannon(0.3) + 0.1 * DKD()
    gradients(objective, hidden_teacher(), batch(), in_chunks=True)
    assert sorted(made) == sorted(2 * [5, 5, 5, 5, 3])


class Tied(nn.Module):
    """A language model of two layers whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(WORDS, WIDTH, dtype=torch.float64)
        self.layer = nn.Linear(WIDTH, WIDTH, dtype=torch.float64)

    def hidden(self, ids: Tensor) -> HiddenStates:
        return HiddenStates(self.layer(self.embedding(ids)).tanh(), self.embedding.weight)


def test_a_tied_head_gets_the_gradients_of_both_its_uses():
    found = []
    for in_chunks in (True, False):
        model = Tied()
        hidden = model.hidden(torch.arange(ROWS) % WORDS)
        scores = hidden if in_chunks else hidden.dense()
        OBJECTIVES["kd"]()(Outputs(scores), dense_teacher(), batch()).total.backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for slope, wanted in zip(*found, strict=True):
        torch.testing.assert_close(slope, wanted)


@pytest.mark.parametrize("name", ["kd", "js", "reverse"])
def test_bf16_hidden_states_agree_within_their_precision(name):
    values, weight = randn(ROWS, WIDTH, seed=0), randn(WORDS, WIDTH, seed=1)
    losses, slopes = [], []
    for dtype in (torch.bfloat16, torch.float32):
        leaf = values.to(torch.bfloat16).to(dtype).requires_grad_()
        head = weight.to(torch.bfloat16).to(dtype)
        report = OBJECTIVES[name]()(Outputs(HiddenStates(leaf, head)), dense_teacher(), batch())
        report.total.backward()
        losses.append(report.total.detach().float())
        slopes.append(leaf.grad.float())
    torch.testing.assert_close(losses[0], losses[1], rtol=0.02, atol=0)
    assert (slopes[0] - slopes[1]).norm() < 0.03 * slopes[1].norm()


def test_without_gradients_the_value_is_the_same():
    with torch.no_grad():
        found = OBJECTIVES["kd"]()(
            Outputs(HiddenStates(randn(ROWS, WIDTH, seed=0), randn(WORDS, WIDTH, seed=1))),
            dense_teacher(),
            batch(),
        )
    wanted, _ = gradients(OBJECTIVES["kd"](), dense_teacher(), batch(), in_chunks=False, bias=False)
    torch.testing.assert_close(found.total, wanted.total.detach())


def test_a_batch_in_which_nothing_counts_gives_zero():
    mask = torch.zeros(ROWS, dtype=torch.bool)
    report, slopes = gradients(OBJECTIVES["kd"](), dense_teacher(), batch(mask), in_chunks=True)
    assert float(report.total.detach()) == 0
    assert all(bool((slope == 0).all()) for slope in slopes)


def test_a_second_way_back_is_refused():
    values = randn(ROWS, WIDTH, seed=0).requires_grad_()
    scores = HiddenStates(values, randn(WORDS, WIDTH, seed=1))
    report = OBJECTIVES["kd"]()(Outputs(scores), dense_teacher(), batch())
    report.total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        report.total.backward()


def test_a_teacher_of_other_items_is_refused():
    values = randn(ROWS, WIDTH, seed=0)
    scores = HiddenStates(values, randn(WORDS, WIDTH, seed=1))
    longer = Outputs(randn(ROWS + 1, WORDS, seed=4))
    with pytest.raises(ShapeError, match=f"student has {ROWS} items, the teacher {ROWS + 1}"):
        OBJECTIVES["kd"]()(Outputs(scores), longer, batch())


def test_the_share_of_taid_moves_once_a_batch():
    objective = OBJECTIVES["taid"]()
    taid = objective.terms[0].loss
    for _ in range(2):
        report, _ = gradients(objective, dense_teacher(), batch(), in_chunks=True)
    torch.testing.assert_close(taid.last, report.parts["taid"])
    assert float(taid.share) > 0.4
