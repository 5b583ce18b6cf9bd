"""Samples with several inputs by name, and batches that a function of one's own makes."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import tutelage
from tutelage.data.collated import CollatedSource
from tutelage.data.forms import as_source
from tutelage.errors import DataError

LABELS = torch.arange(40) % 3
COLUMNS = {"signal": torch.arange(160.0).view(40, 4), "place": torch.arange(40.0)[:, None]}
ITEMS = [
    ({"signal": COLUMNS["signal"][number], "place": COLUMNS["place"][number]}, int(LABELS[number]))
    for number in range(40)
]
RAGGED = [(torch.arange(1.0, 2 + number % 4), number % 3) for number in range(40)]


def fill_up(items):
    steps = nn.utils.rnn.pad_sequence([steps for steps, _ in items], batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones(len(one)) for one, _ in items], batch_first=True)
    return {"steps": steps, "mask": mask, "labels": [label for _, label in items]}


@pytest.mark.parametrize("data", [(COLUMNS, LABELS), ITEMS], ids=["columns", "items"])
def test_named_inputs_come_as_tensors_by_name(data):
    source = as_source(data, "train_data")
    inputs, labels = source.fetch(torch.tensor([3, 1]))
    assert {name: tensor.tolist() for name, tensor in inputs.items()} == {
        "signal": [[12, 13, 14, 15], [4, 5, 6, 7]],
        "place": [[3], [1]],
    }
    assert labels.tolist() == [0, 1]
    assert not source.is_random


def test_another_value_of_any_input_is_another_fingerprint():
    changed = {**COLUMNS, "place": COLUMNS["place"] + (torch.arange(40) == 39)[:, None]}
    found = [as_source((columns, LABELS), "d").fingerprint for columns in (COLUMNS, changed)]
    renamed = {"signal": COLUMNS["signal"], "spot": COLUMNS["place"]}
    assert len({*found, as_source((renamed, LABELS), "d").fingerprint}) == 3


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (({**COLUMNS, "place": torch.zeros(39, 1)}, LABELS), "differ in their number of rows"),
        (([({"a b": torch.zeros(2)}, 0)] * 3), "'a b' cannot be an argument"),
        (([({}, 0)] * 3), "mapping of inputs is empty"),
    ],
)
def test_named_inputs_that_cannot_be_passed_are_refused(data, text):
    with pytest.raises(DataError, match=text):
        as_source(data, "train_data")


def test_items_with_other_names_are_named():
    odd = [*ITEMS[:20], ({"signal": torch.zeros(4)}, 0)]
    source = as_source(odd, "train_data")
    with pytest.raises(DataError, match=r"differ in the names of their inputs: .*'place'.* 20"):
        source.fetch(torch.tensor([0, 20]))


def test_a_loader_s_collate_function_makes_the_batches():
    source = as_source(DataLoader(RAGGED, batch_size=4, collate_fn=fill_up), "train_data")
    assert isinstance(source, CollatedSource)
    inputs, labels = source.fetch(torch.tensor([0, 2]))
    assert inputs["steps"].tolist() == [[1, 0, 0], [1, 2, 3]]
    assert inputs["mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("collate", "text"),
    [
        (lambda items: items[0], "single number 0"),
        (lambda items: torch.zeros(len(items) + 1, 2), "of 1 samples the collate .*2} rows"),
        (lambda items: (torch.zeros(len(items)), [0] * 7), "gives 7 labels"),
        (lambda items: {"labels": [0]}, "the batch has labels"),
        (lambda items: 1 / 0, "ZeroDivisionError"),
        (lambda items: "text", "gives a str"),
    ],
)
def test_a_collate_function_that_gives_something_else_is_refused(collate, text):
    with pytest.raises(DataError, match=text):
        CollatedSource(RAGGED, collate)


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 3)

    def forward(self, steps, mask):
        return self.head((steps * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True))


def test_ragged_samples_are_distilled_and_the_cache_is_exact(tmp_path):
    torch.manual_seed(0)
    teacher, student = Mean(), Mean()
    loader = DataLoader(RAGGED, collate_fn=fill_up)

    def weights(codec):
        result = tutelage.distill(
            teacher, student, loader, epochs=2, batch_size=8, codec=codec, out=tmp_path / str(codec)
        )
        return [weight.clone() for weight in result.student.parameters()]

    for live, cached in zip(weights(None), weights("float32"), strict=True):
        assert torch.allclose(live, cached, atol=1e-6)
