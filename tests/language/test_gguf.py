"""A language model as GGUF, read back by transformers and, where it is there, run by llama.cpp."""

import json
import subprocess
import sys

import pytest
import torch
from tiny_language import (
    learn,
    make_bpe,
    make_model,
    make_tokenizer,
    save,
    sentences,
    transformers,
)

from tutelage.cli.exports import export_student
from tutelage.config import build_job, read_recipe
from tutelage.deploy.gguf import PARTINGS, check_gguf, write_gguf
from tutelage.deploy.text_targets import GgufText
from tutelage.doctor import preflight
from tutelage.errors import ConfigError, ExportError, ModelError, UnknownNameError
from tutelage.models.causal import load_gguf, make_causal
from tutelage.pipeline import run_job
from tutelage.pipeline.export_run import export_run
from tutelage.records import RunRecord, load_record

pytest.importorskip("gguf")
TEXT = "the small cat sees a"


@pytest.fixture(scope="module")
def words():
    return make_bpe(sentences(100, seed=0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, words):
    """A model whose vocabulary is filled up to a multiple of 64, written in both ways."""
    folder = tmp_path_factory.mktemp("gguf")
    model = make_model(320, layers=2, width=32)
    learn(model, words, sentences(200, seed=1), steps=50)
    save(folder / "hf", model, words)
    for kind in ("float16", "q8_0"):
        write_gguf(model, words, folder / f"{kind}.gguf", kind)
    return folder


def of_folder(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder / "hf").eval()


def make_other(kind: str, head: int):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    if kind == "Qwen2":
        del config.head_dim
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


@pytest.mark.parametrize(("kind", "most"), [("float16", 0.01), ("q8_0", 0.25)])
def test_what_is_read_back_says_what_the_model_says(folder, words, kind, most):
    ids = torch.tensor([words(TEXT)["input_ids"]])
    back = GgufText(folder / f"{kind}.gguf")
    with torch.no_grad():
        wanted = of_folder(folder)(input_ids=ids).logits
    gap = (back.logits(ids) - wanted).abs().max() / wanted.abs().max()
    assert 0 < gap < most
    assert back.model.config.tie_word_embeddings
    assert back.runtime.startswith("read by transformers")


def test_eight_bits_are_about_half_as_large(folder):
    whole, half = ((folder / f"{kind}.gguf").stat().st_size for kind in ("float16", "q8_0"))
    words_alone = 6000
    assert 0.5 < (half - words_alone) / (whole - words_alone) < 0.7


@pytest.mark.parametrize(("kind", "head"), [("Qwen2", 8), ("Qwen3", 128), ("Mistral", 16)])
def test_other_architectures_and_heads_of_their_own(kind, head, words, tmp_path):
    model = make_other(kind, head)
    path = tmp_path / "model.gguf"
    write_gguf(model, words, path, "float16")
    ids = torch.tensor([words(TEXT)["input_ids"]])
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
        given = load_gguf(path)(input_ids=ids).logits
    assert (given - wanted).abs().max() < 0.01 * wanted.abs().max()


def test_adapters_are_folded_in(folder, words, tmp_path):
    pytest.importorskip("peft")
    student = make_causal(str(folder / "hf"), lora_rank=2).eval()
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    write_gguf(student, words, tmp_path / "model.gguf", "float16")
    ids = torch.tensor([words(TEXT)["input_ids"]])
    with torch.no_grad():
        given, wanted, before = (
            model(input_ids=ids).logits
            for model in (load_gguf(tmp_path / "model.gguf"), student, of_folder(folder))
        )
    assert (given - wanted).abs().max() < 0.05 * (before - wanted).abs().max()


def test_the_tokenizer_goes_with_it(folder, words):
    back = transformers.AutoTokenizer.from_pretrained(folder, gguf_file="float16.gguf")
    for text in (TEXT, "a  BIRD\nfinds 123 trees.", "<end>the"):
        assert back(text)["input_ids"] == words(text)["input_ids"]
    assert back.eos_token == "<end>"


# In a process of its own: a server that goes away can hang the one that it was in.
ASK = """
import json, os, sys, urllib.request
import xllamacpp
path, asked = json.load(sys.stdin)
settings = xllamacpp.CommonParams()
settings.model.path = path
settings.n_ctx, settings.n_parallel, settings.cpuparams.n_threads = 64, 1, 1
settings.warmup, settings.verbosity = False, -1
server = xllamacpp.Server(settings)
for what, content in asked:
    kind = {"Content-Type": "application/json"}
    place = f"{server.listening_address}/{what}"
    request = urllib.request.Request(place, json.dumps(content).encode(), kind)
    with urllib.request.urlopen(request, timeout=60) as answer:
        print("answer:" + json.dumps(json.load(answer)), flush=True)
os._exit(0)
"""


def llama_cpp(path, *asked: tuple[str, dict]) -> list[dict]:
    """What llama.cpp's own server answers."""
    pytest.importorskip("xllamacpp")
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        input=json.dumps([str(path), asked]),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("answer:")]
    return [json.loads(line.removeprefix("answer:")) for line in lines]


def test_llama_cpp_reads_and_writes_the_same_tokens(folder, words):
    ids = words(TEXT)["input_ids"]
    settings = {"n_predict": 8, "temperature": 0, "return_tokens": True, "n_probs": 5}
    cut, said = llama_cpp(
        folder / "float16.gguf",
        ("tokenize", {"content": TEXT}),
        ("completion", {"prompt": ids, **settings}),
    )
    assert cut["tokens"] == ids
    model = of_folder(folder)
    with torch.no_grad():
        wanted = model.generate(
            torch.tensor([ids]), max_new_tokens=8, do_sample=False, pad_token_id=0
        )
        first = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(dim=-1)
    assert len(said["tokens"]) == 8
    assert said["tokens"] == wanted[0, len(ids) :].tolist()
    for one in said["completion_probabilities"][0]["top_logprobs"]:
        assert one["logprob"] == pytest.approx(float(first[one["id"]]), abs=0.02)


@pytest.mark.parametrize("name", PARTINGS)
def test_llama_cpp_parts_text_as_the_tokenizer_under_that_name(name, tmp_path):
    text = "It's 12345 birds' NESTS, DON'T\n\n  two  spaces 3.14! the 1999-2024 \u00e9t\u00e9's"
    plain = make_bpe(["12345 1999 2024 DON'T  two  spaces"] * 9 + sentences(30, seed=0))
    facts = json.loads(plain.backend_tokenizer.to_str())
    parts = [
        part | ({"trim_offsets": True} if part["type"] == "ByteLevel" else {})
        for part in PARTINGS[name]
    ]
    facts["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
    facts["normalizer"] = {"type": "NFC"} if name == "qwen2" else None
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=type(plain.backend_tokenizer).from_str(json.dumps(facts)),
        eos_token="<end>",
    )
    path = tmp_path / "model.gguf"
    write_gguf(make_model(320, layers=1), tokenizer, path, "float16")
    (cut,) = llama_cpp(path, ("tokenize", {"content": text}))
    assert cut["tokens"] == tokenizer(text)["input_ids"]


def test_a_run_writes_and_compares_and_a_later_export_adds(folder, write_recipe, capsys):
    path = write_recipe(
        teacher={"model": f"causal:{folder / 'hf'}"},
        student={"model": f"causal:{folder / 'hf'}", "settings": {"keep_layers": [1]}},
        baseline=False,
        export={"targets": ["gguf"]},
    )
    job = build_job(read_recipe(path))
    record = run_job(job).record
    (half,) = record.text_files
    file = job.out / "student" / "model-float16.gguf"
    assert (half.file, half.size_bytes) == (file.name, file.stat().st_size)
    assert half.perplexity == pytest.approx(half.expected_perplexity, rel=1e-3)
    assert half.tokens_per_s is None
    written = file.stat().st_mtime_ns
    assert run_job(job).record.text_files == record.text_files
    assert file.stat().st_mtime_ns == written

    export_student(job.out, target="gguf_q8_0", scheme=None, allow_code=False)
    half, eight = load_record(job.out / "results.json", RunRecord).text_files
    assert [half.target, eight.target] == ["gguf", "gguf_q8_0"]
    assert 0 < half.kl < eight.kl < 0.05
    assert half.expected_perplexity == eight.expected_perplexity
    said = " ".join(capsys.readouterr().out.split())
    assert "model-float16.gguf: " in said
    assert f"model-q8_0.gguf: {eight.size_bytes / 1e6:.1f} MB, perplexity" in said
    with pytest.raises(ConfigError, match=r"int8: minmax .* target gguf_q8_0"):
        export_run(job.out, scheme="minmax")
    with pytest.raises(UnknownNameError, match=r"Unknown target 'openvino'"):
        export_run(job.out, target="openvino")


REFUSED = [
    ({"targets": ["ggml"]}, UnknownNameError, r"Unknown export.targets 'ggml'.*gguf_q8_0"),
    ({"targets": ["gguf"], "int8": ["minmax"]}, ConfigError, r"export.int8: .* are gguf_q8_0"),
    ({"targets": ["gguf"]}, ExportError, r"GGUF: only tokenizers that join pairs of bytes"),
]


@pytest.mark.parametrize(("export", "kind", "message"), REFUSED)
def test_what_cannot_be_written_is_refused_before_training(write_recipe, export, kind, message):
    with pytest.raises(kind, match=message):
        preflight(build_job(read_recipe(write_recipe(export=export))))


def test_other_models_positions_and_tokenizers_are_one_clear_error(words):
    model = make_model(320)
    model.config.rope_parameters = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(ExportError, match=r"positions of the kind 'yarn' .*only 'default'"):
        check_gguf(model, words)
    with pytest.raises(ExportError, match=r"Qwen3's heads back as 128 wide, these are 16"):
        check_gguf(make_other("Qwen3", 16), words)
    model.config.model_type = "gpt_neox"
    with pytest.raises(ExportError, match=r"models of type 'gpt_neox' .*Known: llama, mistral"):
        check_gguf(model, words)
    with pytest.raises(ExportError, match=r"join pairs of bytes"):
        check_gguf(make_model(24), make_tokenizer(["a"]))
    odd = make_bpe(["the cat"])
    part = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}
    facts = json.loads(odd.backend_tokenizer.to_str())
    facts["pre_tokenizer"] = part | {"trim_offsets": True}
    changed = transformers.PreTrainedTokenizerFast(
        tokenizer_object=type(odd.backend_tokenizer).from_str(json.dumps(facts))
    )
    with pytest.raises(ExportError, match=r"parts text in a way that is not known.*Known: gpt-2"):
        check_gguf(make_model(24), changed)


def test_a_weight_without_a_name_is_named_and_no_file_left(words, tmp_path):
    model = make_model(320)
    model.model.layers[0].extra = torch.nn.Linear(2, 2)
    with pytest.raises(ExportError, match=r"no name for the weight 'model.layers.0.extra.weight'"):
        write_gguf(model, words, tmp_path / "model.gguf", "float16")
    assert not list(tmp_path.iterdir())


def test_weights_of_another_kind_are_refused(words, tmp_path):
    with pytest.raises(UnknownNameError, match=r"Unknown weights 'q4_0'.*float16, q8_0"):
        write_gguf(make_model(320), words, tmp_path / "model.gguf", "q4_0")


def test_a_file_that_is_none_is_one_line(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"model.gguf: cannot be loaded as a causal"):
        load_gguf(tmp_path / "model.gguf")
