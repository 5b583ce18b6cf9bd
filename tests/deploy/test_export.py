import copy
import logging
import random
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import resnet18

from tutelage.deploy import (
    check_parity,
    export_checked,
    export_onnx,
    open_session,
    run_session,
)
from tutelage.deploy.export import _check_sizes_are_dynamic
from tutelage.errors import ExportError, MissingExtraError, RunFolderError
from tutelage.models.load import make_model

EXAMPLE = torch.zeros(2, 4)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, inputs):
        return self.layer(inputs)


class Branches(Net):
    def forward(self, inputs):
        logits = self.layer(inputs)
        return logits if logits.sum() > 0 else -logits


class TwoAtATime(Net):
    def forward(self, inputs):
        return self.layer(inputs.view(2, 4))


class Rolls(Net):
    def forward(self, inputs):
        return functional.dropout(self.layer(inputs), training=True)


class GivesPair(Net):
    def forward(self, inputs):
        return self.layer(inputs), inputs


class GivesClasses(Net):
    def forward(self, inputs):
        return self.layer(inputs).argmax(dim=1, keepdim=True)


class GivesOneRow(Net):
    def forward(self, inputs):
        return self.layer(inputs).mean(dim=0, keepdim=True)


def state_of(model):
    return (
        [module.training for module in model.modules()],
        {name: value.clone() for name, value in model.state_dict().items()},
        [parameter.requires_grad for parameter in model.parameters()],
    )


# What the file is


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_file_takes_any_batch_size(name, request):
    model, path, samples = request.getfixturevalue(name)
    row = check_parity(model, path, [samples[:1], samples[1:4], samples[:32]], name=name)
    assert (row.name, row.file, row.count, row.agreement) == (name, f"{name}.onnx", 36, 1.0)
    assert row.max_abs_difference < 1e-5


def test_file_names_its_input_and_output(cnn):
    graph = onnx.load(cnn.path).graph
    assert [value.name for value in graph.input] == ["inputs"]
    assert [value.name for value in graph.output] == ["logits"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_file_is_valid_and_alone(cnn):
    onnx.checker.check_model(onnx.load(cnn.path), full_check=True)
    assert list(cnn.path.parent.iterdir()) == [cnn.path]


@pytest.mark.parametrize(
    "secret", [str(Path.cwd()), str(Path.home()), str(Path(__file__).parent), "site-packages"]
)
def test_file_holds_no_path_of_this_machine(cnn, secret):
    assert secret.encode() not in cnn.path.read_bytes()


def test_a_real_architecture_is_exported(tmp_path):
    torch.manual_seed(0)
    batches = torch.randn(5, 3, 32, 32).split(3)
    row = export_checked(resnet18(), batches, tmp_path / "resnet.onnx", name="teacher")
    assert (row.name, row.file, row.count, row.agreement) == ("teacher", "resnet.onnx", 5, 1.0)
    assert (tmp_path / "resnet.onnx").stat().st_size == pytest.approx(11.69e6 * 4, rel=0.01)


# What the export leaves alone


def test_export_is_repeatable_and_leaves_everything_as_it_was(cnn, tmp_path, capfd):
    model = copy.deepcopy(cnn.model).train()
    model[1].eval()
    before = state_of(model)
    dice = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    export_onnx(model, cnn.samples, tmp_path / "again.onnx")
    after = state_of(model)
    assert (after[0], after[2]) == (before[0], before[2])
    assert all(torch.equal(before[1][name], value) for name, value in after[1].items())
    assert torch.equal(dice[0], torch.get_rng_state())
    assert dice[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert (tmp_path / "again.onnx").read_bytes() == cnn.path.read_bytes()
    assert capfd.readouterr() == ("", "")


# What cannot be exported


def test_a_network_beyond_onnx_is_one_quiet_error(tmp_path, capfd, caplog):
    with pytest.raises(ExportError, match=r"Branches: cannot be exported to ONNX \(.*guard"):
        export_onnx(Branches(), EXAMPLE, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []
    assert logging.root.manager.disable == 0


def test_a_fixed_batch_size_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"TwoAtATime: forward fixes the batch size.*'inputs'"):
        export_onnx(TwoAtATime(), EXAMPLE, tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (Net(), torch.zeros(2, 5), r"Net: forward fails on torch.float32 inputs of shape \(2, 5\)"),
        (GivesPair(), EXAMPLE, "GivesPair: forward gives a tuple, not one tensor of logits"),
        (GivesClasses(), EXAMPLE, r"GivesClasses: forward gives torch.int64 of shape \(2, 1\)"),
        (GivesOneRow(), EXAMPLE, r"GivesOneRow: .* of shape \(1, 3\) for 2 samples"),
        (Net(), EXAMPLE[:0], r"example: holds no sample \(shape \(0, 4\)\)"),
        (
            Net(),
            {"image": torch.zeros(2, 4), "age": torch.zeros(2, 1)},
            r"^Net: of networks with named inputs those of .* image \(2, 4\), age \(2, 1\)\. Let",
        ),
    ],
    ids=["forward", "tuple", "classes", "one row", "empty", "two inputs"],
)
def test_a_network_without_logits_is_refused(model, example, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export_onnx(model, example, tmp_path / "net.onnx")


@pytest.mark.parametrize("module", ["onnx", "onnxscript"])
def test_a_missing_extra_is_named(module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"Exporting to ONNX needs the 'onnx' extra"):
        export_onnx(Net(), EXAMPLE, tmp_path / "net.onnx")


# Where the file goes


@pytest.fixture
def quick_trace(cnn, monkeypatch):
    """The export of another network, without its seconds."""
    proto = onnx.load(cnn.path)
    monkeypatch.setattr("tutelage.deploy.export.trace", lambda network, pair, **named: proto)
    return cnn


def test_a_place_that_cannot_be_written_is_refused(quick_trace, tmp_path):
    (tmp_path / "net.onnx").mkdir()
    with pytest.raises(RunFolderError, match=r"net\.onnx: cannot be written"):
        export_onnx(quick_trace.model, quick_trace.samples, tmp_path / "net.onnx")


def test_a_full_disk_leaves_the_old_file(quick_trace, tmp_path, monkeypatch):
    def fill(path, content):
        path.touch()
        raise OSError(28, "No space left on device")

    (tmp_path / "net.onnx").write_text("old")
    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(RunFolderError, match="No space left on device"):
        export_onnx(quick_trace.model, quick_trace.samples, tmp_path / "net.onnx")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


# Whether the file is right


def test_another_network_fails_parity(cnn):
    other = copy.deepcopy(cnn.model)
    with torch.no_grad():
        other[4].bias[0] += 1
    with pytest.raises(ExportError, match=r"cnn\.onnx: .* differs from PyTorch by 1 over 40 sampl"):
        check_parity(other, cnn.path, [cnn.samples], name="student")


def test_the_tolerance_grows_with_the_logits(cnn):
    other = copy.deepcopy(cnn.model)
    with torch.no_grad():
        other[4].bias[0] += 1
    row = check_parity(other, cnn.path, [cnn.samples], name="student", tolerance=0.5)
    assert row.max_abs_difference == pytest.approx(1, abs=1e-5)
    assert 0 < row.agreement < 1


def test_agreement_is_the_share_of_equal_predictions(cnn):
    other = copy.deepcopy(cnn.model)
    with torch.no_grad():
        other[4].bias[0] += 1
        same = other.eval()(cnn.samples).argmax(1) == cnn.model.eval()(cnn.samples).argmax(1)
    row = check_parity(other, cnn.path, cnn.samples.split(7), name="student", tolerance=1.0)
    assert row.agreement == pytest.approx(same.float().mean().item())


def test_logits_that_are_not_finite_fail_parity(cnn):
    samples = cnn.samples.clone()
    samples[3] = float("inf")
    with pytest.raises(ExportError, match=r"some logits of PyTorch are not finite"):
        check_parity(cnn.model, cnn.path, [samples], name="student")


def test_logits_of_another_shape_fail_parity(mlp):
    with pytest.raises(ExportError, match=r"logits of shape \(4, 3\), PyTorch of \(4, 2\)"):
        check_parity(nn.Linear(6, 2), mlp.path, [mlp.samples[:4]], name="student")


def test_samples_that_the_file_does_not_take_are_named(mlp):
    with pytest.raises(ExportError, match=r"float32 inputs of shape \(4, 7\); it takes .*'batch'"):
        check_parity(nn.Linear(7, 3), mlp.path, [torch.zeros(4, 7)], name="student")


@pytest.mark.parametrize("batches", [[], [torch.zeros(0, 6)]], ids=["no batch", "empty batch"])
def test_parity_without_samples_is_refused(batches, mlp, tmp_path):
    with pytest.raises(ExportError, match="student: no samples to compare"):
        check_parity(mlp.model, mlp.path, batches, name="student")
    with pytest.raises(ExportError, match="student: no samples to compare"):
        export_checked(mlp.model, batches, tmp_path / "net.onnx", name="student")


def test_parity_leaves_mode_and_random_state_as_they_were(mlp):
    model = copy.deepcopy(mlp.model).train()
    before = torch.get_rng_state()
    check_parity(model, mlp.path, [mlp.samples], name="student")
    assert model.training
    assert model[2].training
    assert torch.equal(before, torch.get_rng_state())


def test_an_export_that_fails_parity_leaves_no_file(tmp_path):
    path = tmp_path / "net.onnx"
    torch.manual_seed(0)
    with pytest.raises(ExportError, match=r"net\.onnx: the exported network differs"):
        export_checked(Rolls(), iter([torch.randn(8, 4)]), path, name="student")
    assert list(tmp_path.iterdir()) == []


def test_all_batches_of_a_stream_are_compared(quick_trace, tmp_path):
    stream = iter(quick_trace.samples.split(16))
    row = export_checked(quick_trace.model, stream, tmp_path / "net.onnx", name="student")
    assert row.count == len(quick_trace.samples)
    assert (tmp_path / "net.onnx").read_bytes() == quick_trace.path.read_bytes()


def test_a_text_cnn_s_file_takes_texts_of_any_length(tmp_path):
    torch.manual_seed(0)
    settings = {"width": 4, "filters": 2, "sizes": [1, 3]}
    network = make_model("text_cnn", settings, num_classes=2, vocab_size=30).eval()
    sizes = ((2, 5), (3, 1), (1, 11))
    batches = [{"input_ids": torch.randint(30, size)} for size in sizes]
    batches = [b | {"attention_mask": torch.ones_like(b["input_ids"])} for b in batches]
    export_onnx(network, batches[0], tmp_path / "text.onnx")
    session = open_session(tmp_path / "text.onnx", threads=1)
    for batch in batches:
        given = run_session(session, {name: tensor.numpy() for name, tensor in batch.items()})
        torch.testing.assert_close(torch.from_numpy(given), network(**batch).detach())


def test_a_file_for_texts_of_one_length_is_refused():
    kind = onnx.TensorProto.INT64
    values = [onnx.helper.make_tensor_value_info("input_ids", kind, ["batch", n]) for n in ("l", 8)]
    axes = {"input_ids": {0: "batch", 1: "length"}}
    _check_sizes_are_dynamic("Net", onnx.helper.make_graph([], "g", values[:1], []), axes)
    with pytest.raises(ExportError, match=r"Net: forward fixes the length.* samples of length 8"):
        _check_sizes_are_dynamic("Net", onnx.helper.make_graph([], "g", values[1:], []), axes)
