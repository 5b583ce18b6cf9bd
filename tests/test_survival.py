"""The suites of scripts/ in small: killed runs end as undisturbed ones, damaged files are told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole

SCRIPTS = Path(__file__).parents[1] / "scripts"


def run_script(name, *arguments):
    command = [sys.executable, SCRIPTS / name, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stdout + done.stderr


def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one():
    """SIGKILL in five stages, at function calls that the seed chooses."""
    code, text = run_script("kill-test", "--calls", "--moments", "5", "--seed", "3")
    assert code == 0, text
    assert "5 of 5 moments ended as the undisturbed run; 5 found it running." in text


def test_damaged_files_are_told_or_made_anew_and_nothing_else():
    code, text = run_script("damage-test", "--each", "40")
    assert code == 0, text
    assert sum(line.split(" | ")[1:2] == ["40"] for line in text.splitlines()) == 13


@pytest.mark.slow
@pytest.mark.parametrize("name", ["KILL", "TERM", "INT"])
def test_the_real_command_stopped_at_any_time_ends_as_an_undisturbed_one(tmp_path, name):
    code, text = run_script("kill-test", "--signal", name, "--moments", "5", "--out", tmp_path)
    assert code == 0, text


@pytest.mark.slow
def test_a_thousand_damages_of_every_kind_of_file():
    code, text = run_script("damage-test", "--each", "1000")
    assert code == 0, text
