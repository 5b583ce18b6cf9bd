import sys
import time

import numpy as np
import onnxruntime
import pytest
import torch

from tutelage.deploy import latency, measure_latency, open_session, run_session, standalone
from tutelage.errors import ConfigError, ExportError, MissingExtraError


@pytest.fixture
def pretend(monkeypatch):
    """Sessions that only note their name, and take as long as their file's name says."""
    turns = []

    def run(session, inputs):
        turns.append((session, len(inputs)))
        time.sleep(float(session) / 1000)

    monkeypatch.setattr(latency, "open_session", lambda path, *, threads: path.name)
    monkeypatch.setattr(latency, "run_session", run)
    return turns


def test_real_files_are_measured(cnn):
    files = {"teacher": cnn.path, "student": cnn.path}
    rows = measure_latency(files, cnn.samples[:3], batch_sizes=(1, 8), calls=20)
    assert [(row.name, row.batch_size) for row in rows] == [
        ("teacher", 1),
        ("student", 1),
        ("teacher", 8),
        ("student", 8),
    ]
    assert all(0 < row.p50_ms <= row.p95_ms for row in rows)
    assert {(row.calls, row.threads) for row in rows} == {(20, 1)}
    assert {row.runtime for row in rows} == {f"ONNX Runtime {onnxruntime.__version__}, CPU"}


def test_networks_take_turns_of_two_calls_in_an_order_drawn_anew(pretend, tmp_path):
    files = {"teacher": tmp_path / "0", "student": tmp_path / "0.1"}
    measure_latency(files, torch.zeros(1, 4), batch_sizes=(3,), calls=4)
    assert len(pretend) == 2 * 2 * (standalone.WARM_UP_CALLS + 4)
    assert pretend[::2] == pretend[1::2]  # a call that is not counted, then the one that is
    rounds = list(zip(pretend[::4], pretend[2::4], strict=True))
    assert {frozenset(pair) for pair in rounds} == {frozenset({("0", 3), ("0.1", 3)})}
    assert len(set(rounds)) == 2


def test_a_time_does_not_hang_on_the_network_before_it():
    state = {"last": None}

    def call(name):
        def run():
            time.sleep(0.002 if state["last"] not in (None, name) else 0.0)  # cold caches
            state["last"] = name

        return run

    times = standalone.take_turns([call("a"), call("b")], 10, 5.0)
    assert times.max() < 0.002


def test_a_slow_network_gets_few_calls(pretend, tmp_path):
    files = {"teacher": tmp_path / "20", "student": tmp_path / "0"}
    rows = measure_latency(files, torch.zeros(1, 4), batch_sizes=(1,), seconds=0.01)
    assert [row.calls for row in rows] == [standalone.MIN_CALLS] * 2
    assert rows[0].p50_ms >= 20


def test_percentiles_and_throughput_follow_from_the_times():
    times = np.array([1.0, 2.0, 3.0, 4.0, 10.0]) / 1000
    row = latency._row("student", "a runtime", 8, 1, times)
    assert (row.p50_ms, row.p95_ms) == pytest.approx((3.0, 8.8))
    assert row.throughput_per_s == pytest.approx(8 * 5 / 0.020)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_sizes": (1, 0)}, "batch_sizes must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"calls": 0}, "calls must be at least 1, got 0"),
        ({"batch_sizes": ()}, "at least one file, one batch size and one sample, got 1, 0 and 2"),
    ],
)
def test_numbers_below_one_are_refused(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        measure_latency({"student": tmp_path / "a"}, torch.zeros(2, 4), **settings)


@pytest.mark.parametrize("content", [None, b"", b"no model"], ids=["missing", "empty", "other"])
def test_a_file_that_is_no_network_is_refused(content, tmp_path, capfd):
    path = tmp_path / "net.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        ExportError, match=r"net\.onnx: (ONNX Runtime .*cannot load|cannot be read)"
    ):
        open_session(path, threads=1)
    assert capfd.readouterr() == ("", "")


def test_content_that_is_no_network_is_refused():
    with pytest.raises(ExportError, match=r"The exported network: ONNX Runtime .* cannot load it"):
        open_session(b"no model", threads=1)


def test_inputs_of_a_wrong_type_are_refused(mlp, capfd):
    session = open_session(mlp.path, threads=1)
    with pytest.raises(ExportError, match=r"fails on float64 inputs of shape \(2, 6\); it takes"):
        run_session(session, np.zeros((2, 6)))
    assert capfd.readouterr() == ("", "")


def test_a_missing_runtime_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match="Running an ONNX file needs the 'onnx' extra"):
        open_session(tmp_path / "net.onnx", threads=1)
