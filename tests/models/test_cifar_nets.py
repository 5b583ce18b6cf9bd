"""The networks of the published comparisons have the sizes that the comparisons print."""

import pytest
import torch

from tutelage.bench.suites import CIFAR_NETS, CIFAR_PAIRS, SUITES
from tutelage.errors import ConfigError
from tutelage.models.cifar_nets import vgg, wide_resnet
from tutelage.models.taps import tapped

# Millions of parameters for 100 classes, Tian et al. 2019, arXiv:1910.10699, appendix.
PRINTED = {
    "wrn40x2": 2.26,
    "wrn16x2": 0.70,
    "wrn40x1": 0.57,
    "resnet56": 0.86,
    "resnet110": 1.74,
    "resnet20": 0.28,
    "resnet32": 0.47,
    "resnet32x4": 7.43,
    "resnet8x4": 1.23,
    "vgg13": 9.46,
    "vgg8": 3.96,
}


@pytest.mark.parametrize("name", CIFAR_NETS)
def test_a_network_is_as_large_as_printed_and_takes_the_pictures(name):
    network = CIFAR_NETS[name]().eval()
    millions = sum(weight.numel() for weight in network.parameters()) / 1e6
    assert int(100 * millions) / 100 == pytest.approx(PRINTED[name], abs=0.0101)
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 100)


@pytest.mark.parametrize("pair", CIFAR_PAIRS)
def test_both_of_a_pair_give_maps_of_one_size(pair):
    layers = SUITES["cifar100-" + "-".join(pair)].layers
    sizes = []
    for name in pair:
        network = CIFAR_NETS[name]().eval()
        with torch.no_grad(), tapped(network, layers.student) as features:
            network(torch.zeros(1, 3, 32, 32))
        sizes.append([features[layer].shape for layer in layers.student])
    assert [shape[2:] for shape in sizes[0]] == [shape[2:] for shape in sizes[1]]
    equal = [shape[1] for shape in sizes[0]] == [shape[1] for shape in sizes[1]]
    assert equal == layers.have_equal_widths


@pytest.mark.parametrize(("make", "depth"), [(wide_resnet, 17), (wide_resnet, 4), (vgg, 16)])
def test_an_unknown_depth_is_one_clear_error(make, depth):
    with pytest.raises(ConfigError, match=f"depth must be .* got {depth}"):
        make(10, depth=depth)
