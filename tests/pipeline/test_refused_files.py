"""A file that cannot be delivered takes nothing with it: not the others, not what was found out."""

import sys
from dataclasses import replace

import pytest

from tutelage.cli.app import app, guarded
from tutelage.config import build_job, read_recipe
from tutelage.deploy.targets import torch_export
from tutelage.errors import ExportError, TrainingError
from tutelage.pipeline import exporting, finetuning, run_job
from tutelage.pipeline.export_run import export_run
from tutelage.records import RunRecord, load_record

RECIPE = """
data: {kind: digits}
teacher: {model: mlp, settings: {hidden: [16]}, training: {train: {epochs: 1}}}
student: {model: mlp, settings: {hidden: [8]}}
train: {epochs: 1, batch_size: 256}
seeds: [0]
baseline: false
measure: {batch_sizes: [1], seconds: 0.1, int8: minmax}
export: {targets: [torch_export], finetune: {train: {epochs: 1, batch_size: 256}}}
"""


def broken(*_):
    raise RuntimeError("no such operator")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A run whose int8 fail the gate, whose .pt2 cannot be made and whose tuning diverges."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "export").mkdir()
    (folder / "export" / "student.int8.onnx").write_bytes(b"of an earlier run")
    (folder / "export" / "student").mkdir()
    (folder / "export" / "student" / "student.int8.onnx").write_bytes(b"of an earlier run")
    (folder / "recipe.yaml").write_text(RECIPE + f"output: {folder}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "LEAST_AGREEMENT", 1.5)
        patch.setattr(torch_export.TorchExport, "_write", broken)
        patch.setattr(finetuning, "train_arm", diverged)
        patch.setattr(sys, "argv", ["tutelage", "run", str(folder / "recipe.yaml")])
        assert guarded(app) == 1
    return folder


def diverged(*_):
    raise TrainingError("finetuned: the loss is not finite.")


def test_results_report_and_the_other_files_are_there(out):
    record = load_record(out / "results.json", RunRecord)
    assert {row.file for row in record.parity} == {"teacher.onnx", "student.onnx"}
    assert record.quantised == []
    assert record.latencies
    assert (out / "export" / "student" / "student.onnx").is_file()
    page = (out / "report.html").read_text()
    assert "Not delivered: student.int8.onnx: agrees with the float file on" in page


def test_each_refused_file_is_named_with_its_reason(out):
    record = load_record(out / "results.json", RunRecord)
    reasons = {entry.file: entry.sentence for entry in record.refused}
    assert reasons.keys() == {"student.int8.onnx", "student.pt2", "student.finetuned.int8.onnx"}
    assert "RuntimeError: no such operator" in reasons["student.pt2"]
    assert "fine-tuning failed. finetuned: the loss" in reasons["student.finetuned.int8.onnx"]
    assert all(file in sentence for file, sentence in reasons.items())
    assert "student.pt2" in (out / "export" / "student" / "README.md").read_text()


def test_no_file_of_an_earlier_run_stands_in_for_a_refused_one(out):
    assert not list(out.glob("export/**/*.int8.onnx"))


def test_the_same_run_again_trains_nothing_and_still_says_so(out, monkeypatch, capsys):
    monkeypatch.setattr("tutelage.pipeline.training.fit", None)
    monkeypatch.setattr(finetuning, "train_arm", diverged)
    monkeypatch.setattr(sys, "argv", ["tutelage", "run", str(out / "recipe.yaml")])
    monkeypatch.setenv("COLUMNS", "400")
    assert guarded(app) == 1
    said = capsys.readouterr()
    assert "3 requested files cannot be delivered; everything else is in" in said.err
    assert "student.pt2" in said.out


def test_a_python_run_ends_and_its_record_tells(out, monkeypatch):
    monkeypatch.setattr(finetuning, "train_arm", diverged)
    recipe = read_recipe(out / "recipe.yaml")
    finished = run_job(replace(build_job(recipe, folder=out), has_report=False))
    assert len(finished.record.refused) == 3


def test_a_refused_file_that_can_be_made_later_is_refused_no_more(out):
    export_run(out, target="torch_export")
    record = load_record(out / "results.json", RunRecord)
    assert "student.pt2" not in {entry.file for entry in record.refused}
    assert (out / "export" / "student" / "student.pt2").is_file()


def test_one_target_that_fails_does_not_stop_the_next(out, monkeypatch):
    monkeypatch.setattr("tutelage.deploy.targets.onnx.export_onnx", broken)
    before = (out / "export" / "student.pt2").stat().st_mtime_ns
    with pytest.raises(ExportError, match=r"1 requested file cannot.*no such operator"):
        export_run(out)
    assert (out / "export" / "student.pt2").stat().st_mtime_ns > before
    assert (out / "export" / "student" / "student.onnx").is_file()
