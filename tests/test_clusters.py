"""The files for clusters: their form, and the commands in them."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

import tutelage
from tutelage.cli.app import app

FOLDER = Path(__file__).parents[1] / "examples" / "clusters"
SCRIPTS = sorted(FOLDER.rglob("*.sbatch"))
MANIFESTS = sorted(FOLDER.rglob("*.yaml"))
FAKE = {
    "srun": """
        count=${SLURM_NNODES:-1}
        while [ "${1#--}" != "$1" ]; do shift; done
        for node in $(seq 0 $((count - 1))); do SLURM_NODEID=$node "$@" & done
        failed=0
        for job in $(jobs -p); do wait "$job" || failed=1; done
        exit $failed
    """,
    "scontrol": "echo localhost",
    "tutelage": f'exec {sys.executable} -m tutelage "$@"',
}
RECIPE = """
task: classification
data: {kind: digits}
teacher: {model: mlp, settings: {hidden: [8]}, training: {train: {epochs: 1}}}
student: {model: mlp, settings: {hidden: [4]}}
train: {epochs: 1}
seeds: [0]
baseline: false
measure: null
output: OUT
"""


def commands(text):
    """Every call of tutelage in a script: its words after the name."""
    joined = re.sub(r"\\\n", " ", text)
    for line in joined.splitlines():
        if line.lstrip().startswith("#"):
            line = re.sub(r"\(.*?\)|\[[^\]]*\]", "", line.lstrip("# "))
            if not line.startswith("tutelage "):
                continue
        found = re.search(r"(?:-m )?\btutelage ((?:run|cache) .*)", line)
        if found:
            yield shlex.split(found[1].replace("$((", "").replace("))", ""))


def check(words):
    """The words name a command, and its options exist."""
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    known = {name for parameter in command.params for name in parameter.opts}
    used = {word for word in words if word.startswith("--")}
    assert not hasattr(command, "commands"), words
    assert used <= known, (words, known)
    return words


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_shell_and_call_what_there_is(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    found = [check(words) for words in commands(script.read_text())]
    assert found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_yaml_and_call_what_there_is(path):
    jobs = [d for d in yaml.safe_load_all(path.read_text()) if d["kind"] == "Job"]
    assert jobs
    for job in jobs:
        spec = job["spec"]
        assert spec["completionMode"] == "Indexed"
        (container,) = spec["template"]["spec"]["containers"]
        volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        (text,) = container["args"]
        subprocess.run([*container["command"][:1], "-n", "-c", text], check=True)
        (words,) = commands(text)
        check(words)
        for part in re.findall(r"/(\d+)\"", text):
            assert int(part) == spec["completions"]
        for nodes in re.findall(r"--nnodes (\d+)", text):
            assert int(nodes) == spec["completions"]


def test_the_search_for_commands_finds_wrong_ones():
    with pytest.raises(AssertionError):
        check(next(commands("srun tutelage cache build r.yaml --prat 1/2")))
    with pytest.raises(AssertionError):
        check(next(commands("tutelage cache biuld r.yaml")))


@pytest.fixture
def cluster(tmp_path):
    """What Slurm gives a job, with stand-ins for its commands."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in FAKE.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.replace("OUT", str(tmp_path / "out")))

    def start(script, **environment):
        paths = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"PATH": paths, "RECIPE": str(recipe), "OMP_NUM_THREADS": "1"}
        own["PYTHONPATH"] = str(Path(tutelage.__file__).parents[1])
        own["CUDA_VISIBLE_DEVICES"] = ""
        return subprocess.run(
            ["bash", str(FOLDER / "slurm" / script)],
            env=os.environ | own | environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    return start, tmp_path / "out"


@pytest.mark.slow
def test_the_slurm_scripts_build_a_cache_and_train_on_two_machines(cluster):
    start, out = cluster
    train = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "n[1-2]", "PER_NODE": "1"}
    lost = start("cache.sbatch", SLURM_ARRAY_TASK_ID="1", SLURM_ARRAY_TASK_COUNT="2")
    assert lost.returncode == 2
    assert "--only-teacher" in lost.stderr
    done = start("train.sbatch", **train, HEAD_PORT="23571")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Report:") == 1
    (out / "cache" / "manifest.json").unlink()
    for part in ("1", "2"):
        built = start("cache.sbatch", SLURM_ARRAY_TASK_ID=part, SLURM_ARRAY_TASK_COUNT="2")
        assert built.returncode == 0, built.stdout + built.stderr
    assert (out / "cache" / "manifest.json").is_file()
