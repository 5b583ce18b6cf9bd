"""Int8 in floats: what is rounded, what learns, and what is left when it is taken out."""

import copy

import pytest
import torch
from torch import nn

from tutelage.deploy.simulate import Range, WeightGrid, remove_fake_quant, simulate_int8
from tutelage.errors import ModelError
from tutelage.models.nets import cnn, mlp, vit

IMAGES = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["cnn", "mlp", "vit"])
def network(request):
    torch.manual_seed(0)
    makers = {
        "cnn": lambda: cnn(5, width=8),
        "mlp": lambda: mlp(5, image_size=12, hidden=(16,)),
        "vit": lambda: vit(5, image_size=12, width=16, depth=1, heads=2),
    }
    return makers[request.param]()


def steps(weight):
    """Each output channel's weights in whole steps of its largest one."""
    flat = weight.flatten(1)
    return flat / (flat.abs().amax(dim=1, keepdim=True) / 64)


def test_weights_lie_on_64_steps_of_their_channel_and_the_largest_stays():
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    rounded = WeightGrid()(weight)
    torch.testing.assert_close(steps(rounded), steps(rounded).round(), atol=1e-4, rtol=0)
    torch.testing.assert_close(rounded.flatten(1).abs().amax(1), weight.flatten(1).abs().amax(1))
    largest = weight.flatten(1).abs().amax(1)
    assert ((rounded - weight).flatten(1).abs().amax(1) <= largest / 128 + 1e-6).all()


def test_a_target_with_more_steps_has_its_own():
    weight = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    whole = 127 * WeightGrid(127)(weight) / weight.abs().amax(dim=1, keepdim=True)
    torch.testing.assert_close(whole, whole.round(), atol=1e-4, rtol=0)
    network = nn.Sequential(nn.Linear(9, 6))
    plain = remove_fake_quant(simulate_int8(network, "dynamic", 127), network)
    torch.testing.assert_close(plain[0].weight, WeightGrid(127)(network[0].weight))


def test_rounding_again_changes_nothing():
    rounded = WeightGrid()(torch.randn(6, 9, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(WeightGrid()(rounded), rounded, atol=1e-6, rtol=0)


def test_a_batch_norm_folded_in_later_scales_the_grid_with_the_weights():
    weight = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    factor = torch.linspace(-2, 3, 6)[:, None]
    torch.testing.assert_close(WeightGrid()(factor * weight), factor * WeightGrid()(weight))


def test_activations_have_256_levels_with_zero_among_them():
    values = torch.linspace(-1, 3, 5001)
    rounded = Range(is_dynamic=True)(values)
    assert len(rounded.unique()) <= 256
    assert 0.0 in rounded.unique().tolist()
    assert (rounded - values).abs().max() <= 4 / 255


def test_a_static_range_is_learned_in_training_and_kept_after():
    part = Range(is_dynamic=False)
    part.eval()
    far = torch.tensor([-9.0, 9.0])
    assert torch.equal(part(far), far)
    part.train()
    part(torch.tensor([-1.0, 2.0]))
    part.eval()
    rounded = part(far)
    assert rounded.tolist() == pytest.approx([-1.0, 2.0], abs=0.02)
    assert (float(part.low), float(part.high)) == (-1.0, 2.0)


def test_parts_keep_their_names_and_the_original_is_untouched(network):
    before = copy.deepcopy(network.state_dict())
    simulated = simulate_int8(network, "minmax")
    assert dict(network.named_modules()).keys() <= dict(simulated.named_modules()).keys()
    simulated.train()(IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("scheme", ["minmax", "dynamic"])
def test_gradients_reach_every_weight(network, scheme):
    simulated = simulate_int8(network, scheme).train()
    simulated(IMAGES).square().sum().backward()
    # Keys' biases cancel in attention, and a batch norm's mean cancels what comes before it.
    missing = {name for name, p in simulated.named_parameters() if p.grad is None}
    assert missing == set()


def test_every_weight_of_attention_and_layers_is_rounded(network):
    simulated = simulate_int8(network, "minmax")
    names = {name for name, _ in simulated.named_parameters() if "parametrizations" in name}
    matrices = {
        name
        for name, p in network.named_parameters()
        if p.ndim > 1 and "places" not in name and "bias" not in name
    }
    assert len(names) == len(matrices)


def test_copies_can_be_settled_one_after_another(network):
    simulated = simulate_int8(network, "minmax").train()
    simulated(IMAGES)
    other = copy.deepcopy(simulated)
    first, second = (
        remove_fake_quant(simulated.eval(), network),
        remove_fake_quant(other.eval(), network),
    )
    assert first.state_dict().keys() == network.state_dict().keys()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_what_is_left_computes_nearly_the_same_in_floats(network):
    simulated = simulate_int8(network, "minmax").train()
    for _ in range(3):
        simulated(IMAGES)
    simulated.eval()
    plain = remove_fake_quant(simulated, network)
    with torch.no_grad():
        difference = (plain(IMAGES) - simulated(IMAGES)).abs().max()
        scale = plain(IMAGES).abs().max()
    assert 0 < difference < 0.05 * scale
    assert torch.equal(plain.head.weight, simulated.head.weight)


def test_a_network_without_layers_to_round_is_refused():
    with pytest.raises(ModelError, match="no linear or convolutional layer"):
        simulate_int8(nn.Sequential(nn.ReLU()), "minmax")
