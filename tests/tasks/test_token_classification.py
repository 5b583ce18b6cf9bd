from dataclasses import replace

import pytest
import torch
from torch import nn

from tutelage.data.loading import BatchBuilder
from tutelage.data.sources import Source
from tutelage.engine.training_module import TrainingModule
from tutelage.errors import ConfigError, DataError, ShapeError
from tutelage.losses import KD, CrossEntropy
from tutelage.tasks import TokenClassification
from tutelage.teachers import ModuleTeacher
from tutelage.types import UNLABELLED, VALID_MASK, Batch

TASK = TokenClassification(num_classes=3)


class Tagger(nn.Module):
    """Looks at each token alone; `hidden` gives features."""

    def __init__(self, seed=0, classes=3):
        super().__init__()
        torch.manual_seed(seed)
        self.hidden = nn.Embedding(20, 4)
        self.head = nn.Linear(4, classes)

    def forward(self, input_ids, attention_mask):
        assert attention_mask.shape == input_ids.shape
        return self.head(self.hidden(input_ids))


def batch_of(lengths=(4, 2, 3), longest=None):
    """Texts of given lengths, filled up to the longest."""
    longest = longest or max(lengths)
    places = torch.arange(longest).expand(len(lengths), longest)
    counted = places < torch.tensor(lengths)[:, None]
    ids = torch.where(counted, (places * 7 + torch.tensor(lengths)[:, None]) % 20, 0)
    labels = torch.where(counted, ids % 3, UNLABELLED)
    inputs = {"input_ids": ids, "attention_mask": counted.long(), VALID_MASK: counted}
    numbers = torch.arange(len(lengths))
    return Batch(inputs, labels, numbers, torch.zeros_like(numbers))


def objective():
    return 0.5 * CrossEntropy() + 0.5 * KD(temperature=2)


def test_padding_changes_no_loss_and_no_gradient():
    teacher = ModuleTeacher(Tagger(1), TASK, chunk=3)
    found = []
    for batch in (batch_of(), batch_of(longest=9)):
        trainee = TrainingModule(Tagger(), objective(), TASK)
        report = trainee(batch, teacher(batch))
        report.total.backward()
        found.append((report.total, trainee.student.head.weight.grad))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


def test_the_loss_is_a_mean_over_tokens_and_not_over_texts():
    trainee = TrainingModule(Tagger(), 1.0 * CrossEntropy(), TASK)
    whole, four, two = (
        float(trainee(batch_of(lengths), None).total.detach()) for lengths in ((4, 2), (4,), (2,))
    )
    assert whole == pytest.approx((4 * four + 2 * two) / 6)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_a_teacher_in_chunks_gives_the_same_tokens(chunk):
    batch = batch_of((4, 2, 3, 1, 4))
    wanted = TASK.run(Tagger(1), batch, ["hidden"])
    given = ModuleTeacher(Tagger(1), TASK, chunk=chunk, layers=["hidden"])(batch)
    torch.testing.assert_close(given.logits, wanted.logits.detach())
    torch.testing.assert_close(given.features["hidden"], wanted.features["hidden"].detach())


def test_a_masked_text_counts_none_of_its_tokens():
    batch = replace(batch_of((4, 2)), mask=torch.tensor([True, False]))
    trainee = TrainingModule(Tagger(), 1.0 * CrossEntropy(), TASK)
    alone = trainee(batch_of((4,)), None).total
    torch.testing.assert_close(trainee(batch, None).total, alone)


def test_what_does_not_fit_is_said():
    with pytest.raises(ShapeError, match=r"Tagger returned shape \(3, 4, 5\) .* \(3, 4, 3\) is"):
        TASK.run(Tagger(classes=5), batch_of())
    batch = batch_of()
    bare = replace(batch, inputs={k: v for k, v in batch.inputs.items() if k != VALID_MASK})
    with pytest.raises(DataError, match="needs the input 'counted'"):
        TASK.run(Tagger(), bare)


class Texts(Source):
    fingerprint, in_memory = "texts", True

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(self.batch)

    def fetch(self, ids):
        return {k: v[ids] for k, v in self.batch.inputs.items()}, self.batch.labels[ids]


def test_a_reader_takes_named_inputs_and_checks_the_labels_of_tokens():
    reader = BatchBuilder(Texts(batch_of()), num_classes=3)
    request = torch.tensor([2, 0]), torch.zeros(2, dtype=torch.long)
    batch = reader[request]
    assert batch.labels.tolist() == batch_of().labels[[2, 0]].tolist()
    with pytest.raises(DataError, match="Sample 2 has label 2; allowed are 0 to 1"):
        BatchBuilder(Texts(batch_of()), num_classes=2)[request]


def test_views_of_pictures_are_refused_for_named_inputs():
    from tutelage.data.views import Shift

    with pytest.raises(ConfigError, match="changes one tensor a sample, but these data come as"):
        BatchBuilder(Texts(batch_of()), Shift(1))[torch.tensor([0]), torch.tensor([0])]
