"""How good a teacher is becomes known before it teaches, wherever it comes from."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

import tutelage
from tutelage.engine.events import StageDone
from tutelage.errors import ModelError
from tutelage.forwards import try_network
from tutelage.tasks import Classification
from tutelage.types import Batch


class After(nn.Module):
    """A network and something after it."""

    def __init__(self, network, last):
        super().__init__()
        self.network, self.last = network, last

    def forward(self, inputs):
        return self.last(self.network(inputs))


def softmax(logits):
    return logits.softmax(dim=1)


def half_softmax(logits):
    return logits.softmax(dim=1).bfloat16().float()


def log_softmax(logits):
    return logits.log_softmax(dim=1)


@pytest.fixture
def data():
    inputs = torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    return inputs, inputs.argmax(dim=1)


@pytest.fixture
def able():
    """A network that is right about every sample."""
    network = nn.Linear(3, 3)
    with torch.no_grad():
        network.weight.copy_(4 * torch.eye(3))
        network.bias.zero_()
    return network


@pytest.fixture
def misled(able):
    """The same with its classes in another order."""
    return After(able, lambda logits: logits[:, [1, 2, 0]])


def notes(teacher, data, **settings):
    told = []
    result = tutelage.distill(
        teacher, nn.Linear(3, 3), data, valid_data=data, epochs=1, listener=told.append, **settings
    )
    done = [event for event in told if isinstance(event, StageDone)]
    checks = [event.note for event in done if event.name.endswith("check")]
    names = [event.name for event in done]
    return " ".join(result.record.notes), " ".join(checks), names


def test_an_able_teacher_is_measured_and_nothing_is_said_against_it(able, data):
    noted, told, names = notes(able, data)
    assert "teacher" not in noted
    assert "validation accuracy 100.00%" in told
    assert names.index("teacher check") < names.index("distilled, seed 0")


def test_a_teacher_of_another_order_of_classes_is_no_better_than_chance(misled, data):
    noted, told, _ = notes(misled, data)
    assert "The teacher is no better than chance on the validation data (0.00% accuracy" in noted
    assert "teacher.class_names" in told


def test_a_teacher_below_the_baseline_is_told_in_record_and_terminal(misled, data):
    noted, told, _ = notes(misled, data, baseline=True)
    for text in (noted, told):
        assert "no better than the baseline on the validation data (0.00% against" in text


def test_each_of_several_teachers_is_measured(able, misled, data):
    noted, told, _ = notes([able, misled], data)
    assert "The teacher 2 is no better than chance" in noted
    assert told.count("validation accuracy") >= 1


@pytest.mark.parametrize("last", [softmax, half_softmax])
def test_probabilities_are_refused_where_logits_are_meant(able, last, data):
    with pytest.raises(ModelError, match=r"teacher: After gives probabilities .* before the softm"):
        notes(After(able, last), data)
    with pytest.raises(ModelError, match="student: After gives probabilities"):
        tutelage.distill(able, After(nn.Linear(3, 3), last), data, epochs=1)


def test_logarithms_of_probabilities_are_logits(able, data):
    assert "teacher" not in notes(After(able, log_softmax), data)[0]


def test_a_sigmoid_is_refused_of_teacher_and_student(able, data):
    with pytest.raises(ModelError, match="teacher: After ends in a sigmoid"):
        notes(After(able, torch.sigmoid), data)
    with pytest.raises(ModelError, match="student: After ends in a sigmoid"):
        tutelage.distill(able, After(nn.Linear(3, 3), torch.sigmoid), data, epochs=1)


def test_shares_that_are_no_sigmoids_own_are_told_of_a_teacher(able, data):
    noted, _, _ = notes(After(able, lambda logits: logits.sigmoid() * 1.0), data)
    assert "lies between 0 and 1, as after a sigmoid" in noted


class Texts(nn.Module):
    """A classifier of tokens, called by name, and what it does last."""

    def __init__(self, last):
        super().__init__()
        self.words = nn.Embedding(40, 8)
        self.head = nn.Linear(8, 3)
        self.last = last

    def forward(self, input_ids, attention_mask):
        words = self.words(input_ids) * attention_mask[..., None]
        return self.last(self.head(words.mean(dim=1)))


@pytest.mark.parametrize(
    ("last", "found"),
    [
        (torch.sigmoid, "ends in a sigmoid"),
        (nn.functional.hardsigmoid, "ends in a sigmoid"),
        (lambda logits: logits.sigmoid() * 4, None),
        (lambda logits: logits.sigmoid().view(-1, 3)[:, :3].clone(), "ends in a sigmoid"),
        (lambda logits: logits.softmax(dim=0), "ends in a softmax"),
        (lambda logits: logits.softmax(dim=-1), "gives probabilities"),
        (lambda logits: logits.log_softmax(dim=-1), None),
        (nn.functional.logsigmoid, None),
    ],
)
def test_the_last_step_of_a_network_of_texts_is_seen_too(last, found):
    ids = torch.arange(4)
    inputs = {"input_ids": torch.randint(40, (4, 6)), "attention_mask": torch.ones(4, 6)}
    batch = Batch(inputs, None, ids, torch.zeros_like(ids))
    network = Texts(last)
    expected = (
        pytest.raises(ModelError, match=f"teacher: Texts {found}") if found else nullcontext()
    )
    with expected:
        try_network("teacher", lambda: network, Classification(3), batch)
    assert network.head.weight.requires_grad


def test_a_sigmoid_is_refused_of_one_teacher_among_several(able, data):
    with pytest.raises(ModelError, match="teacher 2: After ends in a sigmoid"):
        notes([able, After(able, torch.sigmoid)], data)
