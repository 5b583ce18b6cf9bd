"""Files of one's own, of which a run keeps copies."""

from pathlib import Path

from tutelage.config import build_job, read_recipe
from tutelage.pipeline import run_job

NETS = """
from torch import nn


def make(num_classes, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, num_classes))
"""
RECIPE = """
data: {kind: digits}
teacher: {model: "nets.py:make", settings: {width: 8}, training: {train: {epochs: 1}}}
student: {model: "nets.py:make"}
assistants: [{model: "more/nets.py:make"}]
train: {epochs: 1}
seeds: [0]
baseline: false
measure: null
output: OUT
"""


def test_a_run_keeps_each_file_that_its_networks_come_from_once(tmp_path: Path):
    (tmp_path / "more").mkdir()
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "more" / "nets.py").write_text(NETS + "# another\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("OUT", str(tmp_path / "out")))
    run_job(build_job(read_recipe(tmp_path / "recipe.yaml"), folder=tmp_path))
    kept = {file.name: file.read_text() for file in (tmp_path / "out" / "code").iterdir()}
    assert kept == {"nets.py": NETS, "1-nets.py": NETS + "# another\n"}
    again = read_recipe(tmp_path / "out" / "recipe.yaml")
    assert again.student.model == "../nets.py:make"
