"""A run that delivers several targets and ways, and a finished run that is opened again."""

import shutil
from dataclasses import replace

import onnx
import pytest
import torch
from safetensors.torch import load_file

from tutelage.config import build_job, read_recipe
from tutelage.engine.checkpoint import Progress
from tutelage.errors import ConfigError, ExportError, RunFolderError, UnknownNameError
from tutelage.job import ExportSettings, MeasureSettings
from tutelage.losses import SimKD
from tutelage.pipeline import exporting
from tutelage.pipeline.finetuning import check_can_go_on
from tutelage.pipeline.reopen import reopen
from tutelage.records import RunRecord, load_record


def test_every_target_and_way_is_delivered_and_judged(finished):
    record = finished[0].record
    assert {row.name: row.file for row in record.parity} == {
        "teacher": "teacher.onnx",
        "distilled": "student.onnx",
        "distilled torch_export": "student.pt2",
    }
    assert {row.name: (row.file, row.scheme) for row in record.quantised} == {
        "distilled int8": ("student.int8.onnx", "minmax"),
        "distilled int8 dynamic": ("student.dynamic.int8.onnx", "dynamic"),
        "distilled int8 finetuned": ("student.finetuned.int8.onnx", "minmax, finetuned"),
    }
    names = {row.name for row in (*record.parity, *record.quantised)}
    assert {row.name for row in record.sizes} == names


def test_parity_says_what_ran_the_file_and_how_well_both_do(finished):
    record, out = finished[0].record, finished[1]
    row = record.parity[2]
    assert (row.target, row.count, row.agreement) == ("torch_export", 512, 1.0)
    assert row.runtime.startswith("PyTorch ")
    assert row.metric == row.network_metric
    assert 0.2 < row.metric < 1
    assert (out / "export" / "student.pt2").is_file()


def test_the_finetuned_file_is_set_against_float_and_against_plain_eight_bits(finished):
    record = finished[0].record
    plain, row = record.quantised[0], record.quantised[2]
    assert plain.over_plain is None
    assert row.over_plain == pytest.approx(row.metric - plain.metric)
    assert row.over_plain_low <= row.over_plain <= row.over_plain_high
    assert row.float_metric == plain.float_metric


def test_the_finetuned_student_was_taught_on_by_the_same_teacher(finished):
    run, out = finished
    folder = out / "arms" / "finetuned" / f"seed-{run.student.seed}"
    curve = load_record(folder / "training.json", Progress).curve
    assert set(curve[0].train_parts) == {"cross_entropy", "kd"}


def test_the_file_holds_the_steps_that_the_weights_were_fine_tuned_on(finished):
    run, out = finished
    folder = out / "arms" / "finetuned" / f"seed-{run.student.seed}"
    weight = load_file(folder / "selected.safetensors")["head.parametrizations.weight.original"]
    steps = (weight / (weight.abs().amax(dim=1, keepdim=True) / 64)).round().to(torch.int8)
    tensors = onnx.load(out / "export" / "student.finetuned.int8.onnx").graph.initializer
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in tensors if len(tensor.dims) == 2]
    assert any(s.shape == (10, 8) and (s == steps.numpy()).all() for s in stored) or any(
        s.shape == (8, 10) and (steps.numpy() == s.T).all() for s in stored
    )


def test_a_finished_run_opens_with_the_networks_it_ended_with(finished):
    run, out = finished
    again = reopen(out)
    assert again.student.seed == run.student.seed
    assert again.student.key == run.student.key
    assert again.teacher.key == run.teacher.key
    for name, value in run.student.selected.state_dict().items():
        assert torch.equal(value, again.student.selected.state_dict()[name])
    assert again.record == load_record(out / "results.json", RunRecord)


def test_a_run_opens_where_it_was_moved_to(finished, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.symlink_to(finished[1])
    assert reopen(moved).job.out == moved


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("results.json", r"results\.json: no such file"),
        ("arms/distilled/seed-1/stamp.json", r"seed-1: holds no finished training"),
        ("arms/distilled/seed-0/selected.safetensors", "was changed or removed"),
    ],
)
def test_an_unfinished_run_is_one_clear_error(finished, tmp_path, missing, message):
    copied = tmp_path / "run"
    shutil.copytree(finished[1], copied, ignore=shutil.ignore_patterns(".lock*"))
    (copied / missing).unlink()
    with pytest.raises(RunFolderError, match=message):
        reopen(copied)


def test_a_loss_that_changes_the_student_cannot_be_fine_tuned():
    with pytest.raises(ConfigError, match=r"export\.finetune: the loss 'simkd' adds parts"):
        check_can_go_on(1.0 * SimKD(("head",)))


def test_unknown_targets_and_fine_tuning_for_nothing_are_refused(tmp_path, recipe_of_exports):
    (tmp_path / "recipe.yaml").write_text(recipe_of_exports + f"output: {tmp_path}\n")

    def build(*overrides):
        return build_job(read_recipe(tmp_path / "recipe.yaml", overrides))

    with pytest.raises(UnknownNameError, match=r"Unknown export\.targets 'onx'.*'onnx'"):
        build("export.targets=[onx]")
    with pytest.raises(ConfigError, match=r"export\.finetune: there are no int8"):
        build("measure.int8=null", "export.int8=[]")


def test_the_way_of_measure_comes_first_and_each_way_once(make_job, tmp_path):
    job = make_job(
        tmp_path,
        measure=MeasureSettings(int8="percentile"),
        export=ExportSettings(int8=("minmax", "percentile")),
    )
    assert job.int8 == ("percentile", "minmax")


def test_an_export_that_fails_parity_leaves_no_file(finished, tmp_path, monkeypatch):
    again = reopen(finished[1])
    job = replace(again.job, out=tmp_path)
    other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, 10))
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x * torch.rand_like(x))
    with pytest.raises(ExportError, match="differs from PyTorch"):
        exporting.export_float(job, other, "onnx", tmp_path / "student.onnx", exporting.Costs())
    assert list(tmp_path.iterdir()) == []
