from dataclasses import replace

import pytest

from tutelage.records import Machine, MeasuredFile, MeasuredRow, Measurement
from tutelage.report.measured import (
    Point,
    file_scores,
    measured_charts,
    measured_tables,
    pareto_front,
    problems,
)


def measurement(name="here", problem=None):
    files = [
        MeasuredFile(n, f"{n}.onnx", "", size, memory, problem)
        for n, size, memory in (("teacher", 5000, 900), ("distilled", 400, None))
    ]
    rows = [
        MeasuredRow(n, "ONNX Runtime", batch, 1, p50, 2 * p50, 10.0, 9, energy)
        for batch in (8, 1)
        for n, p50, energy in (("teacher", 2.0 * batch, 3.25), ("distilled", 0.5 * batch, None))
    ]
    machine = Machine(name, "CPU", 2, "Linux", "3.11")
    return Measurement(1, machine, "2026-11-25T12:00:00Z", files, rows)


@pytest.fixture
def record(make_record):
    return replace(make_record(), measurements=[measurement(), measurement("<i>camera</i>")])


def test_the_front_holds_what_no_other_beats_in_both():
    points = [
        Point(*row)
        for row in (("a", 90.0, 2.0), ("b", 80.0, 1.0), ("c", 70.0, 1.5), ("d", 90.0, 3.0))
    ]
    assert [p.name for p in pareto_front(points)] == ["b", "a"]
    assert [p.name for p in pareto_front(points, is_higher_better=False)] == ["b", "c"]
    assert pareto_front([]) == []


def test_every_file_has_its_own_score(record):
    scores = file_scores(record)
    assert scores["teacher"] == record.teacher.selected.accuracy
    of_students = {t.selected.accuracy for t in record.arms if t.arm == "distilled"}
    assert scores["distilled"] in of_students
    for row in record.quantised:
        assert scores[row.name] == row.metric


def test_the_picture_is_of_the_smallest_batch_on_each_machine(record):
    size, here, camera = measured_charts(record)
    assert (size.title, here.title) == ("Accuracy against size", "Accuracy against latency")
    places = {trace["name"]: trace["x"] for trace in here.figure["data"]}
    assert places["teacher"] == [2.0]
    assert places["distilled"] == places["baseline"] == [0.5]
    assert places["Pareto front"] == [0.5, 2.0]
    assert "&lt;i&gt;camera" in camera.caption
    assert "On the front" in here.caption


def test_what_the_machine_does_not_tell_is_said(record):
    table = measured_tables(record)[0]
    cells = {(row.label, row.detail): [c.value for c in row.cells] for row in table.rows}
    assert len(cells) == 4
    assert cells["teacher", "batch 1, 1 thread"][:6] == [
        "2.00",
        "4.00",
        "10.0",
        "3.25",
        "5.00 kB",
        "900 B",
    ]
    assert cells["distilled", "batch 8, 1 thread"][3:6] == ["not told", "400 B", "not told"]


def test_files_that_did_not_run_are_named(record):
    assert problems(record) == []
    broken = replace(record, measurements=[measurement(problem="no such runtime")])
    assert problems(broken)[0] == "here: teacher.onnx could not be run (no such runtime)."


def test_without_measurements_there_is_no_picture(make_record):
    assert measured_charts(make_record()) == []
    assert measured_tables(make_record()) == []
