"""Nobody writes into what others of a run read; what a teacher says is a number or refused."""

import json

import pytest
import torch
from torch import Tensor, nn

import tutelage
from tutelage.errors import ConfigError, ModelError, TrainingError
from tutelage.losses import KD
from tutelage.objective import Loss, Objective, Term
from tutelage.tasks import Classification
from tutelage.teachers import ModuleTeacher
from tutelage.teachers.ensemble import Ensemble
from tutelage.types import Batch, Outputs, Signal

TASK = Classification(num_classes=3)


def in_place(inputs: Tensor) -> None:
    inputs.mul_(2)


def behind_autograd(inputs: Tensor) -> None:
    inputs.data.mul_(2)


def through_numpy(inputs: Tensor) -> None:
    array = inputs.detach().numpy()
    array *= 2


WAYS = (in_place, behind_autograd, through_numpy)


class Writes(nn.Module):
    """A network that writes into its inputs before it looks at them."""

    def __init__(self, way, name=None):
        super().__init__()
        self.way, self.head, self.name = way, nn.Linear(4, 3), name

    def forward(self, inputs=None, **named):
        taken = inputs if self.name is None else named[self.name]
        self.way(taken)
        return self.head(taken)


def batch(inputs, labels=None):
    ids = torch.arange(5)
    return Batch(inputs, labels, ids, torch.zeros_like(ids))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chunk", [2, 5, 8])
def test_a_network_that_writes_into_its_inputs_writes_into_a_copy(way, chunk):
    inputs = torch.rand(5, 4)
    before, given = inputs.clone(), batch(inputs)
    ModuleTeacher(Writes(way), TASK, chunk=chunk)(given)
    TASK.run(Writes(way).train(), given)
    assert torch.equal(inputs, before)


@pytest.mark.parametrize("way", WAYS)
def test_named_inputs_are_copies_too_and_labels_that_share_their_memory_stay(way):
    memory = torch.rand(5, 5)
    before = memory.clone()
    TASK.run(Writes(way, "pixels"), batch({"pixels": memory[:, :-1]}, memory[:, 1:]))
    assert torch.equal(memory, before)


@pytest.mark.parametrize("way", WAYS)
def test_members_of_an_ensemble_each_see_the_inputs_as_they_were(way):
    torch.manual_seed(0)
    first, second, inputs = Writes(way), Writes(way), torch.rand(5, 4)
    together = TASK.run(Ensemble([first, second]), batch(inputs)).logits
    backwards = TASK.run(Ensemble([second, first]), batch(inputs)).logits
    torch.testing.assert_close(together, backwards)


class Doubles(Loss):
    """A loss that works in place on what the teacher says."""

    title, needs = "doubles", frozenset({Signal.LOGITS})

    def forward(self, student, teacher, batch):
        return (student.logits - teacher.logits.mul_(2)).square().mean()


def test_a_loss_that_writes_into_what_others_read_is_refused_by_name():
    objective = Objective([Term(Doubles(), 1.0, "doubles"), Term(KD(), 1.0, "kd")])
    said = Outputs(torch.rand(5, 3)), Outputs(torch.rand(5, 3))
    with pytest.raises(ConfigError, match="'doubles' writes in place"):
        objective(*said, batch(torch.rand(5, 4), torch.zeros(5, dtype=torch.long)))


class Says(nn.Module):
    """A classifier whose first logit is a constant for samples whose first input is high."""

    def __init__(self, value, classes=3):
        super().__init__()
        self.head, self.value = nn.Linear(4, classes), value

    def forward(self, inputs):
        logits = self.head(inputs).clone()
        logits[inputs[:, 0] > 0.9, 0] = self.value
        return logits


def data(marked=()):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(60, 4, generator=generator) * 0.8
    inputs[list(marked), 0] = 1.0
    return inputs, torch.randint(0, 3, (60,), generator=generator)


def taught(teacher, train, codec=None, **settings):
    return tutelage.distill(
        teacher, nn.Linear(4, 3), train, valid_data=data(), epochs=1, codec=codec, **settings
    )


@pytest.mark.parametrize(
    ("codec", "error"), [(None, TrainingError), ("float32", ModelError), ("topk:2", ModelError)]
)
@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "inf at best")])
def test_a_teacher_that_says_no_number_is_refused_with_the_sample(codec, error, value, word):
    with pytest.raises(error, match=f"Says gives {word} for sample 17 of the training data"):
        taught(Says(value), data(marked=[17]), codec)


def test_a_class_held_impossible_leaves_finite_results_even_where_a_label_names_it(tmp_path):
    test = data(marked=range(60))
    result = taught(Says(-float("inf")), test, test_data=test, out=tmp_path)
    held = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert held["teacher"]["selected"]["nll"] > 1000
    assert 0 < result.metrics["kl_to_teacher"] < 1e5
