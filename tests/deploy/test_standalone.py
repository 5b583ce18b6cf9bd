"""The script that travels with exported files, and what is made of its output."""

import ast
import contextlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tutelage.deploy import standalone
from tutelage.deploy.measuring import KitNetwork, measure_folder, parse_measurement, write_kit
from tutelage.errors import ConfigError, ExportError, RunFolderError
from tutelage.records import Machine, MeasuredFile, MeasuredRow, Measurement

STANDARD = {"numpy", *sys.stdlib_module_names}


@pytest.fixture
def kit(cnn, tmp_path):
    """One network under two names, one that only takes batches of one, and one without runtime."""
    shutil.copy(cnn.path, tmp_path / "cnn.onnx")
    (tmp_path / "cnn.bin").write_bytes(b"\0" * 1000)
    networks = [
        KitNetwork("teacher", "cnn.onnx", "onnx", (1, 8, 8), parts=("cnn.bin",)),
        KitNetwork("student", "cnn.onnx", "onnx", (1, 8, 8), batch=1),
        KitNetwork("other", "cnn.onnx", "abacus", (1, 8, 8)),
    ]
    write_kit(tmp_path, networks)
    return tmp_path


def test_the_script_needs_nothing_but_numpy_and_the_runtimes():
    tree = ast.parse(Path(standalone.__file__).read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    assert names <= {*STANDARD, "__future__"}


def test_the_script_is_written_for_python_3_8():
    text = Path(standalone.__file__).read_text(encoding="utf-8")
    tree = ast.parse(text, feature_version=(3, 8))
    assert "from __future__ import annotations" in text  # so that none is evaluated
    evaluated = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    names = {n.value.id for v in evaluated for n in ast.walk(v) if is_generic(n)}
    assert not names & {"Callable", "Mapping", "Sequence", "dict", "list", "tuple"}
    assert "datetime.UTC" not in text  # of 3.11


def is_generic(node):
    return isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)


def test_files_are_measured_by_turns_in_a_process_of_their_own(kit):
    found = measure_folder(kit, batch_sizes=(1, 4), seconds=0.4, name="here")
    assert found.machine.name == "here"
    assert [(row.name, row.batch_size) for row in found.rows] == [
        ("teacher", 1),
        ("student", 1),
        ("teacher", 4),
    ]
    assert all(0 < row.p50_ms <= row.p95_ms for row in found.rows)
    assert found.rows[0].calls == found.rows[1].calls  # they took turns
    teacher, student, other = found.files
    assert teacher.size_bytes == student.size_bytes + 1000
    assert 0 < student.memory_bytes < 1e8
    assert other.problem == "this script does not know the runtime 'abacus'"
    assert other.memory_bytes is None
    assert {row.threads for row in found.rows} == {1}


def test_a_runtime_whose_process_ends_is_one_clear_error(kit):
    worker = standalone.Worker(kit, 1, 1, kit)
    worker.process.kill()
    worker.process.wait()
    with pytest.raises((SystemExit, BrokenPipeError)):
        worker.take({"runtime": "onnx", "file": "cnn.onnx"})
    worker.process.stdout.close()
    with contextlib.suppress(BrokenPipeError):
        worker.process.stdin.close()


def test_the_script_runs_alone_and_prints_what_is_imported(kit):
    command = [sys.executable, "-I", "measure.py", "--batch-sizes", "1", "--seconds", "0.1"]
    done = subprocess.run(command, cwd=kit, capture_output=True, check=True)
    assert parse_measurement(done.stdout, "rows.json").rows[0].batch_size == 1


def test_a_damaged_list_of_files_is_one_line(kit):
    (kit / "measure.json").write_text("{")
    with pytest.raises(ExportError, match=r"measuring failed: .*measure\.json cannot be read"):
        measure_folder(kit, seconds=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_sizes": (0,)}, "batch sizes must be whole numbers above 0"),
        ({"threads": ()}, "threads must be whole numbers above 0"),
        ({"seconds": 0.0}, "seconds must be above 0, got 0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        measure_folder(tmp_path, **settings)


def powercap(folder, *counters):
    for number, value in enumerate(counters):
        zone = folder / f"intel-rapl:{number}"
        zone.mkdir(parents=True, exist_ok=True)
        (zone / "energy_uj").write_text(str(value))
    inner = folder / "intel-rapl:0:0"  # a part of a package is in the package's count
    inner.mkdir(exist_ok=True)
    (inner / "energy_uj").write_text("999")


def test_energy_is_the_packages_counters_over_the_samples(tmp_path, monkeypatch):
    powercap(tmp_path, 1_000_000, 2_000_000)
    assert standalone.read_energy(tmp_path) == 3.0
    clock = iter([0.0, 0.1, 0.2, 0.3])
    monkeypatch.setattr(standalone.time, "perf_counter", lambda: next(clock))
    calls = []

    def call():
        calls.append(1)
        powercap(tmp_path, 1_000_000 + 40_000 * len(calls), 2_000_000)

    found = standalone.energy_mj(call, 4, 0.25, tmp_path)
    assert len(calls) == 2
    assert found == pytest.approx(80.0 / (2 * 4))  # 80 mJ over two calls of four samples


def test_energy_that_is_not_told_is_none(tmp_path):
    assert standalone.energy_mj(lambda: None, 1, 0.01, tmp_path) is None
    powercap(tmp_path, 5)
    assert standalone.energy_mj(lambda: None, 1, 0.01, tmp_path) is None  # it did not move
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("much")
    assert standalone.read_energy(tmp_path) is None


def test_inputs_are_of_the_network_s_kind(tmp_path):
    floats = standalone.make_inputs({"shape": [3, 2], "dtype": "float32"}, 5, tmp_path)
    assert (floats.shape, floats.dtype) == ((5, 3, 2), np.float32)
    assert (floats >= 0).all()
    assert (floats <= 1).all()
    words = standalone.make_inputs({"shape": [7], "dtype": "int64", "high": 30}, 2, tmp_path)
    assert words.dtype == np.int64
    assert words.max() < 30
    np.savez(tmp_path / "text.npz", ids=np.array([[7, 8]]), mask=np.array([[1, 1]]))
    named = standalone.make_inputs({"sample": "text.npz"}, 3, tmp_path)
    assert named["ids"].tolist() == [[7, 8]] * 3
    assert named["mask"].tolist() == [[1, 1]] * 3


GOOD = asdict(
    Measurement(
        format=1,
        machine=Machine("a camera", "ARM", 4, "Linux aarch64", "3.9.2"),
        when="2026-11-25T12:00:00Z",
        files=[MeasuredFile("student", "student.onnx", "0" * 64, 100, None, None)],
        rows=[MeasuredRow("student", "ONNX Runtime 1.20", 1, 1, 0.5, 0.6, 2000.0, 9, None)],
    )
)


def changed(**places):
    content = json.loads(json.dumps(GOOD))
    for place, value in places.items():
        *parents, last = place.split("__")
        inside = content
        for key in parents:
            inside = inside[int(key) if key.isdecimal() else key]
        inside[last] = value
    return json.dumps(content).encode()


def test_a_good_output_is_taken():
    assert asdict(parse_measurement(changed(), "rows.json")) == GOOD


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Invalid JSON"),
        (b"[]", "should be an object"),
        (b"\xff\xfe\x00", "Invalid JSON"),
        (b"[" * 100_000, "rows.json: "),
        (b" " * 5_000_001, "larger than 5000000 bytes"),
        (changed(extra=1), "extra: Unexpected keyword argument"),
        (changed(format=2), "format: Input should be less than or equal to 1"),
        (changed(when="yesterday"), "when: String should match"),
        (changed(machine__name=""), "machine.name: String should have at least 1"),
        (changed(machine__name="a\x1b[2Jb"), "machine.name: String should match"),
        (changed(machine__name="x" * 101), "machine.name: String should have at most 100"),
        (changed(files__0__sha256="../etc"), "files.0.sha256: String should match"),
        (changed(files__0__size_bytes=-1), "files.0.size_bytes: Input should be greater"),
        (changed(rows__0__p50_ms="0.5"), "rows.0.p50_ms: Input should be a valid number"),
        (changed(rows__0__p50_ms=0), "rows.0.p50_ms: Input should be greater than 0"),
        (changed(rows__0__p50_ms=1e300), "rows.0.p50_ms: Input should be less than"),
        (changed(rows__0__batch_size=True), "rows.0.batch_size: Input should be a valid integer"),
        (changed().replace(b"0.5", b"NaN"), "rows.0.p50_ms: Input should be"),
        (changed(rows=[]) .replace(b"[]", b"{}"), "rows: Input should be a valid"),
    ],
)  # fmt: skip
def test_hostile_output_is_one_clear_error(content, message):
    with pytest.raises(RunFolderError) as caught:
        parse_measurement(content, "rows.json")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()
