"""The same recipe, seeds and machine give the same bits, in whatever process."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tutelage.pipeline.environment import environment

pytestmark = pytest.mark.whole

PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import jobs
from tutelage.pipeline import run_job
run_job(jobs.make(Path(sys.argv[2])))
"""


def digests(folder):
    """Of weights and shards, byte for byte, and of the keys of all stamps."""
    weights = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.safetensors")
    }
    keys = {
        str(path.relative_to(folder)): json.loads(path.read_text())["key"]
        for path in folder.rglob("stamp.json")
    }
    return weights, keys


def test_two_processes_leave_the_same_bytes(tmp_path):
    """Each with another order of Python's sets, which must not matter."""
    tests = str(Path(__file__).parent)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, tests, str(tmp_path / seed)],
            env=os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    for process in running:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    first, second = digests(tmp_path / "1"), digests(tmp_path / "2")
    assert len(first[0]) >= 11
    assert first == second


def test_the_environment_says_what_a_repetition_needs(monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    found = environment()
    assert found["variables"]["MKL_CBWR"] == "COMPATIBLE"
    assert "x" not in found["variables"].values()
    assert found["arithmetic"]["cpu_capability"]
    assert found["arithmetic"]["float32_matmul_precision"] == "highest"
    assert all(re.match(r"\d", version) for version in found["packages"].values())
    assert {"torch", "numpy", "safetensors"} <= set(found["packages"])
    assert json.dumps(found)
