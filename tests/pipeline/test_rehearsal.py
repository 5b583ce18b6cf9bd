"""What a run would refuse of its files shows in `tutelage check`, before anything is trained."""

import sys
from dataclasses import replace

import pytest

from tutelage.cli.app import app, guarded
from tutelage.config import build_job, read_recipe
from tutelage.deploy.targets import torch_export
from tutelage.doctor import OK, PROBLEM, WARNING
from tutelage.pipeline import rehearsal, run_job
from tutelage.pipeline.rehearsal import rehearse_exports

RECIPE = """
data: {kind: digits}
teacher: {model: mlp, settings: {hidden: [16]}, training: {train: {epochs: 1}}}
student: {model: mlp, settings: {hidden: [8]}}
train: {epochs: 1}
measure: {int8: minmax}
export: {targets: [torch_export]}
"""


def broken(*_):
    raise RuntimeError("no such operator")


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + f"output: {tmp_path / 'out'}\n")
    return path


def test_every_file_that_was_asked_for_is_tried(recipe):
    found = rehearse_exports(build_job(read_recipe(recipe)))
    assert {finding.level for finding in found} == {OK}
    texts = " ".join(finding.text for finding in found)
    for name in ("teacher.onnx", "student.onnx", "student.minmax.int8.onnx", "student.pt2"):
        assert name in texts
    assert not (recipe.parent / "out" / "export").exists()


def test_a_target_that_cannot_take_the_student_is_a_problem(recipe, monkeypatch, capsys):
    monkeypatch.setattr(torch_export.TorchExport, "_write", broken)
    monkeypatch.setattr(rehearsal, "_int8", lambda *_: rehearsal.CheckResult(OK, "", ""))
    monkeypatch.setattr(sys, "argv", ["tutelage", "check", str(recipe)])
    monkeypatch.setenv("COLUMNS", "300")
    assert guarded(app) == 2
    assert (
        "student.pt2: NormalizedNetwork: cannot be exported to PyTorch" in capsys.readouterr().out
    )


def test_eight_bits_that_fail_untrained_are_warned_of(recipe, monkeypatch):
    monkeypatch.setattr("tutelage.deploy.quantise._quantise", broken)
    found = rehearse_exports(build_job(read_recipe(recipe, ["export.targets=[onnx]"])))
    assert [f.level for f in found if "int8" in f.text] == [WARNING]


def test_a_missing_extra_is_a_problem_and_a_missing_report_a_warning(recipe, monkeypatch):
    monkeypatch.setattr("tutelage.pipeline.reporting.find_spec", lambda name: None)
    job = build_job(read_recipe(recipe, ["measure=null"]))
    (warning,) = rehearse_exports(job)
    assert warning.level == WARNING
    assert "plotly and jinja2 not installed" in warning.text
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = rehearse_exports(build_job(read_recipe(recipe)))
    assert any(f.level == PROBLEM and "'onnx' extra" in f.text for f in found)


def test_a_run_without_what_writes_reports_ends_and_says_so(make_job, tmp_path, monkeypatch):
    monkeypatch.setattr("tutelage.pipeline.reporting.find_spec", lambda name: None)
    record = run_job(replace(make_job(tmp_path), has_report=True)).record
    assert not (tmp_path / "report.html").exists()
    assert any("then tutelage report" in note for note in record.notes)
