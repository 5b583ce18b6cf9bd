import contextlib
import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tutelage.checksums import write_json_with_checksum
from tutelage.errors import RunFolderError
from tutelage.files import write_json
from tutelage.records import (
    CalibrationBin,
    Evaluation,
    MetricPoint,
    ParityRow,
    QuantisedRow,
    RunRecord,
    SoftTargetSample,
    Summary,
    TrainingRecord,
    Verdict,
    load_record,
    save_record,
)

EVALUATION = Evaluation(
    accuracy=0.5,
    nll=1.25,
    ece=0.1,
    agreement=None,
    kl_to_teacher=0.3,
    per_class_accuracy=[0.5, None],
    calibration=[CalibrationBin(0.3, 0.25, 4)],
    count=4,
)
POINT = MetricPoint(1, 10, 0.7, {"kd": 0.5}, None, 0.8, 1e-3, 2.5)
TRAINING = TrainingRecord("distilled", 0, [POINT], EVALUATION, EVALUATION, 1, 10, 2.5)
VERDICT = Verdict("helped", 0.02, 0.01, 0.03, 0.95, 5, 100, "Distillation helped.")
SUMMARY = Summary("distilled", "last", {"accuracy": 0.5}, {"accuracy": None}, 0.9, None, [0.9])
RECORD = RunRecord(
    name="läuft",
    version="0.1.0",
    command="tutelage run x.yaml",
    recipe={"objective": {"terms": [{"loss": "kd", "weight": 0.9}]}, "seeds": [0, 1]},
    class_names=["a", "b"],
    splits={"train": 8, "valid": 2, "test": 4},
    temperature=4.0,
    teacher=replace(TRAINING, arm="teacher", curve=[], selected_epoch=None),
    arms=[TRAINING],
    summaries=[SUMMARY],
    verdicts={"selected": VERDICT},
)


def test_a_record_comes_back_as_it_went(tmp_path):
    path = tmp_path / "results.json"
    save_record(path, RECORD)
    assert load_record(path, RunRecord) == RECORD


def test_rows_of_files_are_read_under_their_older_names(tmp_path):
    parity = ParityRow("distilled", "student.onnx", 0.0, 1.0, 8, metric=0.5, test_metric=0.25)
    eight = QuantisedRow("x", "s.int8.onnx", "dynamic", 0, 0.5, 0.625, -1.0, 1.0, 1.0, 0.0, 8)
    sample = SoftTargetSample(0, 1, "aW1hZ2U=", {"teacher": [0.0, 1.0]})
    record = replace(RECORD, parity=[parity], quantised=[eight], samples=[sample])
    older = asdict(record)
    names = {"metric": "accuracy", "network_metric": "expected_accuracy"}
    names |= {"test_metric": "test_accuracy", "float_metric": "float_accuracy"}
    names |= {"scheme": "way", "image_png": "picture_png"}
    for part in ("parity", "quantised", "samples"):
        older[part] = [{names.get(key, key): v for key, v in row.items()} for row in older[part]]
    assert "accuracy" in older["quantised"][0]
    path = tmp_path / "results.json"
    write_json_with_checksum(path, older)
    assert load_record(path, RunRecord) == record


def test_numbers_come_back_to_the_last_bit(tmp_path):
    point = replace(POINT, train_loss=0.1 + 0.2, seconds=1e-320, learning_rate=2 / 3)
    save_record(tmp_path / "point.json", point)
    assert load_record(tmp_path / "point.json", MetricPoint) == point


def test_a_summary_is_found_by_arm_and_choice():
    assert RECORD.summary("distilled", "last") == SUMMARY
    assert RECORD.summary("distilled", "selected") is None
    assert RECORD.summary("baseline", "last") is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_cannot_hold_is_not_written(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        save_record(tmp_path / "point.json", replace(POINT, train_loss=value))
    assert not list(tmp_path.iterdir())


def edited(edit):
    plain = json.loads(json.dumps(asdict(RECORD)))
    edit(plain)
    return plain


@pytest.mark.parametrize(
    ("edit", "place"),
    [
        (lambda d: d.pop("teacher"), "teacher"),
        (lambda d: d.update(temperature="hot"), "temperature"),
        (lambda d: d.update(arms={}), "arms"),
        (lambda d: d["arms"][0].update(seed=1.5), r"arms\.0\.seed"),
        (lambda d: d["arms"][0]["last"].update(calibration=[7]), r"arms\.0\.last\.calibration\.0"),
        (lambda d: d["verdicts"].update(selected=None), r"verdicts\.selected"),
        (lambda d: d.update(class_names=[["__import__('os')"]]), r"class_names\.0"),
    ],
)
def test_a_record_with_a_wrong_field_names_it(tmp_path, edit, place):
    path = tmp_path / "results.json"
    write_json(path, edited(edit))
    with pytest.raises(RunFolderError, match=rf"results\.json: {place}.*damaged or written by"):
        load_record(path, RunRecord)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "1" * 5000,
        "\ufeff{}",
        '{"__class__": "os.system", "args": ["true"]}',
        "null",
        "[]",
        '"results"',
    ],
    ids=["empty", "cut", "deep", "long number", "mark", "class", "null", "list", "text"],
)
def test_hostile_json_is_refused_as_a_damaged_file(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"results\.json"):
        load_record(path, RunRecord)


def test_bytes_that_are_no_text_and_a_folder_are_refused(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00{}")
    (tmp_path / "folder").mkdir()
    for name in ("bytes", "folder"):
        with pytest.raises(RunFolderError, match="not a readable JSON file"):
            load_record(tmp_path / name, RunRecord)
    with pytest.raises(RunFolderError, match="no such file"):
        load_record(tmp_path / "nothing", RunRecord)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(key=st.sampled_from(sorted(RunRecord.__dataclass_fields__)), value=plain)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
def test_any_value_in_any_field_is_a_record_or_a_clear_error(tmp_path, key, value):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(edited(lambda d: d.update({key: value}))), encoding="utf-8")
    with contextlib.suppress(RunFolderError):
        assert isinstance(load_record(path, RunRecord), RunRecord)


@pytest.mark.parametrize(("confidence", "accuracy"), [(1e308, 0.5), (0.5, -1.0)])
def test_a_bin_beyond_the_shares_is_refused(tmp_path, confidence, accuracy):
    path = tmp_path / "bin.json"
    save_record(path, CalibrationBin(confidence, accuracy, 3))
    with pytest.raises(RunFolderError, match=r"(confidence|accuracy): Input should be"):
        load_record(path, CalibrationBin)
