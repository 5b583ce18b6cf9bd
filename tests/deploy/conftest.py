"""Two small exported networks, shared because an export takes seconds."""

from typing import NamedTuple

import pytest
import torch
from torch import nn

from tutelage.deploy import export_onnx


class Exported(NamedTuple):
    model: nn.Module
    path: object
    samples: torch.Tensor


def make_cnn():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)
    )
    model(torch.randn(16, 1, 8, 8))  # moves the batch norm's statistics
    return model


@pytest.fixture(scope="session")
def cnn(tmp_path_factory):
    model, path = make_cnn(), tmp_path_factory.mktemp("cnn") / "cnn.onnx"
    samples = torch.randn(40, 1, 8, 8)
    export_onnx(model, samples[:1], path)
    return Exported(model, path, samples)


@pytest.fixture(scope="session")
def mlp(tmp_path_factory):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3))
    path, samples = tmp_path_factory.mktemp("mlp") / "mlp.onnx", torch.randn(40, 6)
    export_onnx(model, samples, path)
    return Exported(model, path, samples)
