import torch
from torch import nn

from tutelage.models.memory import count_memory_bytes, count_weight_bytes


class Kept(nn.Module):
    """Three tensors of 400 bytes, of which two or three live at once."""

    def __init__(self, keep):
        super().__init__()
        self.keep = keep

    def forward(self, inputs):
        first = inputs + 1
        second = first * 2
        kept = first if self.keep else second
        del first
        third = second * 2
        return third + kept


def test_only_tensors_that_live_at_once_count():
    example = torch.zeros(5, 100)
    freed, kept = count_memory_bytes(Kept(False), example), count_memory_bytes(Kept(True), example)
    assert freed == 400 + 3 * 400  # input; second, third and the sum
    assert kept == 400 + 4 * 400


def test_weights_and_buffers_count_and_views_do_not():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.BatchNorm1d(2))
    weights = 4 * (8 + 2 + 4 * 2) + 8  # the batch norm counts its batches in eight bytes
    assert count_weight_bytes(model) == weights
    assert count_memory_bytes(model.eval(), torch.zeros(3, 2, 2)) >= weights + 16 + 2 * 8
