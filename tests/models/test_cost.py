import threading

import pytest
import torch
from torch import nn
from torch.nn import functional

from tutelage.errors import ModelError, RunFolderError
from tutelage.models.cost import count_macs, count_parameters, frozen_copy, size_row


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.LSTM(8, 16, batch_first=True)

    def forward(self, inputs):
        return self.cells(inputs)[0][:, -1]


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.layer = nn.Linear(4, 3)

    def forward(self, inputs):
        self.calls += 1
        return functional.dropout(self.layer(inputs), training=True)


def cnn():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 10),
    )


@pytest.mark.parametrize(
    ("model", "shape", "macs"),
    [
        (nn.Linear(784, 10), (784,), 7840),
        (nn.Linear(784, 10, bias=False), (784,), 7840),
        (nn.Linear(16, 4), (5, 16), 5 * 64),
        (nn.Conv2d(3, 8, 3, padding=1), (3, 10, 12), 10 * 12 * 8 * 3 * 9),
        (nn.Conv2d(4, 8, 3, stride=2, groups=2), (4, 9, 9), 4 * 4 * 8 * 2 * 9),
        (cnn(), (3, 8, 8), 16 * 8 * 27 + 128 * 10),
        (Recurrent(), (5, 8), 5 * 4 * 16 * (8 + 16)),
        (
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
            (7, 16),
            7 * (16 * 48 + 16 * 16 + 2 * 16 * 32) + 2 * 7 * 7 * 16,
        ),
    ],
    ids=["linear", "no bias", "tokens", "conv", "groups", "cnn", "lstm", "attention"],
)
def test_macs_equal_those_worked_out_by_hand(model, shape, macs):
    assert count_macs(model, torch.zeros(2, *shape)) == macs


def test_macs_are_for_one_sample_whatever_the_batch():
    model = cnn()
    assert count_macs(model, torch.zeros(1, 3, 8, 8)) == count_macs(model, torch.zeros(7, 3, 8, 8))


def test_shared_weights_count_once():
    layer = nn.Linear(4, 4)
    assert count_parameters(nn.Sequential(layer, nn.ReLU(), layer)) == 20


def test_frozen_weights_count_too():
    assert count_parameters(nn.Linear(4, 3).requires_grad_(False)) == 15


def test_counting_leaves_mode_and_batch_norm_as_they_were():
    model = cnn().train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, torch.randn(4, 3, 8, 8))
    assert [layer.training for layer in model] == [True, False, True, True, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_counting_leaves_random_state_and_own_buffers_as_they_were():
    model = Noisy()
    before = torch.get_rng_state()
    count_macs(model, torch.zeros(2, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert model.calls == 0


def test_counting_gives_back_the_fast_kernels():
    before = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    with pytest.raises(ModelError):
        count_macs(nn.Linear(4, 3), torch.zeros(2, 5))
    assert before == (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled)


def test_a_forward_that_fails_is_named():
    with pytest.raises(ModelError, match=r"Linear: forward fails on one sample of shape \(5,\)"):
        count_macs(nn.Linear(4, 3), torch.zeros(2, 5))


def test_a_network_that_cannot_be_copied_is_named():
    model = nn.Linear(4, 3)
    model.lock = threading.Lock()
    with pytest.raises(ModelError, match="Linear: the network cannot be copied"):
        frozen_copy(model)


def test_frozen_copy_shares_nothing_with_the_network():
    model = cnn().train()
    copied = frozen_copy(model)
    with torch.no_grad():
        copied[0].weight.zero_()
    assert not any(layer.training for layer in copied.modules())
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert model[0].weight.any()


def test_size_row_weighs_network_and_file(tmp_path):
    file = tmp_path / "student.onnx"
    file.write_bytes(b"x" * 123)
    row = size_row("student", nn.Linear(4, 3), torch.zeros(2, 4), file)
    assert (row.name, row.parameters, row.macs, row.size_bytes) == ("student", 15, 12, 123)


def test_size_of_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"student\.onnx: no such file\. Export"):
        size_row("student", nn.Linear(4, 3), torch.zeros(2, 4), tmp_path / "student.onnx")
