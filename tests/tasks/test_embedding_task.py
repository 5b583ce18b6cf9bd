import pytest
import torch
from torch import nn

from tutelage.data.loading import BatchBuilder, in_order
from tutelage.data.sources import TensorSource
from tutelage.errors import ShapeError
from tutelage.tasks import Embedding
from tutelage.teachers.reference import ReferenceSource
from tutelage.types import Batch, Outputs

TASK = Embedding(num_classes=6)
CPU = torch.device("cpu")


def source(count: int = 20) -> TensorSource:
    return TensorSource(torch.randn(count, 6, generator=torch.Generator().manual_seed(0)))


def teacher() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(6, 6)


def said_by(model: nn.Module):
    reader = BatchBuilder(ReferenceSource(source(), teacher(), TASK, chunk=8), num_classes=6)
    return TASK.predict(model, (reader[r] for r in in_order(20, batch_size=7)), CPU)


def test_the_teacher_itself_is_perfect():
    said = said_by(teacher())
    found = TASK.evaluate(said)
    assert found.values["rank_correlation"] == pytest.approx(1.0)
    assert found.values["pair_correlation"] == pytest.approx(1.0)
    assert found.values["shared_neighbours"] == 1.0
    assert found.values["cosine"] == pytest.approx(1.0)
    assert TASK.validate(said) == pytest.approx((1.0, 0.0))


def test_a_random_network_is_near_nothing():
    torch.manual_seed(5)
    found = TASK.evaluate(said_by(nn.Sequential(nn.Linear(6, 50), nn.ReLU(), nn.Linear(50, 3))))
    assert abs(found.values["rank_correlation"]) < 0.5
    assert "cosine" not in found.values


def test_the_metric_is_the_mean_of_the_scores():
    said = said_by(nn.Linear(6, 4))
    assert TASK.scores(said).shape == (20,)
    assert TASK.validate(said)[0] == pytest.approx(float(TASK.scores(said).mean()))


@pytest.mark.parametrize("shape", [(4,), (3, 6), (4, 2, 6)])
def test_a_network_gives_one_vector_a_sample(shape):
    class Fixed(nn.Module):
        def forward(self, inputs):
            return torch.zeros(shape)

    ids = torch.arange(4)
    with pytest.raises(ShapeError, match=r"for 4 samples; one vector a sample is needed"):
        TASK.run(Fixed(), Batch(torch.zeros(4, 6), None, ids, ids))


def test_a_reference_asks_the_teacher_once_about_a_sample():
    reference = ReferenceSource(source(), teacher(), TASK, chunk=8)
    ids = torch.tensor([3, 5, 3])
    _, first = reference.fetch(ids)
    expected = teacher()(source().inputs[ids])
    torch.testing.assert_close(first, expected.detach())
    reference.teacher.model = nn.Identity()  # nobody is asked again
    assert torch.equal(reference.fetch(ids)[1], first)


def test_a_reference_changes_with_its_teacher():
    other = nn.Linear(6, 6)
    fingerprints = {
        ReferenceSource(source(), model, TASK).fingerprint for model in (teacher(), other)
    }
    assert len(fingerprints) == 2


def test_embeddings_are_not_looked_at_as_class_numbers():
    reader = BatchBuilder(ReferenceSource(source(), teacher(), TASK), num_classes=6)
    assert reader[torch.tensor([0]), torch.tensor([0])].labels.is_floating_point()


def test_outputs_have_embeddings():
    vectors = torch.randn(2, 3)
    assert Outputs(vectors).embeddings is vectors
