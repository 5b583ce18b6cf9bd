"""Whole runs by several processes, and what becomes of all when one fails."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tutelage
from tutelage import distributed
from tutelage.errors import ConfigError

RECIPE = """
task: classification
data: {kind: digits}
views: {kind: shift, pixels: 1}
teacher: {model: mlp, settings: {hidden: [32]}, training: {train: {epochs: 2}}}
student: {model: mlp, settings: {hidden: [8]}}
train: {epochs: 2, batch_size: 64}
optimizer: {kind: sgd, lr: 0.05}
seeds: [0]
measure: null
output: OUT
"""


def distil(folder):
    """The Python call, as a script under torchrun makes it."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 6, generator=generator)
    labels = (inputs[:, 0] > 0).long()
    torch.manual_seed(0)
    teacher, student = (torch.nn.Sequential(torch.nn.Linear(6, 2)) for _ in range(2))
    found = tutelage.distill(
        teacher, student, (inputs, labels), epochs=2, batch_size=16, codec="float32", out=folder
    )
    weights = {name: value.numpy() for name, value in found.student.state_dict().items()}
    return weights, found.metrics["accuracy"], distributed.world().number


def test_the_python_call_gives_every_process_the_student_and_the_record(together, tmp_path):
    alone = distil(str(tmp_path / "one"))
    both = together(distil, str(tmp_path / "two"))
    for weights, accuracy, _ in both:
        assert accuracy == pytest.approx(alone[1])
        for name, value in weights.items():
            torch.testing.assert_close(value, alone[0][name], rtol=1e-4, atol=1e-5)
    assert [number for *_, number in both] == [0, 1]


@pytest.mark.parametrize(
    "environment",
    [
        {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"},  # accelerate launch --cpu
        {"OMPI_COMM_WORLD_SIZE": "4"},
    ],
)
def test_processes_that_would_not_know_of_one_another_are_refused(monkeypatch, environment):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"several processes were asked for.*--multi_gpu"):
        distributed.init_process_group()


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_a_student_in_pieces_is_refused(monkeypatch, kind):
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with pytest.raises(ConfigError, match=f"not {kind} of the launcher.*train.shard"):
        distributed.init_process_group()


def wait_for_one_that_fails():
    """What the others hear when the first fails while they wait."""
    distributed.barrier()
    if distributed.world().is_main:
        spoken = distributed.should_report_error(), distributed.should_report_error()
        time.sleep(2)  # it keeps the store that the other asks
        return spoken
    try:
        distributed.on_main_process(lambda: None)
    except distributed.PeerFailedError as error:
        return str(error), distributed.should_report_error()
    return "nothing", None


def test_only_one_process_tells_of_an_error_and_the_others_stop(together):
    first, second = together(wait_for_one_that_fails)
    assert first == (True, False)
    assert second == ("Another process of this run has failed.", False)


def launch(*command, expect=0):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = str(Path(tutelage.__file__).parents[1])
    done = subprocess.run(
        [*command], capture_output=True, text=True, env=environment, timeout=500, check=False
    )
    assert (done.returncode == 0) == (expect == 0), done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "r.yaml"
    path.write_text(RECIPE.replace("OUT", str(path.parent / "out")))
    return path


LAUNCHERS = {
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"],
    "accelerate": ["accelerate", "launch", "--multi_gpu", "--num_processes", "2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_runs_a_recipe_unchanged(recipe, tmp_path, launcher):
    one, two = tmp_path / "one", tmp_path / "two"
    launch(sys.executable, "-m", "tutelage", "run", str(recipe), f"output={one}")
    done = launch(*LAUNCHERS[launcher], "-m", "tutelage", "run", str(recipe), f"output={two}")
    assert done.stdout.count("Report:") == done.stdout.count("distilled, seed 0") == 1
    for arm in ("baseline", "distilled"):
        first, second = (
            load_file(out / f"arms/{arm}/seed-0/last.safetensors") for out in (one, two)
        )
        for name, value in first.items():
            torch.testing.assert_close(value, second[name], rtol=1e-4, atol=1e-5)
    verdicts = [
        json.loads((out / "results.json").read_text())["verdicts"]["last"]["word"]
        for out in (one, two)
    ]
    assert verdicts[0] == verdicts[1]
    again = launch(*LAUNCHERS[launcher], "-m", "tutelage", "run", str(recipe), f"output={two}")
    assert again.stdout.count("kept") >= 3


@pytest.mark.slow
def test_an_error_in_every_process_is_one_message(recipe):
    done = launch(
        *LAUNCHERS["torchrun"], "-m", "tutelage", "run", str(recipe), "train.epoch=3", expect=1
    )
    assert done.stderr.count("Error: ") - done.stderr.count("ChildFailedError: ") == 1
    assert "train.epoch" in done.stderr


@pytest.mark.slow
def test_accelerate_with_cpu_says_what_to_write_instead(recipe):
    done = launch(
        *("accelerate", "launch", "--cpu", "--num_processes", "2", "-m", "tutelage"),
        *("run", str(recipe)),
        expect=1,
    )
    assert "several processes were asked for" in done.stderr
    assert "accelerate launch --multi_gpu --num_processes 2" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_runs_student_and_teacher_in_pieces(recipe, tmp_path, launcher):
    cut = ["cache=null", "teacher.shard=true", "train.shard=true"]
    outs = [tmp_path / "one", tmp_path / "two"]
    launch(sys.executable, "-m", "tutelage", "run", str(recipe), f"output={outs[0]}", *cut)
    launch(*LAUNCHERS[launcher], "-m", "tutelage", "run", str(recipe), f"output={outs[1]}", *cut)
    first, second = (load_file(o / "arms/distilled/seed-0/last.safetensors") for o in outs)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-4, atol=1e-5)
    assert (outs[1] / "report.html").is_file()
