"""A finished run measured here, and with numbers from elsewhere."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from tutelage.deploy import export_onnx
from tutelage.errors import RunFolderError
from tutelage.models.nets import mlp
from tutelage.pipeline import run_job
from tutelage.pipeline.measuring import import_measurement, kit_networks, measure_run
from tutelage.pipeline.stages import mark_complete
from tutelage.records import ParityRow, QuantisedRow, RunRecord, load_record, save_record
from tutelage.stage_files import left_files


@pytest.fixture(scope="module")
def finished(make_job, tmp_path_factory):
    """A run without exports, to which two exported files are added by hand."""
    folder = tmp_path_factory.mktemp("run")
    record = run_job(make_job(folder)).record
    for name, width in (("teacher", 24), ("student", 4)):
        network = mlp(3, image_size=6, hidden=(width,)).eval()
        export_onnx(network, torch.zeros(2, 1, 6, 6), folder / "export" / f"{name}.onnx")
    shutil.copy(folder / "export" / "student.onnx", folder / "export" / "student.int8.onnx")
    parity = [
        ParityRow("teacher", "teacher.onnx", 0.0, 1.0, 8),
        ParityRow("distilled", "student.onnx", 0.0, 1.0, 8),
    ]
    quantised = [
        QuantisedRow(
            "distilled int8", "student.int8.onnx", "minmax", 8, 0.5, 0.6, 0.0, 0.0, 1.0, 0.0, 45
        )
    ]
    mark_complete(folder / "export", "key", sorted((folder / "export").glob("*.onnx")))
    record = replace(record, parity=parity, quantised=quantised, files=left_files(folder))
    save_record(folder / "results.json", record)
    return folder


@pytest.fixture
def run_folder(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def elsewhere(folder, **changes):
    """What the script might have printed on another machine."""
    content = json.loads((folder / "measurements" / "here.json").read_text())
    content["machine"]["name"] = "a camera"
    for change in changes.values():
        change(content)
    path = folder / "rows.json"
    path.write_text(json.dumps(content))
    return path


def test_a_run_is_measured_and_another_machine_s_numbers_are_imported(run_folder):
    before = load_record(run_folder / "results.json", RunRecord)
    record = measure_run(run_folder, batch_sizes=(1, 3), seconds=0.3)
    assert replace(record, measurements=[]) == before
    names = {row.name for row in record.measurements[0].rows}
    assert names == {"teacher", "distilled", "distilled int8"}
    assert (run_folder / "export" / "measure.py").is_file()
    page = (run_folder / "report.html").read_text(encoding="utf-8")
    assert "Every exported file, measured" in page
    assert page.count('data-chart="measured-') == 2

    record = import_measurement(run_folder, elsewhere(run_folder))
    assert [m.machine.name for m in record.measurements][1:] == ["a camera"]
    assert load_record(run_folder / "results.json", RunRecord) == record
    page = (run_folder / "report.html").read_text(encoding="utf-8")
    assert "a camera (" in page
    assert page.count('data-chart="measured-') == 3
    assert len(import_measurement(run_folder, elsewhere(run_folder)).measurements) == 2

    other = elsewhere(run_folder, name=lambda c: c["machine"].update(name="<b>bold</b>"))
    import_measurement(run_folder, other)
    assert "<b>bold</b>" not in (run_folder / "report.html").read_text(encoding="utf-8")

    # files that have changed since are no longer spoken of
    (run_folder / "export" / "student.onnx").write_bytes(b"other")
    with pytest.raises(RunFolderError, match=r"student\.onnx was another file there than it is in"):
        import_measurement(run_folder, elsewhere(run_folder))
    shutil.copy(run_folder / "export" / "teacher.onnx", run_folder / "export" / "student.onnx")
    with pytest.raises(
        RunFolderError, match=r"student\.onnx: was changed or removed since the run left it"
    ):
        measure_run(run_folder, batch_sizes=(1,), seconds=0.1)


def stray(content):
    content["rows"][0]["name"] = "nobody"


def renamed(content):
    content["files"][0]["name"] = "distilled"


def foreign(content):
    content["files"][0]["file"] = "../../secret.onnx"


def empty(content):
    content["rows"] = []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (stray, "rows of nobody, which is not among its files"),
        (renamed, r"distilled \(teacher\.onnx\) is no file of"),
        (foreign, r"secret\.onnx\) is no file of"),
        (empty, "nothing could be run there"),
    ],
)
def test_numbers_of_other_files_are_refused(run_folder, change, message):
    files = [
        {
            "name": name, "file": file, "sha256": "", "size_bytes": 9, "memory_bytes": None,
            "problem": None,
        }
        for name, file in (("teacher", "teacher.onnx"), ("distilled", "student.onnx"))
    ]  # fmt: skip
    row = {
        "name": "teacher", "runtime": "r", "batch_size": 1, "threads": 1, "p50_ms": 1.0,
        "p95_ms": 1.0, "throughput_per_s": 1.0, "calls": 5, "energy_mj": None,
    }  # fmt: skip
    machine = {"name": "m", "processor": "p", "cores": 1, "system": "s", "python": "3"}
    content = {
        "format": 1, "machine": machine, "when": "2026-01-01T00:00:00Z", "files": files,
        "rows": [row],
    }  # fmt: skip
    change(content)
    path = run_folder / "rows.json"
    path.write_text(json.dumps(content))
    before = (run_folder / "results.json").read_bytes()
    with pytest.raises(RunFolderError, match=message):
        import_measurement(run_folder, path)
    assert (run_folder / "results.json").read_bytes() == before


def test_a_run_without_files_and_one_with_a_lost_file_say_so(run_folder):
    record = load_record(run_folder / "results.json", RunRecord)
    with pytest.raises(RunFolderError, match="nothing was exported"):
        kit_networks(run_folder, replace(record, parity=[], quantised=[]))
    (run_folder / "export" / "student.int8.onnx").unlink()
    with pytest.raises(RunFolderError, match=r"student\.int8\.onnx: no such file"):
        kit_networks(run_folder, record)
    with pytest.raises(RunFolderError, match=r"no_such\.json: cannot be read"):
        import_measurement(run_folder, run_folder / "no_such.json")
