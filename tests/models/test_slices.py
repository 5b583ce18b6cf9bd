import pytest
import torch
from torch import nn

from tutelage.errors import ConfigError, ModelError
from tutelage.models.channels import map_channels
from tutelage.models.cost import count_parameters
from tutelage.models.load import make_model
from tutelage.models.slices import slice_network

NETWORKS = {
    "cnn": (1, 16),
    "resnet": (1, 16),
    "mlp": (1, 8),
    "vgg": (3, 32),
    "wide_resnet": (3, 16),
    "torchvision:mobilenet_v2": (3, 32),
    "torchvision:densenet121": (3, 32),
    "torchvision:shufflenet_v2_x0_5": (3, 32),
    "timm:mobilenetv3_small_050": (3, 32),
    "timm:ghostnet_050": (3, 32),
}

LARGE = ("torchvision:densenet121", "torchvision:mobilenet_v2", "timm:ghostnet_050")


def made(name, channels, size, **settings):
    torch.manual_seed(0)
    facts = {"num_classes": 10, "in_channels": channels, "image_size": size}
    return make_model(name, settings, **facts).eval()


def silence_the_least(model, example, share):
    """Make exactly the channels that a slice would drop give nothing and change nothing."""
    found = map_channels(model, example)
    gone = set()
    for group in found.groups():
        gone |= set(group[max(1, round(share * len(group))) :])
    state = model.state_dict()
    with torch.no_grad():
        for name, dims in found.weights.items():
            for dim, channels in dims.items():
                places = [i for i, c in enumerate(channels) if found.root(c) in gone]
                if not name.endswith("running_var") and places:
                    state[name].index_fill_(dim, torch.tensor(places), 0.0)
    return len(gone)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in NETWORKS]
)
def test_a_slice_without_channels_that_do_nothing_computes_the_same(name):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    channels, size = NETWORKS[name]
    model, example = made(name, channels, size), torch.randn(2, channels, size, size)
    assert silence_the_least(model, example, 0.5) > 10
    sliced = slice_network(model, example, width=0.5)
    assert count_parameters(sliced) < 0.65 * count_parameters(model)
    with torch.no_grad():
        torch.testing.assert_close(sliced(example), model(example), rtol=1e-4, atol=1e-5)


def test_the_original_is_left_as_it_is():
    model, example = made("resnet", 1, 8, width=4), torch.randn(2, 1, 8, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    slice_network(model, example, width=0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("depth", "kept"), [(0.75, [1, 3, 4]), (0.5, [1, 4]), (0.25, [1])])
def test_layers_of_a_transformer_are_kept_whole_and_spread(depth, kept):
    model = made("vit", 1, 8, width=8, depth=4, heads=2)
    sliced = slice_network(model, torch.randn(2, 1, 8, 8), depth=depth)
    blocks = [name for name, _ in sliced.named_children() if name.startswith("block")]
    assert blocks == [f"block{number}" for number in kept]
    own, old = sliced.state_dict(), model.state_dict()
    assert all(torch.equal(value, old[name]) for name, value in own.items())


def test_blocks_in_a_numbered_row_are_numbered_anew():
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(4)]
    sliced = slice_network(nn.Sequential(*blocks), torch.randn(2, 4), depth=0.5)
    assert [name for name, _ in sliced.named_children()] == ["0", "1"]
    assert torch.equal(sliced[1][0].weight, blocks[3][0].weight)


def test_channels_that_an_unknown_operation_mixes_stay():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, inputs):
            return self.head(self.second(self.first(inputs).cumsum(dim=-1)).relu())

    model = Mixed().eval()
    sliced = slice_network(model, torch.randn(2, 4), width=0.5)
    assert (sliced.first.out_features, sliced.second.out_features) == (8, 4)


def test_a_weight_used_twice_is_cut_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.first, self.head = nn.Linear(8, 8), nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, inputs):
            return self.head(self.inner(self.inner(self.first(inputs))))

    sliced = slice_network(Twice().eval(), torch.randn(2, 4), width=0.5)
    assert tuple(sliced.inner.weight.shape) == (4, 4)


def test_the_most_important_channels_stay():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([0.1, 3.0, 0.2, 2.0])[:, None].expand(4, 4))
        model[2].weight.copy_(torch.ones(2, 4))
        model[0].bias.copy_(torch.arange(4.0))
    sliced = slice_network(model, torch.randn(2, 4), width=0.5)
    assert sliced[0].bias.tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("name", "shares", "message"),
    [
        ("cnn", {"width": 0.0}, "width must be above 0 and at most 1, got 0"),
        ("cnn", {"depth": 1.5}, "depth must be above 0 and at most 1, got 1.5"),
    ],
)
def test_shares_out_of_range_are_refused(name, shares, message):
    with pytest.raises(ConfigError, match=message):
        slice_network(made(name, 1, 8), torch.randn(2, 1, 8, 8), **shares)


def test_what_cannot_be_sliced_says_so():
    with pytest.raises(ModelError, match="no row of blocks of one shape"):
        slice_network(made("cnn", 1, 8), torch.randn(2, 1, 8, 8), depth=0.5)
    with pytest.raises(ModelError, match="none of its widths can be sliced"):
        slice_network(nn.Linear(4, 3).eval(), torch.randn(2, 4), width=0.5)


def test_a_forward_that_needs_its_widths_is_refused():
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, 3)

        def forward(self, inputs):
            return self.head(self.first(inputs).mean(dim=(2, 3)).view(len(inputs), 8))

    with pytest.raises(ModelError, match=r"cannot be sliced to width 0\.5, depth 1"):
        slice_network(Stubborn().eval(), torch.randn(2, 1, 8, 8), width=0.5)


def test_a_recipe_names_a_slice_and_it_has_weights_of_its_own():
    facts = {"num_classes": 10, "in_channels": 1, "image_size": 8}
    settings = {"of": "cnn", "settings": {"width": 8}, "width": 0.5}
    torch.manual_seed(0)
    first, second = make_model("slice", settings, **facts), make_model("slice", settings, **facts)
    assert first.stage1[0].out_channels == 4
    assert not torch.equal(first.head.weight, second.head.weight)
    assert first.head.weight.abs().max() <= 8**-0.5  # as wide as a layer of its own size starts
    with pytest.raises(ConfigError, match=r"Unknown setting of model 'slice' 'withd'"):
        make_model("slice", {"of": "cnn", "withd": 0.5}, **facts)
