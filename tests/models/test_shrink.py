import pytest
import torch
from texts import save_transformer

from tutelage.errors import ConfigError, ModelError
from tutelage.models.calling import call
from tutelage.models.load import make_model
from tutelage.models.shrink import WIDTHS, layers_of, narrow_mlps, shrink, spread_evenly
from tutelage.models.taps import tapped

transformers = pytest.importorskip("transformers")

IDS = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 4]])
INPUTS = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
SIZES = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
OF_ENCODER = {**SIZES, "intermediate_size": 16, "initializer_range": 0.3}
OF_GATED = {**OF_ENCODER, "num_key_value_heads": 2}
OF_OPT = {**SIZES, "ffn_dim": 16, "word_embed_proj_dim": 8, "init_std": 0.3, "pad_token_id": 0}
OF_DISTIL = {"vocab_size": 20, "dim": 8, "hidden_dim": 16, "n_layers": 2, "n_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_transformer(tmp_path_factory.mktemp("bert"))


def made(folder, **settings):
    torch.manual_seed(0)
    return make_model(f"hf:{folder}", settings, num_classes=3, task="classification").eval()


def fresh(kind, sizes):
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}Model")(
        getattr(transformers, f"{kind}Config")(**sizes)
    ).eval()


@torch.no_grad()
def states(model):
    return model(**INPUTS).last_hidden_state


def test_kept_layers_are_the_teachers_in_the_order_given(folder):
    teacher, student = made(folder), made(folder, keep_layers=[0, 3])
    theirs, ours = layers_of(teacher)[1], layers_of(student)[1]
    assert (len(theirs), len(ours), student.config.num_hidden_layers) == (4, 2, 2)
    for number, kept in ((0, 0), (1, 3)):
        for a, b in zip(ours[number].parameters(), theirs[kept].parameters(), strict=True):
            assert torch.equal(a, b)
    with torch.no_grad(), tapped(teacher, ["bert.encoder.layer.0"]) as features:
        call(teacher, INPUTS)
    with torch.no_grad(), tapped(student, ["bert.encoder.layer.0"]) as kept:
        call(student, INPUTS)
    assert torch.equal(*(f["bert.encoder.layer.0"] for f in (features, kept)))


@pytest.mark.parametrize(
    ("total", "count", "wanted"),
    [
        (6, 2, [0, 5]),
        (12, 6, [0, 2, 4, 7, 9, 11]),
        (6, 3, [0, 2, 5]),
        (4, 1, [0]),
        (3, 3, [0, 1, 2]),
    ],
)
def test_layers_are_spread_from_the_first_to_the_last(total, count, wanted):
    assert spread_evenly(total, count) == wanted


def test_a_number_of_layers_keeps_them_evenly(folder):
    assert len(layers_of(made(folder, num_layers=2))[1]) == 2


def test_layers_of_two_kinds_keep_their_kinds():
    kinds = ["full_attention", "sliding_attention", "sliding_attention"]
    windows = {"use_sliding_window": True, "sliding_window": 3, "layer_types": kinds}
    model = fresh("Qwen2", {**OF_GATED, **windows, "num_hidden_layers": 3})
    shrink(model, keep_layers=[0, 2])
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    assert [layer.self_attn.layer_idx for layer in layers_of(model)[1]] == [0, 1]
    assert states(model).shape == (2, 4, 8)


@pytest.mark.parametrize(
    ("kind", "sizes", "out"),
    [
        ("Bert", OF_ENCODER, "output.dense"),
        ("Roberta", OF_ENCODER, "output.dense"),
        ("DistilBert", OF_DISTIL, "ffn.lin2"),
        ("OPT", OF_OPT, "fc2"),
        ("Llama", OF_GATED, "mlp.down_proj"),
        ("Llama", {**OF_GATED, "head_dim": 8}, "mlp.down_proj"),  # as wide as attention inside
    ],
)
def test_units_that_add_nothing_are_those_that_go(kind, sizes, out):
    model = fresh(kind, sizes)
    before = states(model)
    narrow_mlps(model, 16)
    assert torch.equal(states(model), before)
    with torch.no_grad():
        for layer in layers_of(model)[1]:
            layer.get_submodule(out).weight[:, ::2] = 0
    before = states(model)
    narrow_mlps(model, 8)
    torch.testing.assert_close(states(model), before)
    assert all(layer.get_submodule(out).weight.shape == (8, 8) for layer in layers_of(model)[1])
    assert 8 in [getattr(model.config, name, None) for name in WIDTHS]
    with pytest.raises(ConfigError, match=r"settings\.mlp_width must be from 1 to 8, got 9"):
        narrow_mlps(model, 9)


def test_a_narrowed_network_is_written_and_read_as_it_is(folder, tmp_path):
    student = made(folder, num_layers=3, mlp_width=20)
    student.save_pretrained(tmp_path)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert again.config.intermediate_size == 20
    with torch.no_grad():
        torch.testing.assert_close(again(**INPUTS).logits, call(student, INPUTS))


def test_frozen_weights_stay_frozen(folder):
    model = made(folder).requires_grad_(requires_grad=False)
    assert not any(p.requires_grad for p in shrink(model, mlp_width=4).parameters())


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("GPT2", {"vocab_size": 20, "n_embd": 8, "n_layer": 2, "n_head": 2}),
        ("Mixtral", {**OF_GATED, "num_local_experts": 2}),
        ("Bert", {**OF_ENCODER, "intermediate_size": 8}),
    ],
)
def test_networks_whose_mlps_are_otherwise_are_refused(kind, sizes):
    with pytest.raises(ModelError, match=rf"mlp_width: in {kind}Model no layer has one MLP of"):
        narrow_mlps(fresh(kind, sizes), 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_layers": [0, 4]}, r"keep_layers: .* has the layers 0 to 3, got \[0, 4\]"),
        ({"keep_layers": []}, r"keep_layers: .* got \[\]"),
        ({"keep_layers": [0], "num_layers": 1}, "keep_layers or num_layers, not both"),
        ({"num_layers": 5}, "num_layers must be 1 to 4, got 5"),
        ({"mlp_width": 0}, "mlp_width must be from 1 to 32, got 0"),
    ],
)
def test_settings_that_fit_no_network_are_refused(folder, settings, message):
    with pytest.raises(ConfigError, match=message):
        made(folder, **settings)
