"""What is no causal language model, or does not fit its text, is refused before any training."""

import json

import pytest
import torch
from small_models import small
from tiny_language import WORDS, make_model, make_tokenizer, save

from tutelage.config import build_job, read_recipe
from tutelage.deploy.text_targets import TEXT_TARGETS
from tutelage.doctor import check, preflight
from tutelage.errors import ConfigError, ExportError, ModelError, TutelageError
from tutelage.inputs.tokenizer import load_tokenizer
from tutelage.models.causal import make_causal, num_positions
from tutelage.models.hf import hf_factory

transformers = pytest.importorskip("transformers")


def encoder_decoder():
    sizes = {"vocab_size": 64, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.BartConfig(**sizes, **heads, max_position_embeddings=32)
    return transformers.BartForConditionalGeneration(config)


def headless():
    return small("bert").bert


def bidirectional():
    return small("bert", is_decoder=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (encoder_decoder, "bart is an encoder with a decoder"),
        (headless, "weights of a causal language model are not in it"),
        (bidirectional, "sees the tokens after the one that it predicts"),
    ],
)
def test_networks_of_another_kind_are_no_language_models(make, message, tmp_path):
    make().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=message):
        make_causal(str(tmp_path))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_in_several_files_and_narrow_numbers_are_read_whole(dtype, tmp_path):
    model = small("llama", tie_word_embeddings=False).to(dtype)
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = make_causal(str(tmp_path))
    assert found.dtype == torch.float32
    wanted = model.state_dict()
    assert wanted.keys() == found.state_dict().keys()
    assert all(torch.equal(value, wanted[n].float()) for n, value in found.state_dict().items())


def test_a_block_longer_than_the_positions_is_refused(write_recipe, teacher_path):
    recipe = read_recipe(str(write_recipe()), ["data.block_size=65"])
    assert num_positions(str(teacher_path)) == 64
    with pytest.raises(ConfigError, match="65 tokens are more than the 64 positions that teacher"):
        build_job(recipe)
    build_job(read_recipe(str(write_recipe()), ["data.block_size=64"]))


def test_models_without_a_limit_have_none(tmp_path):
    small("mamba").config.save_pretrained(tmp_path)
    assert num_positions(str(tmp_path)) is None


def test_a_tokenizer_of_more_words_than_the_model_has_is_refused(write_recipe, tmp_path):
    folder = save(tmp_path / "few", make_model(len(WORDS) - 3), make_tokenizer(WORDS))
    recipe = read_recipe(
        str(write_recipe(cache=None)),
        [f"teacher.model=causal:{folder}", f"student.model=causal:{folder}"],
    )
    with pytest.raises(TutelageError, match=r"words|tokens"):
        preflight(build_job(recipe))


def test_the_cache_of_tokens_is_told_in_tokens(write_recipe):
    job = build_job(read_recipe(str(write_recipe())))
    text = next(found.text for found in check(job) if found.about == "memory")
    assert f"({len(job.splits.train) * 16:,} tokens)" in text


@pytest.mark.parametrize("kind", ["mamba", "lfm2", "falcon_h1", "openai-gpt"])
def test_onnx_is_refused_before_training_where_the_past_is_not_keys_and_values(kind):
    pytest.importorskip("onnxscript")
    with pytest.raises(ExportError, match=r"past|state|keys and values"):
        TEXT_TARGETS["onnx"].check(small(kind), None)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "granite", "gpt2", "mistral"])
def test_onnx_takes_models_that_keep_keys_and_values(kind):
    pytest.importorskip("onnxscript")
    TEXT_TARGETS["onnx"].check(small(kind), None)


@pytest.mark.parametrize(
    "changes", [{"hidden_act": "gelu"}, {"sliding_window": 16}], ids=["gelu", "window"]
)
def test_gguf_of_what_llama_cpp_runs_otherwise_is_refused(changes):
    pytest.importorskip("gguf")
    config = {"sliding_window": None} | changes
    with pytest.raises(ExportError, match=rf"llama.cpp would run .* \({next(iter(changes))}"):
        TEXT_TARGETS["gguf"].check(small("mistral", **config), None)


def with_code(folder):
    """A folder whose configuration names Python files beside it."""
    (folder / "own.py").write_text("raise SystemExit('it ran')\n")
    names = {
        "AutoConfig": "own.Own",
        "AutoModel": "own.Own",
        "AutoModelForCausalLM": "own.Own",
        "AutoModelForSequenceClassification": "own.Own",
    }
    config = {"model_type": "unheard", "auto_map": names, "trust_remote_code": True}
    (folder / "config.json").write_text(json.dumps(config))
    tokens = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    return str(folder)


def test_code_beside_a_model_or_tokenizer_does_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # nobody is asked either
    folder = with_code(tmp_path)
    for load in (
        lambda: make_causal(folder),
        lambda: make_causal(folder, is_fresh=True, changes={"trust_remote_code": True}),
        lambda: load_tokenizer(folder),
    ):
        with pytest.raises(TutelageError):
            load()
    with pytest.raises(ValueError, match=r"custom code|trust_remote_code"):
        hf_factory(folder)(2)


def test_a_setting_of_a_model_cannot_let_code_run(tmp_path):
    small("bert").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"trust_remote_code": False}))
    with pytest.raises(ConfigError, match=r"Unknown setting .* 'trust_remote_code'"):
        hf_factory(str(tmp_path))(2, trust_remote_code=True)
    with pytest.raises(ConfigError, match="has no 'trust_remote_code'"):
        make_causal(str(tmp_path), is_fresh=True, changes={"trust_remote_code": True})
