from collections import OrderedDict

import pytest
import torch
from torch import nn

from tutelage.errors import ModelError, UnknownNameError
from tutelage.models.nets import cnn
from tutelage.models.taps import find_layer, tapped
from tutelage.tasks import Classification
from tutelage.types import Batch

IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return cnn(4, width=2).eval()


def read(model, *layers, inputs=IMAGES):
    with torch.no_grad(), tapped(model, layers) as features:
        model(inputs)
    return features


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_a_layer_gives_what_its_part_gives(net):
    features = read(net, "stage1", "stage2.0", "pool")
    assert torch.equal(features["stage1"], net.stage1(IMAGES))
    assert torch.equal(features["stage2.0"], net.stage2[0](net.stage1(IMAGES)))
    assert features["pool"].shape == (3, 4)


def test_an_input_is_what_the_part_is_called_with(net):
    features = read(net, "stage1:input", "head:input", "pool", "stage1.2:input", "stage1.1")
    assert torch.equal(features["stage1:input"], IMAGES)
    assert torch.equal(features["head:input"], features["pool"])
    assert torch.equal(features["stage1.2:input"], features["stage1.1"])


def test_of_several_tensors_the_first_one_counts():
    model = Odd()
    features = read(model, "rnn", "scale:input", inputs=ROW)
    assert torch.equal(features["rnn"][:, 0], features["scale:input"])


def test_a_library_output_gives_its_first_tensor():
    class Inside(nn.Module):
        def forward(self, inputs):
            return OrderedDict(none=None, last=2 * inputs, all=(inputs,))

    model = nn.Sequential(OrderedDict(inside=Inside()))
    assert torch.equal(read(model, "inside", inputs=ROW)["inside"], 2 * ROW)


def test_gradient_flows_through_what_is_read(net):
    with tapped(net, ["stage1"]) as features:
        net(IMAGES)
    features["stage1"].sum().backward()
    assert net.stage1[0].weight.grad is not None
    assert net.head.weight.grad is None


def test_nothing_is_left_in_the_model(net):
    state = {name: value.clone() for name, value in net.state_dict().items()}
    logits = net(IMAGES)
    read(net, "stage1", "head:input")
    assert hooks(net) == 0
    assert torch.equal(net(IMAGES), logits)
    assert list(net.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_nothing_is_left_in_a_model_that_fails(net):
    with pytest.raises(RuntimeError, match="size"):
        read(net, "stage1", inputs=torch.zeros(3, 5, 8, 8))
    assert hooks(net) == 0


def test_nothing_is_left_where_the_second_layer_is_unknown(net):
    with pytest.raises(UnknownNameError):
        read(net, "stage1", "stage9")
    assert hooks(net) == 0


@pytest.mark.parametrize("name", ["stage11", "stage11:input"])
def test_an_unknown_layer_brings_the_nearest_name(net, name):
    message = r"Unknown layer of Sequential 'stage11'. Did you mean 'stage1(\.1)?'"
    with pytest.raises(UnknownNameError, match=message):
        read(net, name)


def test_the_whole_network_is_no_layer(net):
    with pytest.raises(UnknownNameError, match="Unknown layer of Sequential ''"):
        find_layer(net, "")


class Odd(nn.Module):
    """Parts that cannot be read."""

    def __init__(self):
        super().__init__()
        self.used = nn.Linear(4, 4)
        self.idle = nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)
        self.rnn = nn.GRU(4, 4, batch_first=True)
        self.scale = Named()
        self.listing = Listing()

    def forward(self, inputs):
        hidden = self.relu(self.used(inputs))
        hidden, _ = self.rnn(hidden[:, None])
        return self.scale(feature=self.listing(hidden)[0][:, 0])


class Listing(nn.Module):
    def forward(self, hidden):
        return [hidden]


class Named(nn.Module):
    def forward(self, feature):
        return 2 * feature


ROW = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("idle", "Layer 'idle' was not called in the forward pass. Name one that is"),
        ("idle:input", "Layer 'idle:input' was not called"),
        ("listing", "Layer 'listing' gives a list, not a tensor. Name a part inside it"),
        ("used", r"Layer 'used': a later part overwrites its features in place \(a ReLU"),
        ("relu:input", "Layer 'relu:input': a later part overwrites"),
    ],
)
def test_what_cannot_be_read_is_said(layer, message):
    with pytest.raises(ModelError, match=message):
        read(Odd(), layer, inputs=ROW)


def test_an_input_that_is_given_by_name_can_be_read():
    features = read(Odd(), "scale:input", "scale", inputs=ROW)
    assert torch.equal(2 * features["scale:input"], features["scale"])


def test_the_part_that_overwrites_can_be_read():
    assert (read(Odd(), "relu", inputs=ROW)["relu"] >= 0).all()


def test_of_several_calls_the_last_one_counts():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    assert torch.equal(read(model, "0", inputs=ROW)["0"], model(ROW))


def test_inference_mode_is_no_hindrance(net):
    with torch.inference_mode(), tapped(net, ["stage1"]) as features:
        net(IMAGES)
    assert features["stage1"].shape == (3, 2, 4, 4)


def test_a_task_gives_the_layers_beside_the_logits(net):
    ids = torch.arange(3)
    given = Classification(4).run(net, Batch(IMAGES, None, ids, ids), ("stage1",))
    assert torch.equal(given.logits, net(IMAGES))
    assert list(given.features) == ["stage1"]


def test_an_unknown_layer_of_a_deep_network_names_the_nearest_and_not_all():
    deep = nn.Sequential(OrderedDict((f"block{n}", nn.Linear(1, 1)) for n in range(200)))
    with pytest.raises(
        UnknownNameError, match=r"Did you mean 'block19\d?'\? The nearest of 200:"
    ) as told:
        find_layer(deep, "bloc.19")
    assert str(told.value).count("block") == 11
