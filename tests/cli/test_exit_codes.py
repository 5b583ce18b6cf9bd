"""0 done, 1 failed, 2 wrong input, 130 interrupted: for every command."""

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from tutelage.cli.app import app, guarded
from tutelage.errors import ConfigError
from tutelage.records import RunRecord, load_record

CHANGES = [
    "views={kind: identity}",
    "teacher.settings.width=4",
    "teacher.training.train.epochs=1",
    "train.epochs=1",
    "seeds=[0]",
    "measure=null",
]
COMMAND = [sys.executable, "-c", "from tutelage.cli.app import main; main()"]


def call(*arguments):
    return guarded(lambda **settings: app(list(arguments), **settings))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def few(monkeypatch):
    """Most digits go to the test part, so that an epoch is a few steps."""
    from tutelage.config import build
    from tutelage.data.builtin import load_digits

    def loader(valid_fraction=0.3, seed=0):
        return load_digits(valid_fraction, test_fraction=0.9, seed=seed)

    monkeypatch.setattr(build, "BUILTIN", {"digits": loader})


@pytest.mark.usefixtures("few")
def test_every_command_on_a_good_run_is_0(capsys):
    changes = [*CHANGES, "output=out"]
    assert call("check", "digits", *changes) == 0
    assert call("cache", "build", "digits", *changes) == 0
    assert call("run", "digits", *changes) == 0
    for command in (["report"], ["cache", "info"], ["cache", "verify"]):
        assert call(*command, "out") == 0
    assert call("recipe") == 0
    assert call("recipe", "digits") == 0
    assert call("--version") == 0
    assert call("run", "--help") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("few")
def test_a_cache_that_does_not_fit_or_is_damaged_is_built_again_as_the_message_says(
    capsys,
):
    changes = [*CHANGES, "output=out"]
    assert call("run", "digits", *changes) == 0
    other = [*changes, "teacher.training.seed=5"]
    assert call("run", "digits", *other) == 2
    assert "Build it anew (tutelage cache build RECIPE)" in capsys.readouterr().err
    assert call("cache", "build", "digits", *other) == 0
    assert call("run", "digits", *other) == 0
    shard = Path("out/cache/shard-00000.safetensors")
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert call("cache", "verify", "out") == 2
    assert "tutelage cache build" in capsys.readouterr().err
    assert call("cache", "build", "digits", *other) == 0
    assert call("cache", "verify", "out") == 0
    assert shard.read_bytes()[-5000:] == good[-5000:]


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "none.yaml"],
        ["run", "digits", "epochs"],
        ["run", "digits", "train.epochs=0"],
        ["check", "digit"],
        ["check", "digits", "views.pixels=0"],
        ["cache", "build", "digits", "cache.codec=zip"],
        ["cache", "info", "nowhere"],
        ["cache", "verify", "nowhere"],
        ["cache", "mend"],
        ["report", "nowhere"],
        ["recipe", "digit"],
        ["walk"],
        ["--fast"],
        ["demo", "--out"],
    ],
    ids=" ".join,
)
def test_wrong_input_is_2_and_no_traceback(capsys, arguments):
    assert call(*arguments) == 2
    error = capsys.readouterr().err
    assert error
    assert "Traceback" not in error
    assert not list(Path().iterdir())


@pytest.mark.usefixtures("few")
def test_an_output_that_is_a_file_is_2(capsys):
    Path("out").write_text("mine")
    assert call("run", "digits", *CHANGES, "output=out") == 2
    assert "output: out is a file" in capsys.readouterr().err
    assert call("check", "digits", *CHANGES, "output=out") == 2
    assert Path("out").read_text() == "mine"


@pytest.mark.usefixtures("few")
def test_a_full_disk_is_1_and_one_line(capsys, monkeypatch):
    rename = Path.replace

    def full(self, target):
        if Path(target).name == "last.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", full)
    assert call("run", "digits", *CHANGES, "output=out") == 1
    error = capsys.readouterr().err
    assert "last.safetensors: cannot be written (No space left on device)" in error
    assert len(error.splitlines()) == 1


@pytest.mark.usefixtures("few")
def test_an_interrupt_is_130_and_says_where_it_stopped(capsys, monkeypatch):
    from tutelage.engine.fit import _Loop

    validate = _Loop._validate

    def interrupted(loop, judged):
        os.kill(os.getpid(), signal.SIGINT)
        return validate(loop, judged)

    with monkeypatch.context() as patch:
        patch.setattr(_Loop, "_validate", interrupted)
        assert call("run", "digits", *CHANGES, "output=out") == 130
    told = capsys.readouterr()
    assert "teacher, seed 0: stopped in epoch 1; the state is saved" in told.out
    assert told.err == "Interrupted. The same command resumes there.\n"
    assert call("run", "digits", *CHANGES, "output=out") == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, EOFError])
def test_an_interrupt_before_anything_is_130_too(monkeypatch, capsys, error):
    monkeypatch.setattr(
        "tutelage.cli.commands.read_recipe", lambda *_: (_ for _ in ()).throw(error())
    )
    assert call("run", "digits") == 130
    assert "Interrupted" in capsys.readouterr().err


def test_debug_shows_the_traceback_and_only_then(capsys):
    assert call("check", "digit") == 2
    with pytest.raises(ConfigError, match="Unknown recipe 'digit'"):
        call("--debug", "check", "digit")
    assert call("check", "digit") == 2


def test_a_bug_is_shown_whole(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("tutelage.cli.commands.read_recipe", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        call("run", "digits")


def test_a_real_interrupt_of_a_real_process_is_130_and_loses_nothing(tmp_path):
    """One process is stopped in the middle of a training; the same command ends the run."""
    changes = [
        *CHANGES,
        "train.epochs=6",
        "train.batch_size=256",
        "train.checkpoint_s=0",
        "output=out",
    ]
    command = [*COMMAND, "run", "digits", *changes]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    checkpoint = tmp_path / "out/arms/baseline/seed-0/checkpoint.safetensors"
    until = time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "The same command resumes there." in error
    assert "Traceback" not in error
    assert not (tmp_path / "out/results.json").exists()
    assert call("run", "digits", *changes) == 0
    assert call("run", "digits", *changes[:-1], "output=whole") == 0
    assert _told("out") == _told("whole")


def test_a_real_sigterm_outside_of_a_training_is_130_and_one_line(tmp_path):
    """The process is in the middle of its checks, where no loop looks for signals."""
    command = [*COMMAND, "run", "digits", *CHANGES, "output=out"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (tmp_path / "out").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error == "Interrupted. The same command resumes there.\n"


def _told(folder):
    record = asdict(load_record(Path(folder) / "results.json", RunRecord))
    for arm in [record["teacher"], *record["arms"]]:
        arm.pop("seconds")
        for point in arm["curve"]:
            point.pop("seconds")
    return [record[name] for name in ("teacher", "arms", "summaries", "verdicts", "samples")]
