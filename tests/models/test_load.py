import pickle
import sys
import textwrap
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tutelage.errors import ConfigError, MissingExtraError, ModelError, UnknownNameError
from tutelage.models import load
from tutelage.models.load import BUILTIN, load_weights, make_model, read_state
from tutelage.models.origin import class_names_in

FACTS = {"num_classes": 3, "in_channels": 1, "image_size": 8}


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A file of networks, and a module of the same."""
    text = """
        from torch import nn

        def make(num_classes, width=4):
            return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, num_classes))

        def no_network(num_classes):
            return "a network"

        def broken(num_classes):
            raise RuntimeError("no such weights")

        def _hidden(num_classes):
            return nn.Identity()
    """
    (tmp_path / "nets_here.py").write_text(textwrap.dedent(text))
    (tmp_path / "nets_module_here.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("nets_module_here", None)


def logits(model, channels=1, size=8):
    with torch.no_grad():
        return model.eval()(torch.zeros(2, channels, size, size))


@pytest.mark.parametrize("name", sorted(set(BUILTIN) - {"bag_of_words", "text_cnn", "cnn1d"}))
def test_a_built_in_network_takes_what_the_data_says(name):
    settings = {"of": "cnn"} if name == "slice" else {}
    assert logits(make_model(name, settings, **FACTS)).shape == (2, 3)
    wide = make_model(name, settings, **(FACTS | {"in_channels": 3, "num_classes": 7}))
    assert logits(wide, channels=3).shape == (2, 7)


def test_a_cnn_s_channels_stage_by_stage_are_those_of_width_and_stages():
    facts = {"num_classes": 3, "in_channels": 1}
    doubled = make_model("cnn", {"width": 4, "stages": 3}, **facts).state_dict()
    given = make_model("cnn", {"channels": [4, 8, 16]}, **facts).state_dict()
    assert {n: t.shape for n, t in doubled.items()} == {n: t.shape for n, t in given.items()}
    tapered = make_model("cnn", {"channels": [4, 2], "width": 9}, **facts)
    assert [s.out_channels for s in tapered.modules() if hasattr(s, "out_channels")] == [4, 2]


def test_settings_go_before_what_the_data_says():
    model = make_model("mlp", {"hidden": [5], "num_classes": 9}, **FACTS)
    assert logits(model).shape == (2, 9)
    assert model.hidden1[0].out_features == 5


@pytest.mark.parametrize("name", ["nets_here.py:make", "nets_module_here:make"])
def test_networks_of_ones_own_come_by_file_and_by_module(name, code):
    model = make_model(name, {"width": 6}, folder=code, **FACTS)
    assert logits(model).shape == (2, 3)
    assert model[1].out_features == 6


def test_an_absolute_file_is_found_from_anywhere(code):
    assert logits(make_model(f"{code}/nets_here.py:make", **FACTS)).shape == (2, 3)


def test_a_timm_network_is_made_without_a_download():
    pytest.importorskip("timm")
    model = make_model("timm:resnet10t", **FACTS)
    assert logits(model, size=32).shape == (2, 3)


def test_a_torchvision_network_is_made_without_a_download():
    model = make_model("torchvision:squeezenet1_1", num_classes=3, in_channels=3, image_size=32)
    assert logits(model, channels=3, size=32).shape == (2, 3)


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delattr(load, "timm", raising=False)
    with pytest.raises(MissingExtraError, match=r"Model 'timm:resnet18' needs the 'timm' extra"):
        make_model("timm:resnet18", **FACTS)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("cnm", UnknownNameError, "Did you mean 'cnn'"),
        ("timm:resnet18x", UnknownNameError, "Unknown timm model 'resnet18x'. Did you mean"),
        ("torchvision:resnet81", UnknownNameError, "Did you mean 'resnet18'"),
        ("nothing.py:make", ConfigError, "nothing.py: no such file. A relative path"),
        ("no_such_library:make", ConfigError, "there is no module 'no_such_library'"),
        (
            "nets_here.py:mak",
            ConfigError,
            "there is no function or class 'mak'. nets_here.py defines: .*make",
        ),
        ("nets_here.py:_hidden", ConfigError, "there is no function or class '_hidden'"),
        ("nets_here.py:no_network", ModelError, "returned a str, not a torch.nn.Module"),
        ("nets_here.py:broken", ModelError, "RuntimeError: no such weights"),
        ("nets_here.py:", ConfigError, "there is no function or class ''"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_clear_error(name, kind, message, code):
    with pytest.raises(kind, match=message):
        make_model(name, folder=code, **FACTS)


def test_a_file_that_fails_is_named_and_can_be_mended(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import no_such_library_at_all\n")
    with pytest.raises(ModelError, match=r"mine.py: running it failed: ModuleNotFoundError"):
        make_model("mine.py:make", folder=tmp_path, **FACTS)
    file.write_text("from torch import nn\ndef make(num_classes): return nn.Identity()\n")
    assert isinstance(make_model("mine.py:make", folder=tmp_path, **FACTS), nn.Identity)


def test_two_files_of_one_name_are_two_modules(tmp_path):
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "net.py").write_text(
            f"from torch import nn\ndef make(num_classes): return nn.Linear({number}, num_classes)"
        )
    first, second = (make_model("net.py:make", folder=tmp_path / n, **FACTS) for n in "12")
    assert (first.in_features, second.in_features) == (1, 2)


def test_an_unknown_setting_is_refused():
    with pytest.raises(UnknownNameError, match=r"setting of model 'cnn' 'widht'. .*'width'"):
        make_model("cnn", {"widht": 4}, **FACTS)


# Weights.


def net(width=4):
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def saved(path, state):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s}])
def test_weights_come_back(tmp_path, name, wrap):
    state = net().state_dict()
    if name == "w.safetensors":
        wrap = dict
    torch.manual_seed(99)
    other = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
    load_weights(other, saved(tmp_path / name, wrap(state)))
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())


def renamed(state):
    return OrderedDict((f"old.{key}", value) for key, value in state.items())


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: net(5).state_dict(),
            r"0.bias is \(5,\), the network's is \(4,\)|is \(5, 2\), .* is \(4, 2\)",
        ),
        (renamed, r"missing 0.bias, 0.weight, 1.bias and 4 more, unknown old.0.bias"),
        (lambda s: {"0.weight": s["0.weight"]}, "missing 0.bias, 1.bias.* unknown none"),
        (lambda s: s | {"head": torch.ones(1)}, "missing none, unknown head. Use weights"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(tmp_path, name, change, message):
    model, path = net(), tmp_path / name
    before = {key: value.clone() for key, value in model.state_dict().items()}
    saved(path, dict(change(dict(before))))
    with pytest.raises(ModelError, match=message):
        load_weights(model, path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w.safetensors"])
@pytest.mark.parametrize("how", ["torch", "pickle", "inside"])
def test_a_pickle_is_refused_and_never_run(tmp_path, name, how):
    path, sign = tmp_path / name, tmp_path / "it-ran"
    match how:
        case "torch":
            torch.save(Canary(sign), path)
        case "pickle":
            path.write_bytes(pickle.dumps(Canary(sign)))
        case "inside":
            torch.save({**net().state_dict(), "extra": Canary(sign)}, path)
    with pytest.raises(ModelError, match=r"cannot be read as weights .* Allowed are safetensors"):
        load_weights(net(), path)
    assert not sign.exists()


def test_the_canary_would_sing(tmp_path):
    pickle.loads(pickle.dumps(Canary(tmp_path / "it-ran"))).close()
    assert (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "holds no state dict"),
        ({"epoch": 3, "w": torch.ones(1)}, "holds no state dict"),
        ("weights", "holds no state dict"),
    ],
)
def test_a_file_of_other_things_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=message):
        read_state(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"<html>Not found</html>"])
def test_a_damaged_or_missing_file_is_one_clear_error(tmp_path, name, content):
    path = tmp_path / name
    with pytest.raises(ModelError, match="no such file"):
        read_state(path)
    path.write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read as weights"):
        read_state(path)


@pytest.mark.parametrize("settings", [{"patch": 3}, {"heads": 5}])
def test_a_transformer_whose_parts_do_not_fit_is_one_clear_error(settings):
    with pytest.raises(ConfigError, match=f"{next(iter(settings))} must divide"):
        make_model("vit", settings, **FACTS)


def _saved(folder, change):
    torch.manual_seed(0)
    network = make_model("mlp", {"hidden": [4]}, num_classes=3, in_channels=1, image_size=2)
    file = folder / "weights.pt"
    torch.save({name: change(value) for name, value in network.state_dict().items()}, file)
    return network, file


@pytest.mark.filterwarnings("ignore:.*invariant:UserWarning")
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda value: value.to(torch.complex64), r"torch\.complex64"),
        (lambda value: (100 * value).to(torch.int8), r"torch\.int8"),
        (lambda value: value.to_sparse(), r"torch\.sparse_coo"),
        (lambda value: value.to("meta"), r"without content"),
    ],
)
def test_weights_that_would_be_read_as_other_numbers_are_refused(tmp_path, change, kind):
    network, file = _saved(tmp_path, change)
    with pytest.raises(ModelError, match=rf"weights\.pt: .* is .*{kind}.*float32"):
        load_weights(network, file)


def test_halves_and_doubles_are_weights(tmp_path):
    network, file = _saved(tmp_path, torch.Tensor.half)
    load_weights(network, file)
    assert all(value.dtype == torch.float32 for value in network.state_dict().values())


@pytest.mark.parametrize(
    "names", [{"b": 0, "a": 1}, {0: "b", 1: "a"}, {"0": "b", "1": "a"}, ["b", "a"]]
)
@pytest.mark.parametrize("key", ["classes", "class_names", "id2label", "label2id"])
def test_names_of_classes_are_read_in_any_usual_form(names, key):
    assert class_names_in({key: names}) == ("b", "a")


@pytest.mark.parametrize("names", [{"a": "x", "b": "y"}, {"a": 1, "b": 1}, {"a": None}])
def test_names_of_classes_without_an_order_are_refused(names):
    with pytest.raises(ModelError, match=r"does not number its \d classes"):
        class_names_in({"id2label": names})


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        ("mlp", {"hidden": [8, 0]}),
        ("cnn", {"width": 0}),
        ("cnn", {"stages": 0}),
        ("cnn", {"channels": []}),
        ("cnn", {"channels": [4, -1]}),
        ("resnet", {"width": 0}),
        ("resnet", {"blocks": 0}),
        ("resnet", {"stem": 0}),
        ("vit", {"width": 0}),
        ("vit", {"depth": 0}),
        ("vit", {"heads": 0}),
        ("vit", {"patch": 0}),
        ("wide_resnet", {"widen": 0}),
        ("bag_of_words", {"width": 0}),
        ("bag_of_words", {"buckets": -1}),
        ("bag_of_words", {"hidden": -1}),
        ("bag_of_words", {"max_tokens": 0}),
        ("text_cnn", {"width": 0}),
        ("text_cnn", {"filters": 0}),
        ("text_cnn", {"sizes": [2, 0]}),
        ("text_cnn", {"sizes": []}),
    ],
)
def test_no_built_in_network_is_made_without_units(model, sizes):
    (name,) = sizes
    with pytest.raises(ConfigError, match=rf"{model}: {name} must be .*whole number"):
        make_model(model, sizes, **FACTS, vocab_size=20)


@pytest.mark.parametrize("model", ["mlp", "cnn", "bag_of_words", "text_cnn"])
def test_no_built_in_network_drops_everything(model):
    with pytest.raises(ConfigError, match=rf"{model}: dropout must be .* below 1, got 1\.0"):
        make_model(model, {"dropout": 1.0}, **FACTS, vocab_size=20)


def test_a_network_without_hidden_layers_is_a_linear_one():
    assert len(make_model("mlp", {"hidden": []}, **FACTS)) == 2
