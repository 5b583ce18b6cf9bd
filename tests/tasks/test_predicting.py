"""What a network says of a whole data set, in whatever order it is asked."""

import pytest
import torch
from torch import nn

from tutelage.data.loading import BatchBuilder, in_order
from tutelage.data.sources import TensorSource
from tutelage.data.tokens import TokenSource
from tutelage.errors import ModelError
from tutelage.tasks import Classification, Embedding, TokenClassification
from tutelage.tasks.predicting import predict_data
from tutelage.teachers.reference import ReferenceSource
from tutelage.types import Batch

CPU = torch.device("cpu")
LENGTHS = (5, 1, 4, 1, 5, 2, 3)


class Noting(nn.Module):
    """Logits of each token, or of their mean; it notes how it is called."""

    def __init__(self, of_tokens):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.of_tokens, self.shapes = nn.Embedding(40, 3), of_tokens, []

    def forward(self, input_ids, attention_mask):
        self.shapes.append(tuple(input_ids.shape))
        each = self.table(input_ids) * attention_mask[..., None]
        return each if self.of_tokens else each.sum(dim=1)


def texts(of_tokens):
    ids = [[number * 5 + place for place in range(length)] for number, length in enumerate(LENGTHS)]
    labels = [[1] * len(text) for text in ids] if of_tokens else [n % 3 for n in range(len(ids))]
    counted = [[True] * len(text) for text in ids] if of_tokens else None
    return BatchBuilder(TokenSource(ids, labels, counted=counted), num_classes=3)


@pytest.mark.parametrize("of_tokens", [False, True])
def test_texts_of_like_length_come_together_and_are_told_in_the_order_of_the_data(of_tokens):
    reader, network = texts(of_tokens), Noting(of_tokens)
    task = (TokenClassification if of_tokens else Classification)(num_classes=3)
    said = predict_data(task, network, reader, batch_size=3, device=CPU)
    assert network.shapes == [(3, 2), (3, 5), (1, 5)]
    plain = task.predict(
        network, (reader[request] for request in in_order(len(LENGTHS), batch_size=3)), CPU
    )
    assert network.shapes[3:] == [(3, 5), (3, 5), (1, 3)]
    torch.testing.assert_close(said.logits, plain.logits)
    assert torch.equal(said.labels, plain.labels)
    assert torch.equal(said.sample_ids, plain.sample_ids)
    assert said.sample_ids.unique().tolist() == list(range(len(LENGTHS)))


def test_texts_labelled_by_a_teacher_come_together_too():
    source = texts(of_tokens=False).source
    teacher, task = Noting(of_tokens=False), Embedding(num_classes=3)
    reader, network = BatchBuilder(ReferenceSource(source, teacher, task)), Noting(of_tokens=False)
    said = predict_data(task, network, reader, batch_size=3, device=CPU)
    assert network.shapes == [(3, 2), (3, 5), (1, 5)]
    torch.testing.assert_close(said.labels, said.outputs.embeddings)


def test_other_data_are_asked_about_in_their_own_order():
    seen = []

    class Seeing(nn.Linear):
        def forward(self, inputs):
            seen.extend(inputs[:, 0].tolist())
            return super().forward(inputs)

    reader = BatchBuilder(
        TensorSource(torch.arange(5.0)[:, None], torch.zeros(5, dtype=torch.long))
    )
    predict_data(Classification(num_classes=2), Seeing(1, 2), reader, batch_size=2, device=CPU)
    assert seen == [0, 1, 2, 3, 4]


def test_an_embedding_with_an_infinite_part_is_refused_whatever_its_sign():
    ids = torch.arange(2)
    vectors = torch.tensor([[1.0, 2.0], [3.0, -torch.inf]])
    batch = Batch(vectors, torch.zeros(2, 2), ids, torch.zeros_like(ids))
    with pytest.raises(ModelError, match="for sample 1 of the validation or test data"):
        Embedding(2).predict(nn.Identity(), [batch], CPU)
