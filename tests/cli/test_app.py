import shlex
import subprocess
import sys

import pytest
import torch
from PIL import Image

from tutelage.cli.app import app, guarded


def call(*arguments):
    return guarded(lambda **settings: app(list(arguments), **settings))


SMALL = [
    "seeds=[0]",
    "train.epochs=1",
    "teacher.training.train.epochs=1",
    "measure.seconds=0.2",
]


def test_a_recipe_runs_twice_and_leaves_everything(tmp_path, capsys):
    run = tmp_path / "run"
    assert call("run", "digits", f"output={run}", *SMALL) == 0
    assert "MACs" in capsys.readouterr().out
    for name in ("results.json", "report.html", "export/student.onnx", "cache/manifest.json"):
        assert (run / name).is_file()
    assert call("run", "digits", f"output={run}", *SMALL) == 0
    assert "kept" in capsys.readouterr().out
    assert call("cache", "verify", str(run)) == 0
    assert call("cache", "info", str(run)) == 0
    assert call("report", str(run)) == 0


def test_own_networks_and_own_pictures_go_through_one_edited_recipe(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def make_teacher(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.ReLU(),\n"
        "                         nn.Linear(16, num_classes))\n"
        "def make_student(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(768, num_classes))\n"
    )
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(20):
            image = Image.new("RGB", (20, 18), tuple(min(255, c + number) for c in colour))
            image.save(tmp_path / "pictures" / name / f"{number}.png")
    recipe = tmp_path / "mine.yaml"
    from tutelage.config import shipped_recipes

    text = shipped_recipes()["template"].read_text()
    recipe.write_text(text.replace("path: data/images ", "path: pictures "))
    monkeypatch.chdir(tmp_path)
    changes = [*SMALL, "data.image_size=16", "views.padding=1"]
    assert call("check", str(recipe), *changes) == 0
    assert call("run", str(recipe), *changes) == 0
    assert (tmp_path / "runs/mine/report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "digit"], "Unknown recipe 'digit'. Did you mean 'digits'?"),
        (["run", "digits", "train.epoch=2"], "Did you mean 'epochs'?"),
        (["run", "digits", "objective.terms.0.loss=kdd"], "Did you mean 'kd'?"),
        (["run", "digits", "student.model=cmn"], "Unknown model 'cmn'. Did you mean 'cnn'?"),
        (["run", "digits", "cache.codec=zip"], "unknown codec 'zip'"),
        (["run", "no.yaml"], "no.yaml: no such file"),
        (["report", "nowhere"], "results.json: no such file"),
        (["cache", "info", "nowhere"], "no complete teacher cache"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_loss_that_goes_wrong_is_exit_code_1(tmp_path, capsys):
    wrong = ["optimizer.kind=sgd", "optimizer.lr=1e30"]
    assert call("run", "digits", f"output={tmp_path / 'run'}", *SMALL, *wrong) == 1
    assert "the loss is" in capsys.readouterr().err


def test_help_does_not_import_torch():
    code = "import sys, tutelage.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert torch.__version__


def test_the_command_of_a_run_can_be_pasted(monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(
        "tutelage.cli.commands.run_recipe", lambda *_, command: told.append(command)
    )
    monkeypatch.setattr("sys.argv", ["tutelage", "run", "digits", "output=my runs/$x"])
    assert call("run", "digits", "output=my runs/$x") == 0
    assert shlex.split(told[0]) == ["tutelage", "run", "digits", "output=my runs/$x"]
