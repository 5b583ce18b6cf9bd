"""The student's own folder, and more exports of a finished run."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.cli.app import app, guarded
from tutelage.config import build_job, read_recipe
from tutelage.data.images import decode
from tutelage.deploy import example, open_file, target_of
from tutelage.deploy.targets import onnx as onnx_target
from tutelage.errors import ExportError, RunFolderError, UnknownNameError
from tutelage.pipeline import run_job
from tutelage.pipeline.export_run import export_run
from tutelage.pipeline.stages import is_complete
from tutelage.records import RunRecord, load_record


@pytest.fixture(scope="module")
def out(finished, tmp_path_factory):
    """A copy of the run, elsewhere, with one more way."""
    folder = tmp_path_factory.mktemp("moved") / "out"
    shutil.copytree(finished[1], folder, ignore=shutil.ignore_patterns(".lock*"))
    export_run(folder, target="onnx", scheme="percentile")
    return folder


WITHOUT_US = """
import runpy, sys
for name in ("tutelage", "torch", "safetensors", "transformers", "torchvision"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def ran(folder, *given):
    """What the folder's example prints in a process that has nothing of ours."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_US, str(folder / "example.py"), *map(str, given)],
        capture_output=True,
        text=True,
        cwd=folder.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_example_runs_without_tutelage_and_says_what_the_student_says(out):
    folder = out / "export" / "student"
    samples = np.load(folder / "samples.npy", allow_pickle=False)
    labels = (folder / "labels.txt").read_text().splitlines()
    expected = [labels[n] for n in open_file(folder / "student.onnx")(samples).argmax(axis=1)]
    assert ran(folder) == expected
    assert len(expected) == 8


def test_the_example_takes_images_of_ones_own(out, tmp_path):
    folder = out / "export" / "student"
    samples = np.load(folder / "samples.npy", allow_pickle=False)
    pictures = [tmp_path / f"my own {number}.png" for number in range(8)]
    for sample, picture in zip(samples, pictures, strict=True):
        pixels = np.rint(255 * sample[0]).astype(np.uint8)
        Image.fromarray(pixels).save(picture)
    expected = ran(folder)
    found = ran(folder, "--file", "student.onnx", *pictures)
    assert found == [f"{p}: {label}" for p, label in zip(pictures, expected, strict=True)]
    np.save(tmp_path / "rows.npy", samples)
    rows = ran(folder, tmp_path / "rows.npy")
    assert [row.rpartition(": ")[2] for row in rows] == expected


def saved(image, place, **settings):
    image.save(place, **settings)
    return place


def test_the_example_reads_images_as_the_training_did(tmp_path):
    draw = np.random.default_rng(0)
    colours = Image.fromarray(draw.integers(0, 255, (37, 52, 3), dtype=np.uint8))
    clear = Image.fromarray(draw.integers(0, 255, (40, 24, 4), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    files = [
        saved(colours, tmp_path / "a.png"),
        saved(colours.resize((400, 300)), tmp_path / "a.jpg", exif=turned),
        saved(colours.convert("CMYK"), tmp_path / "b.jpg"),
        saved(colours.convert("P"), tmp_path / "b.gif"),
        saved(clear, tmp_path / "c.png"),
        saved(clear.convert("LA"), tmp_path / "d.png"),
        saved(clear.convert("1"), tmp_path / "e.png"),
        saved(Image.fromarray(draw.integers(0, 65535, (30, 30), np.uint16)), tmp_path / "f.png"),
    ]
    for channels, mode in ((1, "L"), (3, "RGB")):
        how = {"mode": mode, "height": 16, "width": 16, "background": "white"}
        for file in files:
            expected = decode(file, 16, channels).numpy()[None] / np.float32(255)
            np.testing.assert_array_equal(example.read_picture(str(file), how), expected, str(file))


@pytest.mark.parametrize(
    "pixels",
    [np.full((9, 9), value) for value in (np.float32(0.5), np.int32(-1), np.int32(1 << 16))],
)
def test_the_example_refuses_depths_that_the_training_refuses(tmp_path, pixels):
    file = tmp_path / "deep.tif"
    Image.fromarray(pixels).save(file)
    how = {"mode": "L", "height": 4, "width": 4, "background": "white"}
    with pytest.raises(ValueError, match="not 8-bit or 16-bit"):
        decode(file, 4, 1)
    with pytest.raises(SystemExit, match=r"deep\.tif: .*pixels of mode [FI] are not 8-bit"):
        example.read_picture(str(file), how)


def test_the_example_says_what_is_wrong_with_a_picture(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    how = {"mode": "L", "height": 4, "width": 4, "background": "white"}
    with pytest.raises(SystemExit, match=r"broken\.png: cannot be read as an image \("):
        example.read_picture(str(broken), how)
    with pytest.raises(SystemExit, match=r"nowhere\.png: no such file, looked for in "):
        example.read_picture(str(tmp_path / "nowhere.png"), how)
    with pytest.raises(SystemExit, match=r"nowhere\.npy: no such file"):
        example.read_array(str(tmp_path / "nowhere.npy"), {})


def test_the_example_takes_no_missing_file_for_a_text(tmp_path):
    (tmp_path / "letter.txt").write_text("a letter", encoding="utf-8")
    assert example._text_of(str(tmp_path / "letter.txt")) == "a letter"
    for text in ("good and/or bad", "one.word", "10/10 would buy.", "wow"):
        assert example._text_of(text) == text
    for name in ("my leter.txt", "letters/one", str(tmp_path / "two"), "rows.CSV"):
        with pytest.raises(SystemExit, match="no such file"):
            example._text_of(name)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(SystemExit, match=r"latin\.txt: cannot be read as a text in UTF-8"):
        example._text_of(str(tmp_path / "latin.txt"))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.ones((2, 1, 8, 8)), r"holds float64 of shape \[2, 1, 8, 8\]; float32 of shape"),
        (np.ones((1, 8, 8), np.float32), r"of shape \[1, 8, 8\]; .*\['batch', 1, 8, 8\] is needed"),
        (np.full((2, 1, 8, 8), 255, np.float32), r"go from 255.0 to 255.0, not 0 to 1"),
        (np.full((2, 1, 8, 8), np.nan, np.float32), r"go from nan to nan"),
    ],
)
def test_the_example_refuses_arrays_that_the_student_does_not_take(out, tmp_path, rows, said):
    inputs = json.loads((out / "export" / "student" / "config.json").read_text())["inputs"]
    np.save(tmp_path / "rows.npy", rows)
    with pytest.raises(SystemExit, match=rf"rows\.npy: .*{said}"):
        example.read_array(str(tmp_path / "rows.npy"), inputs)


def test_the_folder_describes_every_file_in_it(out):
    folder = out / "export" / "student"
    config = json.loads((folder / "config.json").read_text())
    assert {entry["file"]: (entry["target"], entry["int8"]) for entry in config["files"]} == {
        "student.onnx": ("onnx", None),
        "student.pt2": ("torch_export", None),
        "student.int8.onnx": ("onnx", "minmax"),
        "student.dynamic.int8.onnx": ("onnx", "dynamic"),
        "student.finetuned.int8.onnx": ("onnx", "minmax, finetuned"),
        "student.percentile.int8.onnx": ("onnx", "percentile"),
    }
    for entry in config["files"]:
        for name in entry["sha256"]:
            assert (folder / name).read_bytes() == (out / "export" / name).read_bytes()
    assert config["inputs"]["shape"] == ["batch", 1, 8, 8]
    assert config["inputs"]["range"] == [0, 1]
    assert config["preprocessing"]["mode"] == "L"
    assert (config["preprocessing"]["height"], config["preprocessing"]["width"]) == (8, 8)
    assert config["labels"] == [str(n) for n in range(10)]
    assert config["network"]["model"] == "mlp"
    record = load_record(out / "results.json", RunRecord)
    metric = {row.file: row.on_test for row in (*record.parity, *record.quantised)}
    for entry in config["files"]:
        ports = target_of(folder / entry["file"]).describe(folder / entry["file"])
        assert entry["inputs"][0]["name"] == ports.inputs[0].name
        assert entry["inputs"][0]["shape"] == ["batch", 1, 8, 8]
        assert entry["outputs"][0]["shape"] == ["batch", 10]
        assert (entry["value"], entry["test_samples"]) == metric[entry["file"]]
        assert entry["test_samples"] == 599
    calibration = json.loads((folder / "calibration.json").read_text())
    assert 0 <= calibration["confidence"]["expected_calibration_error"] <= 1
    assert sum(b["count"] for b in calibration["confidence"]["bins"]) == 599


def test_the_card_says_where_it_comes_from_and_only_what_was_stated(out):
    card = (out / "export" / "student" / "README.md").read_text()
    record = load_record(out / "results.json", RunRecord)
    found = record.summary("distilled", "selected")
    assert f"| distilled | {100 * found.mean['accuracy']:.2f} |" in card
    assert "No baseline was trained" in card
    assert "`mlp(hidden=[8])`" in card
    assert "| data | digits (1,078 train, 120 valid, 599 test) |" in card
    assert "| `tutelage run it` |" in card.replace("| command ", "")
    assert r"| data | BSD \| 3-clause |" in card
    assert "| student | not stated by whoever ran this |" in card
    for name in ("student.onnx", "student.pt2", "student.percentile.int8.onnx"):
        assert f"| `{name}` |" in card
    own = next(row for row in record.parity if row.file == "student.onnx")
    assert own.test_count == 599
    assert f"| {100 * own.test_metric:.2f} |" in card
    assert f"| finished | {record.finished} |" in card
    assert "all 599 test samples" in card
    assert 'onnxruntime.InferenceSession("student.onnx")' in card
    assert "student.int8.onnx is no smaller than student.onnx" in card


def test_the_finished_run_knows_its_new_file(out):
    record = load_record(out / "results.json", RunRecord)
    assert {row.file for row in record.parity} == {"teacher.onnx", "student.onnx", "student.pt2"}
    assert {row.scheme for row in record.quantised} >= {"minmax", "dynamic", "percentile"}
    assert "student.percentile.int8.onnx" in (out / "report.html").read_text()
    stamp = json.loads((out / "export" / "stamp.json").read_text())
    assert {"student.pt2", "student.percentile.int8.onnx"} <= stamp["files"].keys()
    assert is_complete(out / "export", stamp["key"])


def test_the_same_run_again_keeps_what_was_exported_since(out):
    recipe = read_recipe(out / "recipe.yaml").model_copy(update={"output": out})
    again = run_job(replace(build_job(recipe, folder=out), has_report=False))
    assert "student.percentile.int8.onnx" in {row.file for row in again.record.quantised}
    assert (out / "export" / "student.percentile.int8.onnx").is_file()


def test_exporting_trains_nothing(out, monkeypatch):
    monkeypatch.setattr("tutelage.pipeline.training.fit", None)
    before = {path: path.stat().st_mtime_ns for path in (out / "arms").rglob("*")}
    export_run(out, target="torch_export")
    assert {path: path.stat().st_mtime_ns for path in (out / "arms").rglob("*")} == before


def test_wrong_names_are_refused_before_anything_is_loaded(tmp_path, out):
    with pytest.raises(UnknownNameError, match="Did you mean 'onnx'"):
        export_run(tmp_path, target="onxx")
    with pytest.raises(UnknownNameError, match="int8 scheme of onnx"):
        export_run(out, target="onnx", scheme="minmac")
    with pytest.raises(ExportError, match="torch_export has no int8 files"):
        export_run(out, target="torch_export", scheme="minmax")
    with pytest.raises(RunFolderError, match=r"results\.json: no such file"):
        export_run(tmp_path)


def test_a_file_that_fails_parity_is_an_error_and_the_old_one_stays(out, monkeypatch):
    before = (out / "export" / "student.onnx").read_bytes()

    def spoil(network, example, path, kind):
        with torch.no_grad():
            next(network.parameters()).add_(1)
        spoilt(network, example, path, kind)

    spoilt = onnx_target.export_onnx
    monkeypatch.setattr(onnx_target, "export_onnx", spoil)
    with pytest.raises(ExportError, match="differs from PyTorch"):
        export_run(out, target="onnx")
    assert (out / "export" / "student.onnx").read_bytes() == before
    assert not [path for path in (out / "export").iterdir() if path.name.startswith(".student")]


def test_the_command_prints_what_there_is(out, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tutelage", "export", str(out), "--target", "torch_export"])
    monkeypatch.setenv("COLUMNS", "160")
    assert guarded(app) == 0
    printed = capsys.readouterr().out
    assert "student.pt2" in printed
    assert "100.00%" in printed
    assert Path(out / "export" / "student").name in printed
