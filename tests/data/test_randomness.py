import random

import numpy as np
import pytest
import torch

from tutelage.data.randomness import FixedDraws, random_state_kept
from tutelage.data.sources import DatasetSource, SubsetSource
from tutelage.data.views import SeededViews
from tutelage.errors import DataError

X = torch.rand(200, 4)


class Samples:
    def __init__(self, item, count=200):
        self.item, self.count = item, count

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        return self.item(number)


OWN = np.random.default_rng(0)
RANDOM = {
    "torch": lambda i: (X[i] + torch.randn(4), 0),
    "numpy": lambda i: (X[i] + np.random.rand(), 0),  # noqa: NPY002
    "python": lambda i: (X[i] + random.random(), 0),
    "own generator": lambda i: (X[i] + OWN.random(), 0),
    "labels": lambda i: (X[i], int(torch.randint(5, ()))),
    "seldom": lambda i: (X[i] + (torch.rand(()) < 0.1), 0),
    "every fifth item": lambda i: (X[i] + (torch.rand(()) if i % 5 == 0 else 0), 0),
    "flips of mostly even images": lambda i: (X[i].flip(0) if torch.rand(()) < 0.5 else X[i], 0),
}
STEADY = {
    "plain": lambda i: (X[i], 0),
    "seeded by number": lambda i: (
        X[i] + torch.rand(4, generator=torch.Generator().manual_seed(i)),
        0,
    ),
    "nan": lambda i: (torch.full((2,), torch.nan), 0),
}


@pytest.mark.parametrize("count", [1, 3, 60, 200])
@pytest.mark.parametrize("item", RANDOM.values(), ids=RANDOM)
def test_items_that_change_from_call_to_call_are_found_out(item, count):
    assert DatasetSource(Samples(item, count)).is_random


@pytest.mark.parametrize("item", STEADY.values(), ids=STEADY)
def test_items_that_do_not_change_are_not_called_random(item):
    assert not DatasetSource(Samples(item)).is_random


def test_looking_at_random_items_disturbs_no_random_numbers():
    def state():
        return torch.random.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1:]  # noqa: NPY002

    before = repr(state())
    for item in RANDOM.values():
        with_item = DatasetSource(Samples(item))
        assert repr(state()) == before
        assert with_item.is_random


def test_the_fingerprint_of_random_data_is_not_of_their_pixels():
    def make(item=RANDOM["torch"], count=200, version="", transform=None):
        samples = Samples(item, count)
        samples.transform = transform
        return DatasetSource(samples, version).fingerprint

    assert make() == make()
    assert make(RANDOM["labels"]) == make(RANDOM["labels"])
    others = {
        make(),
        make(count=199),
        make(version="2"),
        make(transform="RandomCrop(4)"),
        make(lambda i: (X[i] + torch.rand(4), i % 2)),
    }
    assert len(others) == 5


@pytest.mark.parametrize("name", ["torch", "numpy", "python", "labels", "seldom"])
def test_the_draws_of_global_random_numbers_can_be_fixed(name):
    source = SubsetSource(DatasetSource(Samples(RANDOM[name])), torch.arange(9)).with_fixed_draws()
    ids = torch.arange(9)
    first, second = source.fetch(ids), source.fetch(ids.flip(0))
    assert torch.equal(first[0], second[0].flip(0))
    assert torch.equal(first[1], second[1].flip(0))
    assert len(FixedDraws(Samples(RANDOM[name]))) == 200
    assert not source.is_random


def test_draws_of_an_own_generator_cannot_be_fixed():
    with pytest.raises(DataError, match="differ from call to call, by random numbers of its own"):
        DatasetSource(Samples(RANDOM["own generator"])).with_fixed_draws()


def test_seeded_views_replay_draws_of_numpy_too():
    views = SeededViews(lambda x: x + np.random.rand(), num_views=3, version="noise")  # noqa: NPY002
    ids = torch.tensor([5, 1])
    state = np.random.get_state()[1]  # noqa: NPY002
    first = views.apply(X[ids], ids, torch.tensor([2, 0]))
    assert torch.equal(first, views.apply(X[ids], ids, torch.tensor([2, 0])))
    assert not torch.equal(first, views.apply(X[ids], ids, torch.tensor([1, 0])))
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_random_state_is_kept_after_an_error():
    before = random.getstate()

    def draw_and_fail():
        with random_state_kept():
            return {}[random.random()]

    with pytest.raises(KeyError):
        draw_and_fail()
    assert random.getstate() == before
