"""The moving average of weights: what is averaged, and what is not."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tutelage.engine.average import Average

DECAY = 0.9


class Everything(nn.Module):
    """Tensors of all kinds, tied and frozen ones among them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.tensor([0.1, 0.7]), requires_grad=False)
        self.spectrum = nn.Parameter(torch.randn(3, dtype=torch.complex64))
        self.low = nn.Parameter(torch.randn(3, dtype=torch.bfloat16))
        self.norm = nn.BatchNorm1d(3)
        mask = torch.full((4, 4), float("-inf")).triu(1)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("limit", torch.tensor(float("inf")))
        self.register_buffer("places", torch.arange(512), persistent=False)
        self.register_buffer("seen", torch.zeros(4, dtype=torch.bool))
        self.register_buffer("codes", torch.arange(4, dtype=torch.uint8))
        self.register_buffer("nothing", None)


def moved(network):
    """What a training does to it: weights move, statistics too, counters count."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter)
        network.norm(torch.randn(8, 3))
        network.seen[int(network.norm.num_batches_tracked) % 4] = True


@pytest.fixture
def averaged():
    torch.manual_seed(0)
    network = Everything().train()
    average, histories = Average(network, DECAY), []
    for _ in range(4):
        moved(network)
        average.update(network)
        histories.append({name: value.clone() for name, value in network.state_dict().items()})
    return network, average.module, histories


def test_what_is_no_quantity_is_copied(averaged):
    network, average, _ = averaged
    for name in ("places", "mask", "limit", "seen", "codes", "frozen"):
        assert torch.equal(getattr(average, name), getattr(network, name)), name
    assert int(average.norm.num_batches_tracked) == 4


@pytest.mark.parametrize("name", ["first.weight", "spectrum", "norm.running_mean"])
def test_quantities_are_averaged(averaged, name):
    _, average, histories = averaged
    wanted = histories[0][name]
    for now in histories[1:]:
        wanted = DECAY * wanted + (1 - DECAY) * now[name]
    torch.testing.assert_close(average.state_dict()[name], wanted)


def test_tied_weights_stay_tied_and_are_averaged_once(averaged):
    _, average, _ = averaged
    assert average.second.weight is average.first.weight
    assert len(list(average.parameters())) == len(list(Everything().parameters()))


def test_weights_are_those_of_torch_bit_for_bit():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    own = Average(network, DECAY)
    torchs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True)
    for _ in range(5):
        for parameter in network.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        network(torch.randn(6, 4))
        own.update(network)
        torchs.update_parameters(network)
    others = torchs.state_dict()
    assert own.state_dict().keys() == others.keys()
    for name, value in own.state_dict().items():
        assert "batches" in name or torch.equal(value, others[name]), name


def test_a_buffer_that_a_network_makes_while_it_runs_is_left_to_each():
    network = nn.Linear(2, 2)
    average = Average(network, DECAY)
    network.register_buffer("cached", torch.zeros(7), persistent=False)
    average.module.register_buffer("cached", torch.ones(3), persistent=False)
    average.update(network)
    assert torch.equal(average.module.cached, torch.ones(3))
    assert torch.equal(average.module.weight, network.weight)


def test_infinities_do_not_become_nan_where_a_value_changes():
    network = nn.Module()
    network.register_buffer("best", torch.tensor([float("inf"), 1.0]))
    average = Average(network, DECAY)
    average.update(network)
    other = copy.deepcopy(network)
    other.best.copy_(torch.tensor([2.0, 2.0]))
    average.update(other)
    torch.testing.assert_close(average.module.best, torch.tensor([2.0, 1.1]))
