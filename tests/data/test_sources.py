import numpy as np
import pytest
import torch

from tutelage.data.sources import (
    DatasetSource,
    Source,
    SubsetSource,
    TensorSource,
    split_off,
)
from tutelage.errors import DataError


def tensors(count=40):
    return torch.arange(count * 2.0).view(count, 2), torch.arange(count) % 4


class Items(list):
    """A list of items as a map-style data set."""


def every(source):
    return source.fetch(torch.arange(len(source)))


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x, int(y)),
        lambda x, y: [x, int(y)],
        lambda x, y: (x.numpy(), np.int64(y)),
        lambda x, y: (x, y),
        lambda x, y: (x, float(y)),
        lambda x, y: {"input": x, "label": int(y)},
    ],
    ids=["tuple", "list", "numpy", "tensor label", "whole float", "dict"],
)
def test_the_usual_forms_of_an_item_are_understood(form):
    inputs, labels = tensors(6)
    source = DatasetSource(Items(form(x, y) for x, y in zip(inputs, labels, strict=True)))
    found, found_labels = source.fetch(torch.tensor([4, 1]))
    assert torch.equal(found, inputs[[4, 1]])
    assert found_labels is not None
    assert torch.equal(found_labels, labels[[4, 1]])
    assert isinstance(source, Source)


def test_items_without_labels_are_inputs():
    inputs, _ = tensors(3)
    found, labels = every(DatasetSource(Items(inputs)))
    assert torch.equal(found, inputs)
    assert labels is None


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((torch.zeros(2), 1.5), r"Sample 0: the label is 1.5, not a whole number"),
        ((torch.zeros(2), "cat"), r"Sample 0: the label is 'cat'"),
        ((torch.zeros(2), torch.zeros(3)), r"Sample 0: the label has the shape \(3,\), as one-hot"),
        ((torch.zeros(2), float("nan")), r"Sample 0: the label is nan"),
        (("picture.png", 1), r"Sample 0: the input is a str, not a tensor.*ToImage"),
    ],
)
def test_an_item_that_cannot_be_used_is_one_clear_error(item, message):
    with pytest.raises(DataError, match=message):
        DatasetSource(Items([item]))


def test_samples_of_different_shapes_are_named():
    source = DatasetSource(Items([torch.zeros(2), torch.zeros(3)]))
    with pytest.raises(DataError, match=r"differ in shape: .*\(2,\): 0, \(3,\): 1.*v2.Resize"):
        every(source)


def test_what_is_no_data_set_is_refused():
    with pytest.raises(DataError, match="generator is not a map-style data set"):
        DatasetSource(x for x in range(3))
    with pytest.raises(DataError, match="Items is empty"):
        DatasetSource(Items())


def test_ctrl_c_while_reading_is_no_data_error():
    class Slow(Items):
        def __getitem__(self, number):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DatasetSource(Slow([1]))


def test_a_fingerprint_changes_with_inputs_labels_length_and_version():
    inputs, labels = tensors()
    pairs = list(zip(inputs, labels.tolist(), strict=True))
    other_input = [(pairs[0][0] + 1, pairs[0][1]), *pairs[1:]]
    other_label = [(pairs[0][0], 3), *pairs[1:]]
    sources = [
        *(DatasetSource(Items(items)) for items in (pairs, other_input, other_label, pairs[:-1])),
        DatasetSource(Items(pairs), version="2"),
        TensorSource(inputs, labels),
        TensorSource(inputs),
        TensorSource(inputs, labels.flip(0)),
        TensorSource(inputs.view(40, 1, 2), labels),
        TensorSource(inputs.double(), labels),
    ]
    assert len({source.fingerprint for source in sources}) == len(sources)
    assert DatasetSource(Items(pairs)).fingerprint == sources[0].fingerprint
    assert TensorSource(inputs.clone(), labels.int()).fingerprint == sources[5].fingerprint


def test_a_fingerprint_reads_few_items_of_many():
    class Counting(Items):
        reads = 0

        def __getitem__(self, number):
            self.reads += 1
            return super().__getitem__(number)

    items = Counting(torch.zeros(10_000, 1))
    DatasetSource(items)
    assert items.reads <= 256


def test_a_subset_is_numbered_anew():
    inputs, labels = tensors()
    chosen = torch.tensor([30, 2, 7])
    subset = SubsetSource(TensorSource(inputs, labels), chosen)
    found, found_labels = subset.fetch(torch.tensor([2, 0]))
    assert len(subset) == 3
    assert torch.equal(found, inputs[[7, 30]])
    assert found_labels is not None
    assert torch.equal(found_labels, labels[[7, 30]])
    other = SubsetSource(subset.source, chosen.flip(0))
    assert len({subset.fingerprint, other.fingerprint, subset.source.fingerprint}) == 3


def test_a_split_shares_no_sample_and_loses_none():
    inputs, labels = tensors()
    source = TensorSource(inputs, labels)
    rest, part = split_off(source, 0.25, seed=0)
    assert (len(rest), len(part)) == (30, 10)
    together = torch.cat([every(rest)[0], every(part)[0]])
    assert torch.equal(together.sort(dim=0).values, inputs)


def test_a_split_is_a_function_of_its_seed():
    source = TensorSource(*tensors())
    state = torch.random.get_rng_state()
    first, again, other = (split_off(source, 0.25, seed=seed)[1] for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_a_split_by_class_takes_the_same_share_of_each():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    source = TensorSource(torch.arange(100.0).view(100, 1), labels)
    for seed in range(3):
        _, part = split_off(source, 0.2, seed=seed, labels=labels.tolist())
        taken = every(part)[1]
        assert taken is not None
        assert torch.bincount(taken).tolist() == [12, 6, 2]


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.001, 0.999, -0.5, 1.5])
def test_a_split_with_an_empty_part_is_refused(fraction):
    with pytest.raises(DataError, match=r"both parts need samples|must be above 0 and below 1"):
        split_off(TensorSource(*tensors()), fraction, seed=0)
