"""A finished run from a stranger, poisoned file by file: nothing in it runs when it is opened."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import yaml

import tutelage
from tutelage.cli.commands import rewrite_report
from tutelage.deploy import open_session
from tutelage.deploy.measuring import write_kit
from tutelage.errors import ConfigError, ExportError, RunFolderError, TutelageError
from tutelage.explain import from_run
from tutelage.pipeline.export_run import export_run
from tutelage.pipeline.exporting import Costs
from tutelage.pipeline.measuring import import_measurement, kit_networks, measure_run
from tutelage.playground.content import read_run
from tutelage.records import RunRecord, load_record, save_record
from tutelage.stage_files import left_files

MODULES = ("numpy", "torch", "onnxruntime", "json", "tutelage", "sitecustomize", "usercustomize")


class Touch:
    """Unpickled, it makes a folder: what a stranger's code could do."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, as it comes from elsewhere."""
    run = tmp_path / "run"
    shutil.copytree(finished[1], run)
    keep_exports(run, "student.onnx", "teacher.onnx")
    return run


def keep_exports(run, *names):
    """Leave a few files in the results: measuring one takes seconds."""
    record = load_record(run / "results.json", RunRecord)
    known = load_record(run / "export" / "costs.json", Costs).parity
    parity = [row for row in known if row.file in names]
    save_record(run / "results.json", replace(record, parity=parity, quantised=[]))


@pytest.fixture
def marker(tmp_path):
    """Made by nobody, unless code ran."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists()


def vouch(run):
    """Write the results anew, as a stranger can: all checksums fit what lies there."""
    for path in run.rglob("stamp.json"):
        stamp = json.loads(path.read_text())
        files = {n: tutelage.files.file_sha256(path.parent / n) for n in stamp["files"]}
        path.write_text(json.dumps({"key": stamp["key"], "files": files}))
    record = load_record(run / "results.json", RunRecord)
    save_record(run / "results.json", replace(record, files=left_files(run)))


def open_everything(run, names=("report", "measure", "import", "export", "playground", "explain")):
    """All that reads a finished run; each works, or is refused by one error of our own."""
    schemes = {
        "report": lambda: rewrite_report(run),
        "measure": lambda: measure_run(run, batch_sizes=(1,), seconds=0.05),
        "import": lambda: import_measurement(run, run / "measurements" / "here.json"),
        "export": lambda: export_run(run, target="onnx"),
        "playground": lambda: read_run(run),
        "explain": lambda: from_run(run, 0, "distilled"),
    }
    found = {}
    for name in names:
        try:
            schemes[name]()
        except TutelageError as error:
            found[name] = str(error)
    return found


def repack(path, change):
    """A zip archive with entries changed."""
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(path, "w") as after:
        for entry in before.namelist():
            after.writestr(entry, change(entry, before.read(entry)))


def pickled_weight(value):
    def change(marker, entry, content):
        if entry.endswith("model_weights_config.json"):
            config = json.loads(content)
            for facts in config["config"].values():
                facts["use_pickle"] = value
            return json.dumps(config).encode()
        return pickle.dumps(Touch(marker)) if "/weight_" in entry else content

    return change


def pickled_sample(marker, entry, content):
    return pickle.dumps(Touch(marker)) if entry.endswith("model.pt") else content


def expression(marker, entry, content):
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    return content.replace(b"s77", code.encode()) if entry.endswith("model.json") else content


PROGRAMS = {
    "true": pickled_weight(True),
    "1": pickled_weight(1),
    "text": pickled_weight("true"),
    "sample": pickled_sample,
    "expression": expression,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_of_a_stranger_is_not_opened(run, marker, name):
    keep_exports(run, "student.onnx", "student.pt2")
    path = run / "export" / "student.pt2"
    repack(path, lambda entry, content: PROGRAMS[name](marker, entry, content))
    with pytest.raises(RunFolderError, match=r"student\.pt2: was changed or removed since"):
        measure_run(run, batch_sizes=(1,), seconds=0.05)
    vouch(run)
    with pytest.raises(ExportError, match=r"student\.pt2: .*no export on this machine wrote it"):
        measure_run(run, batch_sizes=(1,), seconds=0.05)


def test_the_poisoned_program_would_run_if_it_were_opened(run, tmp_path):
    torch = pytest.importorskip("torch")
    path, marker = run / "export" / "student.pt2", tmp_path / "would-run"
    repack(path, lambda entry, content: pickled_weight(1)(marker, entry, content))
    try:
        torch.export.load(path)
    except Exception:
        assert marker.exists()
    assert marker.exists()


def test_code_that_is_allowed_is_opened(run):
    keep_exports(run, "student.onnx", "student.pt2")
    repack(run / "export" / "student.pt2", lambda _, content: content)
    vouch(run)
    record = measure_run(run, batch_sizes=(1,), seconds=0.05, allow_code=True)
    assert "distilled torch_export" in {row.name for row in record.measurements[0].rows}


def test_modules_in_a_run_or_where_one_stands_are_not_imported(run, marker, monkeypatch):
    places = [run, run / "export", run / "export" / "student", run / "measurements"]
    for place in places:
        place.mkdir(exist_ok=True)
        for name in MODULES:
            (place / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.chdir(run / "export")
    monkeypatch.syspath_prepend("")  # as `python -c` and notebooks have it
    record = measure_run(run, batch_sizes=(1,), seconds=0.05)
    files = record.measurements[0].files
    assert {file.problem for file in files} == {None}
    assert all(file.memory_bytes is not None for file in files)


def test_the_script_that_travels_imports_nothing_beside_it(run, marker):
    record = load_record(run / "results.json", RunRecord)
    write_kit(run / "export", kit_networks(run, record))
    for name in ("numpy", "onnxruntime", "argparse", "hashlib"):
        (run / "export" / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')\n")
    command = [sys.executable, run / "export" / "measure.py", "--seconds", "0.05"]
    done = subprocess.run(command, cwd=run / "export", capture_output=True, check=True)
    rows = json.loads(done.stdout)
    assert {file["problem"] for file in rows["files"]} == {None}
    assert all(file["memory_bytes"] for file in rows["files"])


@pytest.mark.parametrize(
    "named",
    [
        {"student": {"model": "own.py:make"}},
        {"teacher": {"model": "own.py:make", "training": {"train": {"epochs": 1}}}},
        {"student": {"model": "their_module:make"}},
        {"objective": {"terms": [{"loss": "their_module:Loss", "weight": 1.0}]}},
    ],
)
def test_code_that_a_run_names_is_not_imported(run, marker, monkeypatch, named):
    for name in ("own", "their_module"):
        (run / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(run))
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe | named))
    message = r"recipe\.yaml: .*(own\.py|their_module).* Read it, then add --allow-code"
    with pytest.raises(ConfigError, match=message):
        export_run(run, target="onnx")


def test_weights_of_another_run_are_not_exported(finished, run):
    other = next((run / "arms" / "distilled").iterdir())
    for place in (run / "arms" / "distilled").iterdir():
        if place != other:
            shutil.rmtree(place)
            shutil.copytree(other, place)
    with pytest.raises(RunFolderError, match=r"safetensors: was changed or removed since the run"):
        export_run(run, target="onnx")


def test_swapped_files_are_neither_measured_nor_shown(run):
    shutil.copy(run / "export" / "teacher.onnx", run / "export" / "student.onnx")
    with pytest.raises(RunFolderError, match=r"student\.onnx: was changed or removed since"):
        measure_run(run, batch_sizes=(1,), seconds=0.05)
    with pytest.raises(RunFolderError, match=r"student\.onnx: was changed or removed since"):
        read_run(run)


def test_a_network_with_weights_elsewhere_is_not_opened(run, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(4 * 4096))
    path = run / "export" / "student.onnx"
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"lies in another file \(\.\./\.\./secret\)"):
        open_session(path, threads=1)
    vouch(run)
    assert "lies in another file" in open_everything(run, ("measure",))["measure"]


def files_of(run):
    return sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file())


POISON = {
    "pickle": lambda path, marker: path.write_bytes(pickle.dumps(Touch(marker))),
    "header": lambda path, marker: path.write_bytes(b"\xff" * 7 + b"\x7f" + b"{" * 64),
    "zeros": lambda path, marker: (path.unlink(), path.symlink_to("/dev/zero")),
    "pipe": lambda path, marker: (path.unlink(), os.mkfifo(path)),
    "folder": lambda path, marker: (path.unlink(), path.mkdir()),
    "deep": lambda path, marker: path.write_text("[" * 100_000),
    "empty": lambda path, marker: path.write_bytes(b""),
}


QUICK = [
    ("results.json", ("report", "measure", "import", "export", "playground", "explain")),
    ("recipe.yaml", ("export",)),
    ("export/student.onnx", ("measure", "playground")),
    ("measurements/here.json", ("import",)),
]
SLOW = [  # read after the data and the networks are made
    ("export/stamp.json", ("export",)),
    ("export/costs.json", ("export",)),
    ("teacher/selected.safetensors", ("export",)),
    ("teacher/training.json", ("export",)),
    ("arms/distilled/seed-0/stamp.json", ("export",)),
]
CASES = [(poison, *case) for poison in POISON for case in QUICK]
CASES += [(poison, *case) for poison in ("pickle", "pipe") for case in SLOW]


@pytest.mark.parametrize(("poison", "name", "names"), CASES)
def test_a_poisoned_file_is_refused_and_nothing_runs(run, marker, poison, name, names):
    path = run / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    POISON[poison](path, marker)
    found = open_everything(run, names)
    assert set(found) == set(names)
    assert all(path.name in text for text in found.values()), found


@pytest.mark.parametrize("name", ["arms", "teacher", "export", "measurements", "cache", ".lock"])
def test_nothing_is_written_through_a_link_out_of_a_run(run, tmp_path, name):
    outside = tmp_path / "outside"
    if (run / name).is_dir():
        shutil.move(run / name, outside)
    elif name == ".lock":
        (run / name).unlink(missing_ok=True)
        outside.write_text("kept")
    else:
        outside.mkdir()
    before = {p: p.read_bytes() for p in [outside, *outside.rglob("*")] if p.is_file()}
    (run / name).symlink_to(outside)
    schemes = open_everything(run)
    for scheme in ("report", "measure", "export", "import"):
        assert "is a link to" in schemes[scheme]
    assert {p: p.read_bytes() for p in [outside, *outside.rglob("*")] if p.is_file()} == before


def test_results_cannot_name_files_of_other_folders(run):
    record = load_record(run / "results.json", RunRecord)
    for name in ("../../secret.onnx", "/etc/passwd.onnx", "..", "a\\b.onnx"):
        parity = [replace(record.parity[0], file=name), *record.parity[1:]]
        save_record(run / "results.json", replace(record, parity=parity))
        with pytest.raises(RunFolderError, match=r"results\.json: parity\.0\.file"):
            measure_run(run, batch_sizes=(1,), seconds=0.05)


def test_the_test_knows_every_file_of_a_run(finished):
    """A new kind of file in a run folder must be thought of here and in the docs."""
    kinds = {path.suffix or path.name for path in files_of(finished[1])}
    assert kinds <= {
        ".json", ".yaml", ".html", ".onnx", ".pt2", ".safetensors", ".py", ".md", ".npy", ".npz",
        ".txt", ".lock", ".csv",
    }, kinds  # fmt: skip
    assert Path("results.json") in files_of(finished[1])
