"""Networks of series."""

import pytest
import torch

from tutelage.errors import ConfigError
from tutelage.models.load import make_model
from tutelage.models.series_nets import CNN1d


@pytest.fixture
def network():
    torch.manual_seed(0)
    return CNN1d(num_classes=3, in_channels=2, channels=(4, 5), kernels=(8, 3))


def test_the_usual_network_has_the_paper_s_sizes():
    network = make_model("cnn1d", num_classes=9, in_channels=12)
    shapes = [tuple(stage.conv.weight.shape) for stage in network.stages]
    assert shapes == [(128, 12, 8), (256, 128, 5), (128, 256, 3)]


def test_what_fills_a_series_up_changes_nothing(network):
    series = torch.randn(1, 2, 6)
    filled = torch.cat([series, torch.full((1, 2, 5), 7.0)], dim=2)
    mask = torch.arange(11)[None] < 6
    alone = network.eval()(series)
    torch.testing.assert_close(network(filled, mask), alone)
    torch.testing.assert_close(network(series, mask[:, :6]), alone)


def test_batch_norm_leaves_out_what_fills_a_series_up(network):
    series = torch.randn(4, 2, 6)
    mask = torch.arange(9)[None].expand(4, 9) < 6
    filled = torch.cat([series, torch.zeros(4, 2, 3)], dim=2)
    torch.testing.assert_close(network(filled, mask), network(series))


def test_a_kernel_too_few_is_refused():
    with pytest.raises(ConfigError, match="2 channels, but 1 kernels"):
        CNN1d(num_classes=2, in_channels=1, channels=(2, 2), kernels=(3,))
