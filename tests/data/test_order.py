import pytest
import torch

from tutelage.data import order
from tutelage.data.loading import training_requests
from tutelage.data.order import permuted, shuffled
from tutelage.data.views import Identity


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 1000, 4096, 65_537])
def test_an_order_is_every_number_once(count):
    for seed in (0, 7):
        found = permuted(torch.arange(count), count, seed)
        assert torch.equal(found.sort().values, torch.arange(count))


def test_an_order_does_not_depend_on_how_it_is_cut(monkeypatch):
    monkeypatch.setattr(order, "LISTED", 10)
    whole = torch.cat(list(shuffled(1000, seed=3, block=1000)))
    cut = torch.cat(list(shuffled(1000, seed=3, block=64)))
    assert torch.equal(whole, cut)
    assert not torch.equal(whole, torch.cat(list(shuffled(1000, seed=4, block=64))))


def test_small_data_keep_the_order_that_they_always_had():
    wanted = torch.randperm(1000, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.cat(list(shuffled(1000, seed=3, block=64))), wanted)
    assert order.LISTED == 2**20


def test_large_orders_look_random():
    """Places and numbers are unrelated, and neighbours do not stay together."""
    count = 200_000
    found = permuted(torch.arange(count), count, 5).double()
    places = torch.arange(count).double()
    both = torch.stack([places, found])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 5 / count**0.5
    both = torch.stack([found[1:], found[:-1]])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 5 / count**0.5
    cells = torch.histc(found[: count // 2], bins=100, min=0, max=count)
    expected = count / 200  # a draw without return varies half as much as one with
    assert float(((cells - expected) ** 2 / (expected / 2)).sum()) < 170
    other = permuted(torch.arange(count), count, 6).double()
    assert int((found == other).sum()) < 12


def test_a_training_of_more_samples_than_are_listed_sees_each_once(monkeypatch):
    monkeypatch.setattr(order, "LISTED", 10)
    requests = training_requests(1003, Identity(), batch_size=16, seed=1, epoch=2)
    ids = torch.cat([ids for ids, _ in requests])
    assert torch.equal(ids.sort().values, torch.arange(1003))
