"""Every target keeps the same promises: a file, its int8 files, run in its own runtime."""

import importlib
import sys
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from tutelage.deploy import TARGETS, check_parity, export_checked, open_file, own, target_of
from tutelage.deploy.simulate import WeightGrid
from tutelage.deploy.targets import litert
from tutelage.errors import ExportError, MissingExtraError, UnknownNameError
from tutelage.models.nets import cnn, vit

LIGHT = ("onnx", "torch_export")
QUICK = {("onnx", "cnn"), ("torch_export", "cnn"), ("torch_export", "text")}
EVERY = [pytest.param(n, marks=() if n in LIGHT else pytest.mark.slow) for n in TARGETS]
SCHEMES = [
    pytest.param(name, scheme, marks=() if name in LIGHT else pytest.mark.slow)
    for name, target in TARGETS.items()
    for scheme in target.schemes
]
SAMPLES = torch.rand(24, 1, 12, 12, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(1, 20, (24, 9), generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 5


class TinyEncoder(nn.Module):
    """Whole numbers in, as a text network has them."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, tokens):
        return self.head(self.block(self.embed(tokens)).mean(dim=1))


def make(kind):
    torch.manual_seed(0)
    if kind == "cnn":
        network = cnn(5, width=8)
        network(torch.rand(32, 1, 12, 12))  # moves the batch norm's statistics
        return network.eval(), SAMPLES
    if kind == "vit":
        return vit(5, image_size=12, width=16, depth=1, heads=2).eval(), SAMPLES
    return TinyEncoder().eval(), TOKENS


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network with its file of each target, made once."""
    made = {}

    def give(name, kind="cnn"):
        for module in TARGETS[name].modules:
            pytest.importorskip(module, exc_type=ImportError)
        if (name, kind) not in made:
            network, samples = make(kind)
            path = tmp_path_factory.mktemp(name) / f"{kind}{TARGETS[name].suffix}"
            row = export_checked(
                network, samples.split(8), path, name="student", target=name, labels=LABELS
            )
            made[name, kind] = network, samples, path, row
        return made[name, kind]

    return give


KINDS = [
    pytest.param(name, kind, marks=() if (name, kind) in QUICK else pytest.mark.slow)
    for name in TARGETS
    for kind in ("cnn", "vit", "text")
]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_the_file_computes_what_the_network_computes(exported, name, kind):
    network, samples, path, row = exported(name, kind)
    assert target_of(path).name == row.target == name
    assert row.max_abs_difference < 1e-5
    assert (row.agreement, row.count) == (1.0, 24)
    assert row.metric == row.network_metric
    with torch.no_grad():
        expected = network(samples[:5]).numpy()
    np.testing.assert_allclose(open_file(path)(samples[:5].numpy()), expected, atol=1e-5)


@pytest.mark.parametrize(("name", "scheme"), SCHEMES)
def test_an_eight_bit_file_is_near_the_float_one(exported, tmp_path, name, scheme):
    network, samples, source, _ = exported(name)
    path = tmp_path / f"int8{source.suffix}"
    TARGETS[name].quantise(network, source, [samples], path, scheme)
    with torch.no_grad():
        expected = network(samples).numpy()
    difference = np.abs(open_file(path)(samples.numpy()) - expected).max()
    assert 0 < difference < 0.1 * np.abs(expected).max()


ON_THEIR_STEPS = ("onnx", "executorch", "litert")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in LIGHT else pytest.mark.slow) for n in ON_THEIR_STEPS]
)
def test_weights_on_a_target_s_steps_are_stored_as_they_are(name, tmp_path):
    target = TARGETS[name]
    for module in target.modules:
        pytest.importorskip(module, exc_type=ImportError)
    torch.manual_seed(0)
    layer = nn.Linear(16, 10, bias=False).eval()
    with torch.no_grad():
        layer.weight.copy_(WeightGrid(target.weight_steps)(layer.weight))
    ones = torch.eye(16)
    path, made = tmp_path / f"a{target.suffix}", tmp_path / f"b{target.suffix}"
    target.write(layer, ones, path)
    target.quantise(layer, path, [ones], made, "dynamic")
    stored = torch.from_numpy(open_file(made)(ones.numpy())).T
    torch.testing.assert_close(stored, layer.weight.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_openvino_stores_the_whole_numbers_of_64_steps_and_only_scales_them(tmp_path):
    pytest.importorskip("nncf", exc_type=ImportError)
    import openvino

    network, samples = make("cnn")
    with torch.no_grad():
        network.head.weight.copy_(WeightGrid()(network.head.weight))
    path, made = tmp_path / "a.xml", tmp_path / "b.xml"
    TARGETS["openvino"].write(network, samples, path)
    TARGETS["openvino"].quantise(network, path, [samples], made, "minmax")
    wanted = network.head.weight.detach()
    wanted = (wanted / (wanted.abs().amax(dim=1, keepdim=True) / 64)).round().numpy()
    graph = openvino.Core().read_model(made)
    constants = [op for op in graph.get_ops() if op.get_type_name() == "Constant"]
    stored = [op.data.astype(int) for op in constants if tuple(op.data.shape) == wanted.shape]
    assert any((abs(s - wanted) <= (abs(wanted) == 64)).all() for s in stored)


@pytest.mark.parametrize("name", EVERY)
def test_a_file_says_itself_what_it_takes_and_gives(exported, name):
    _, _, path, _ = exported(name)
    ports = TARGETS[name].describe(path)
    batch = TARGETS[name].batch_size or "batch"
    assert list(ports.inputs[0].shape) == [batch, 1, 12, 12]
    assert list(ports.outputs[0].shape) == [batch, 5]
    assert (ports.inputs[0].dtype, ports.inputs[0].scale) == ("float32", None)


@pytest.mark.slow
def test_a_litert_file_of_eight_bits_says_how_its_whole_numbers_stand_for_values(
    exported, tmp_path
):
    network, samples, source, _ = exported("litert")
    path = tmp_path / "int8.tflite"
    TARGETS["litert"].quantise(network, source, [samples], path, "minmax")
    ports = TARGETS["litert"].describe(path)
    for port in (ports.inputs[0], ports.outputs[0]):
        assert port.dtype == "int8"
        assert port.scale > 0
    assert ports.inputs[0].zero_point == -128


@pytest.mark.slow
def test_openvino_keeps_a_transformer_s_choices_in_eight_bits(exported, tmp_path):
    network, samples, source, _ = exported("openvino", "vit")
    path = tmp_path / "int8.xml"
    TARGETS["openvino"].quantise(network, source, [samples], path, "minmax")
    with torch.no_grad():
        expected = network(samples).numpy()
    difference = np.abs(open_file(path)(samples.numpy()) - expected).max()
    assert 0 < difference < 0.1 * np.abs(expected).max()


BOTH = [n for n, t in TARGETS.items() if {"minmax", "percentile"} <= t.schemes.keys()]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in LIGHT else pytest.mark.slow) for n in BOTH]
)
def test_percentiles_leave_a_rare_value_out_that_minmax_keeps(exported, tmp_path, name):
    network, samples, source, _ = exported(name)
    spoilt = samples.repeat(8, 1, 1, 1)
    spoilt[0, 0, 3, 3] = 60.0
    error = {}
    with torch.no_grad():
        expected = network(samples).numpy()
    for scheme in ("minmax", "percentile"):
        path = tmp_path / f"{scheme}{source.suffix}"
        TARGETS[name].quantise(network, source, spoilt.split(8), path, scheme)
        error[scheme] = np.abs(open_file(path)(samples.numpy()) - expected).mean()
    assert error["percentile"] < 0.7 * error["minmax"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in LIGHT else pytest.mark.slow)
        for n, target in TARGETS.items()
        if "minmax" in target.schemes
    ],
)
def test_minmax_keeps_the_largest_value_seen_however_early(exported, tmp_path, name):
    network, samples, source, _ = exported(name)
    spoilt = samples.repeat(4, 1, 1, 1)
    spoilt[0, 0, 3, 3] = 60.0
    error = {}
    with torch.no_grad():
        expected = network(samples).numpy()
    for kind, batch in {"plain": samples, "spoilt": spoilt}.items():
        path = tmp_path / f"{kind}{source.suffix}"
        TARGETS[name].quantise(network, source, batch.split(8), path, "minmax")
        error[kind] = np.abs(open_file(path)(samples.numpy()) - expected).mean()
    assert error["spoilt"] > 3 * error["plain"]


@pytest.mark.parametrize("name", EVERY)
def test_no_path_of_this_machine_is_in_the_file(exported, name):
    _, _, path, _ = exported(name)
    root = str(importlib.import_module("tutelage").__path__[0]).encode()
    for file in TARGETS[name].files(path):
        content = file.read_bytes()
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                content = b"".join(archive.read(entry) for entry in archive.namelist())
        assert root not in content
        assert str(path.parent).encode() not in content
        assert b"site-packages" not in content


@pytest.mark.parametrize("name", EVERY)
def test_another_network_fails_parity(exported, name):
    network, samples, path, _ = exported(name)
    other = cnn(5, width=8)
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        other.head.bias[0] += 1
    with pytest.raises(ExportError, match=r"differs from PyTorch by 1 over 24 samples"):
        check_parity(other, path, [samples], name="student")


@pytest.mark.parametrize("name", EVERY)
def test_a_broken_file_is_one_clear_error(exported, name, tmp_path, capfd):
    exported(name)
    path = tmp_path / f"net{TARGETS[name].suffix}"
    with pytest.raises(ExportError, match="no such file"):
        open_file(path)
    path.write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"net\."):
        open_file(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", EVERY)
def test_samples_that_the_file_does_not_take_are_one_clear_error(exported, name):
    _, _, path, _ = exported(name)
    with pytest.raises(ExportError, match=r"fails on float32 inputs of shape \(2, 7\)"):
        open_file(path)(np.zeros((2, 7), dtype=np.float32))


@pytest.mark.parametrize("name", ["onnx", "executorch", "openvino", "litert"])
def test_a_missing_extra_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.14.0")
    monkeypatch.setitem(sys.modules, TARGETS[name].modules[0].split(".")[0], None)
    monkeypatch.setitem(sys.modules, TARGETS[name].modules[0], None)
    with pytest.raises(MissingExtraError, match=f"The target '{name}' needs the '{name}' extra"):
        TARGETS[name].write(nn.Linear(4, 3), torch.zeros(1, 4), tmp_path / "net")


def test_litert_says_how_it_is_installed_beside_others(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.14.0")
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(MissingExtraError, match=r"typing-extensions below 4\.13.* one pip install"):
        TARGETS["litert"].check()


def test_litert_says_which_pytorch_it_needs(monkeypatch):
    monkeypatch.setattr(litert.torch, "__version__", "2.15.0+cpu")
    with pytest.raises(ExportError, match=r"needs torch below 2\.15, here is 2\.15\.0\+cpu"):
        TARGETS["litert"].check()


def test_unknown_targets_files_and_ways_are_named(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'onnx'"):
        export_checked(nn.Linear(4, 3), [SAMPLES], tmp_path / "a", name="s", target="onx")
    with pytest.raises(UnknownNameError, match=r"Unknown kind of exported file '\.onx'"):
        open_file(tmp_path / "a.onx")
    with pytest.raises(UnknownNameError, match="Known: minmax, percentile"):
        TARGETS["openvino"].check_scheme("dynamic")
    with pytest.raises(ExportError, match="torch_export has no int8 files: PyTorch runs"):
        TARGETS["torch_export"].check_scheme("minmax")


def test_a_program_is_opened_where_it_was_written_and_nowhere_else(exported, tmp_path, monkeypatch):
    _, _, path, _ = exported("torch_export")
    opened = tmp_path / "again.pt2"
    opened.write_bytes(path.read_bytes())
    open_file(opened)
    monkeypatch.setattr(own, "_WRITTEN", set())
    open_file(opened)  # another process of this user knows it too
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(opened, "w") as after:
        for entry in before.namelist():
            after.writestr(entry, before.read(entry))
    with pytest.raises(ExportError, match=r"again\.pt2: .*no export on this machine wrote it"):
        open_file(opened)


def test_what_was_written_is_known_where_nothing_can_be_noted(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "a.pt2").write_text("program")
    monkeypatch.setattr(own, "_notes", lambda: tmp_path / "file" / "written")
    own.remember(tmp_path / "a.pt2")
    own.check_own(tmp_path / "a.pt2")
    monkeypatch.setattr(own, "_WRITTEN", set())
    with pytest.raises(ExportError, match="add --allow-code if you trust"):
        own.check_own(tmp_path / "a.pt2")
