"""Every benchmark does its real work on tiny input."""

from pathlib import Path

import pytest
import torch
from programs import run_script
from safetensors.torch import save_file
from shown import ROOT

from tutelage.config import build_job, read_recipe
from tutelage.models.nets import mlp
from tutelage.pipeline import run_job

pytestmark = pytest.mark.commands
BENCHMARKS = ROOT / "benchmarks"
SHORT = ("train.epochs=1", "teacher.training.train.epochs=1", "schedule.warmup_steps=0")
TINY: dict[str, list[str]] = {
    "bytes_curve.py": [
        *("mnist", "--sizes", "8", "4", "--seeds", "1", "--epochs", "1", "--teacher-epochs", "1"),
        *("--again", "1", "--seconds", "0.1", "--svg", "curve.svg"),
    ],
    "cache.py": ["--samples", "300", "--counts", "500", "--texts", "16"],
    "chunked.py": [
        *("--dense-tokens", "8", "--timed-tokens", "16", "--tokens", "16", "--turns", "2"),
        *("--vocabularies", "300", "--objectives", "JS 0.5", "--keep", "kept.json"),
    ],
    "coverage.py": ["--trials", "10"],
    "domain_shift.py": [
        *("--size", "32", "--width", "0.1", "--seeds", "1", "--epochs", "1", "--seconds", "0.1"),
    ],
    "embeddings.py": ["--layers", "ENCODER", "--static", "ENCODER", "--width", "8"],
    "end_to_end.py": [
        *("--data", "digits", "--samples", "64", "--repeats", "1", "--batch-size", "16"),
        *("--steps", "1"),
    ],
    "hinton_curve.py": [
        *("--teacher", "teacher.safetensors", "--seeds", "1", "--out", "curve.json"),
        *("--only", "as in the table", "task weights"),
    ],
    "hinton_trials.py": [
        *("adam", "T=20", "T=20, the epoch that is best on the test data", "T=20, raw pixels"),
        "T=20, the teacher's mean over its views",
        "no 3, from the adam teacher of 300 epochs, spread 1.5",
        "no 3, the dropout of the adam teacher of 300 epochs left on",
        *("--seeds", "1", "--epochs", "1"),
    ],
    "layout.py": ["--turns", "2", "--batch", "2"],
    "older_intervals.py": [
        *(str(ROOT / "src/tutelage/leaderboards/cnn_to_mlp.json"), "--steps", "9"),
    ],
    "rounding.py": ["digits", *SHORT, "seeds=[0,1]", "--orders", "2"],
    "scale.py": ["--counts", "2000", "--json", "scale.json"],
    "seeds.py": ["--seeds", "2", "--widths", "4", "--turns", "2"],
    "slices.py": ["RUN digits", "--shares", "0.5", "--seeds", "1"],
    "startup.py": ["--runs", "2"],
    "step.py": ["--repeats", "1", "--turns", "2", "--calls", "1", "--batch-size", "2"],
    "targets.py": [
        *("--networks", "cnn 32,bert 2x128", "--targets", "onnx,executorch", "--epochs", "1"),
        *("--seconds", "0.2"),
    ],
    "text_files.py": ["RUN smollm2", "--texts", "1", "--turns", "2", "--written", "4"],
    "texts.py": ["--turns", "2", "--shapes", "2x8"],
    "tfidf.py": ["movie_snippets", "--run", "RUN movie_snippets"],
    "token_cache.py": [
        *("--tokens", "640", "--block-size", "32"),
        *("--codecs", "float16", "topk:4", "sampled:8"),
    ],
    "tuned.py": ["digits", *SHORT, "output=tuned", "seeds=[0]", "--trials", "2", "--seeds", "1"],
}
RUNS = {
    "digits": ["measure=null"],
    "movie_snippets": ["measure=null", "data.max_length=16"],
    "smollm2": [
        *("data.block_size=40", "data.train_tokens=1600", "data.valid_tokens=320"),
        *("data.test_tokens=640", "student.settings.keep_layers=[0,3]"),
    ],
}
SHOWS = {  # what each prints that only finished work has
    "bytes_curve.py": "| 4 |",
    "cache.py": "at once / 32 at once",
    "chunked.py": "largest relative gap",
    "coverage.py": "| 10 |",
    "domain_shift.py": "| Twitter's style, held-out things |",
    "embeddings.py": "| static, untrained |",
    "end_to_end.py": "cached / (plain - teacher)",
    "hinton_curve.py": "0.9",
    "hinton_trials.py": "left on: ",
    "layout.py": "resnet 32",
    "older_intervals.py": "| dist | kd | -0.26 ",
    "rounding.py": "verdicts: ",
    "scale.py": "train",
    "seeds.py": "stacked / in turn",
    "slices.py": "| 0.5 |",
    "startup.py": "goal: ",
    "step.py": "live / (teacher + plain)",
    "targets.py": "| bert 2x128 | onnx |",
    "text_files.py": "| gguf_q8_0 |",
    "texts.py": "float32, 2 texts of 8 tokens",
    "tfidf.py": "students, last, less that",
    "token_cache.py": "| sampled:8 |",
    "tuned.py": "tuned - default",
}
NEEDS = {"text_files.py": "xllamacpp", "tuned.py": "optuna"}


@pytest.fixture
def place(home, tmp_path, monkeypatch) -> Path:
    """An empty folder to work in, with the tiny home."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("XDG_CACHE_HOME", "TUTELAGE_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def filled(arguments: list[str], place: Path, home: Path) -> list[str]:
    """The arguments, with folders for their placeholders."""
    return [
        finished_run(word.removeprefix("RUN "))
        if word.startswith("RUN ")
        else word.replace("ENCODER", str(home / ".cache/tutelage/datasets/all-minilm-l6-v2"))
        for word in arguments
    ]


def finished_run(name: str) -> str:
    """A run of a shipped recipe, in miniature."""
    short = [word for word in SHORT if name != "smollm2" or "teacher" not in word]
    changes = [*short, *RUNS[name], "seeds=[0]", f"output=runs/{name}"]
    run_job(build_job(read_recipe(name, changes)))
    return f"runs/{name}"


def prepare(name: str, home: Path) -> None:
    """What a benchmark wants to find beside its arguments."""
    if name == "domain_shift.py" and not (home / ".cache/tutelage/datasets/emoji").is_dir():
        from homes import add_emoji

        add_emoji(home)
    if name == "hinton_curve.py":
        teacher = mlp(10, hidden=(1200, 1200), dropout=0.5, input_dropout=0.2)
        save_file(teacher.state_dict(), "teacher.safetensors")


@pytest.mark.parametrize("name", TINY)
def test_a_benchmark_works_on_tiny_input(place, home, capsys, name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    prepare(name, home)
    threads = torch.get_num_threads()
    try:
        assert run_script(BENCHMARKS / name, *filled(TINY[name], place, home)) == 0
    finally:
        torch.set_num_threads(threads)
    assert SHOWS[name] in capsys.readouterr().out


def test_every_benchmark_with_a_main_program_is_tried():
    with_main = {p.name for p in BENCHMARKS.glob("*.py") if "\ndef main(" in p.read_text("utf-8")}
    assert with_main == set(TINY) == set(SHOWS)
    listed = (BENCHMARKS / "README.md").read_text("utf-8")
    assert [name for name in with_main if f"python benchmarks/{name}" not in listed] == []
    helpers = {path.name for path in BENCHMARKS.glob("*.py")} - with_main
    assert helpers == {"arms.py", "picture.py", "timing.py"}


def test_speeds_of_untrained_students_need_no_data(place, capsys):
    words = ["mnist", "--untrained", "--again", "1", "--seconds", "0.1", "--sizes", "8", "4"]
    threads = torch.get_num_threads()
    try:
        assert run_script(BENCHMARKS / "bytes_curve.py", *words) == 0
    finally:
        torch.set_num_threads(threads)
    assert "| 4 |" in capsys.readouterr().out
