import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.errors import ConfigError, ShapeError, SignalError
from tutelage.losses import EmbeddingCosine, EmbeddingMSE, MarginMSE, SimCSE, SimilarityKL
from tutelage.losses.embedding import margin_distance, similarity_kl
from tutelage.models.axes import principal_axes, rotation_onto
from tutelage.objective import DryRun
from tutelage.tasks import Embedding
from tutelage.types import Batch, Outputs

ROWS, WIDTH = 7, 5


@pytest.fixture
def sides() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(ROWS, WIDTH, generator=generator).double() for _ in range(2))


def batch(rows: int, mask: Tensor | None = None) -> Batch:
    ids = torch.arange(rows)
    return Batch(torch.zeros(rows, 1), None, ids, torch.zeros_like(ids), mask)


def value(loss, student, teacher, mask=None):
    return loss(Outputs(student), Outputs(teacher), batch(len(student), mask))


def test_mse_is_the_squared_distance_a_sample(sides):
    student, teacher = sides
    by_hand = sum(
        math.dist(a, b) ** 2 for a, b in zip(student.tolist(), teacher.tolist(), strict=True)
    )
    assert value(EmbeddingMSE(), student, teacher).item() == pytest.approx(by_hand / ROWS)


def test_mse_of_unit_vectors_is_twice_the_cosine_distance(sides):
    student, teacher = (side / side.norm(dim=1, keepdim=True) for side in sides)
    mse, cosine = (value(loss, student, teacher) for loss in (EmbeddingMSE(), EmbeddingCosine()))
    assert mse.item() == pytest.approx(2 * cosine.item())


def test_cosine_does_not_see_lengths(sides):
    student, teacher = sides
    loss = EmbeddingCosine()
    assert value(loss, 3 * student, teacher).item() == pytest.approx(
        value(loss, student, teacher / 7).item()
    )


def test_similarity_kl_equals_a_slow_loop(sides):
    student, teacher = sides
    total = 0.0
    for anchor in range(ROWS):
        others = [other for other in range(ROWS) if other != anchor]
        weights = {}
        for name, side in (("q", student), ("p", teacher)):
            cosines = [
                float(side[anchor] @ side[o]) / float(side[anchor].norm() * side[o].norm())
                for o in others
            ]
            heights = [math.exp(cosine / 0.1) for cosine in cosines]
            weights[name] = [height / sum(heights) for height in heights]
        total += sum(p * math.log(p / q) for p, q in zip(weights["p"], weights["q"], strict=True))
    assert similarity_kl(student, teacher, 0.1).item() == pytest.approx(total / ROWS)


def test_margins_equal_a_loop_over_all_triples(sides):
    student, teacher = sides
    squares = [
        float(student[i] @ (student[j] - student[k]) - teacher[i] @ (teacher[j] - teacher[k])) ** 2
        for i in range(ROWS)
        for j in range(ROWS)
        for k in range(ROWS)
        if len({i, j, k}) == 3
    ]
    by_hand = sum(squares) / len(squares)
    assert margin_distance(student, teacher).item() == pytest.approx(by_hand)


@pytest.mark.parametrize("loss", [SimilarityKL(), MarginMSE()], ids=lambda loss: loss.title)
def test_relations_do_not_need_equal_widths(loss, sides):
    student, _ = sides
    turned = torch.cat([student, torch.zeros(ROWS, 3)], dim=1)[:, torch.randperm(WIDTH + 3)]
    assert value(loss, student, turned).item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    "loss", [EmbeddingMSE(), EmbeddingCosine(), SimilarityKL(), MarginMSE()], ids=lambda x: x.title
)
def test_rows_that_do_not_count_change_nothing(loss, sides):
    student, teacher = sides
    mask = torch.tensor([True] * 5 + [False] * 2)
    spoilt = torch.where(mask[:, None], student, torch.full_like(student, 1e3))
    assert value(loss, spoilt, teacher, mask).item() == pytest.approx(
        value(loss, student[:5], teacher[:5]).item()
    )


@pytest.mark.parametrize(
    "loss", [EmbeddingMSE(), EmbeddingCosine(), SimilarityKL(), MarginMSE()], ids=lambda x: x.title
)
def test_nothing_counted_is_zero_with_a_gradient(loss, sides):
    student = sides[0].requires_grad_()
    found = value(loss, student, sides[1], torch.zeros(ROWS, dtype=torch.bool))
    found.backward()
    assert found.item() == 0.0
    assert not student.grad.any()


def test_a_narrower_student_learns_along_the_teachers_axes():
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(200, 2, generator=generator) @ torch.tensor([[9.0, 0, 1], [0, 5.0, 1]])
    teacher = plane + 0.01 * torch.randn(200, 3, generator=generator)
    student = teacher @ principal_axes(teacher, 2)
    loss = EmbeddingMSE()
    first = (Outputs(student[:1]), Outputs(teacher[:1]))
    few = DryRun(*first, teacher_outputs=lambda _: Outputs(teacher))
    loss.setup(few)
    assert value(loss, student, teacher).item() < 1e-6
    assert value(loss, student.flip(dims=[1]), teacher).item() > 1


def test_axes_are_turned_to_where_the_student_lies_already():
    """A student made from the teacher, but turned, need not turn back."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(200, 5, generator=generator) * torch.tensor([9.0, 7, 5, 0.1, 0.1])
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
    student = teacher @ principal_axes(teacher, 3) @ turn
    first = (Outputs(student[:4]), Outputs(teacher[:4]))
    asked = []

    def more(side):
        return lambda count: asked.append(count) or Outputs(side)

    for title, loss in (("mse", EmbeddingMSE()), ("cosine", EmbeddingCosine())):
        loss.setup(DryRun(*first, teacher_outputs=more(teacher), student_outputs=more(student)))
        assert value(loss, student, teacher).item() < 1e-4, title
        assert loss.axes is not None
        torch.testing.assert_close(loss.axes.T @ loss.axes, torch.eye(3), atol=1e-5, rtol=0)
    assert set(asked) == {4096, 2048}


def test_a_rotation_is_the_one_of_scipy():
    from scipy.linalg import orthogonal_procrustes

    first, second = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0)).double()
    expected, _ = orthogonal_procrustes(first.numpy(), second.numpy())
    torch.testing.assert_close(rotation_onto(first, second), torch.tensor(expected))


def test_axes_are_those_of_scikit_learn():
    from sklearn.decomposition import PCA

    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(60, 6, generator=generator) * torch.tensor([5.0, 4, 3, 2, 1, 0.5]) + 2
    expected = torch.from_numpy(PCA(3).fit(vectors.numpy()).components_.T)
    axes = principal_axes(vectors, 3)
    assert (axes.T @ expected).abs().diagonal() == pytest.approx([1.0] * 3, abs=1e-4)


def test_a_wider_student_is_refused(sides):
    dry = DryRun(Outputs(sides[0]), Outputs(sides[1][:, :3]))
    with pytest.raises(ShapeError, match=r"5 wide, the teacher's 3.*similarity_kl"):
        EmbeddingMSE().setup(dry)


def test_more_axes_than_columns_are_refused():
    with pytest.raises(ShapeError, match="4 principal axes need vectors of that width"):
        principal_axes(torch.zeros(8, 3), 4)


def test_few_samples_still_give_upright_axes():
    axes = principal_axes(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), 6)
    assert torch.allclose(axes.T @ axes, torch.eye(6), atol=1e-5)


def test_widths_that_differ_unseen_are_an_error(sides):
    with pytest.raises(ShapeError, match="build with a dry run"):
        value(EmbeddingMSE(), sides[0], sides[1][:, :3])


def test_a_teacher_is_needed(sides):
    with pytest.raises(SignalError, match="'margin_mse' needs a teacher's embeddings"):
        MarginMSE()(Outputs(sides[0]), None, batch(ROWS))


@pytest.mark.parametrize("temperature", [0, -1, math.inf, math.nan])
def test_a_temperature_of_cosines_is_above_zero(temperature):
    with pytest.raises(ConfigError, match="similarity_kl: temperature must be above 0"):
        SimilarityKL(temperature)


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, inputs):
        return F.dropout(self.layer(inputs), 0.5, self.training)


def twice(rows: int = ROWS):
    torch.manual_seed(0)
    loss, inputs = SimCSE(temperature=0.1), torch.randn(rows, 4)
    wrapped = loss.modify_student(Dropping(), DryRun(Outputs(torch.zeros(rows, 4))))
    return loss, wrapped, batch_of(inputs)


def batch_of(inputs: Tensor) -> Batch:
    ids = torch.arange(len(inputs))
    return Batch(inputs, None, ids, torch.zeros_like(ids))


def test_simcse_equals_a_slow_loop_over_two_words():
    loss, wrapped, batch = twice()
    said = Embedding(4).run(wrapped, batch, loss.student_layers)
    first, second = said.embeddings.detach(), said.features["twin"].detach()
    assert not torch.equal(first, second)
    total = 0.0
    for row in range(ROWS):
        cosines = [float(F.cosine_similarity(first[row], other, dim=0)) / 0.1 for other in second]
        total -= cosines[row] - math.log(sum(math.exp(cosine) for cosine in cosines))
    assert loss(said, None, batch).detach().item() == pytest.approx(total / ROWS, rel=1e-4)


def test_simcse_hears_a_network_once_where_it_is_not_trained():
    loss, wrapped, batch = twice()
    said = Embedding(4).run(wrapped.eval(), batch, loss.student_layers)
    assert torch.equal(said.embeddings, said.features["twin"])


class Network(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Dropout(0.0), nn.Linear(4, 4), nn.Dropout(0.0))


def test_simcse_can_set_the_dropout_of_a_copy():
    network = Network()
    wrapped = SimCSE(dropout=0.3).modify_student(network, DryRun(Outputs(torch.zeros(2, 4))))
    assert [wrapped.network[0].p, wrapped.network[2].p] == [0.3, 0.3]
    assert [network[0].p, network[2].p] == [0.0, 0.0]
    assert torch.equal(wrapped.network[1].weight, network[1].weight)
    own = SimCSE().modify_student(network, DryRun(Outputs(torch.zeros(2, 4))))
    assert own.network is network


def test_simcse_refuses_what_would_say_the_same_twice():
    with pytest.raises(ConfigError, match=r"Linear has no nn.Dropout, .* set baseline: false"):
        SimCSE(dropout=0.1).modify_student(nn.Linear(4, 4), DryRun(Outputs(torch.zeros(2, 4))))
    with pytest.raises(ConfigError, match=r"simcse: dropout must lie between 0 and 1, got 1.0"):
        SimCSE(dropout=1.0)


def test_simcse_needs_several_samples():
    with pytest.raises(ConfigError, match="'simcse' relates the samples of a batch"):
        SimCSE().modify_student(Dropping(), DryRun(Outputs(torch.zeros(1, 4))))
