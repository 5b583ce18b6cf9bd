import copy

import pytest
import torch
from torch import nn

import tutelage
from tutelage.engine.events import StageDone
from tutelage.errors import DataError, ModelError, TutelageError
from tutelage.models.nets import mlp
from tutelage.records import RunRecord, load_record


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(120, 1, 8, 8, generator=generator)
    return inputs, (inputs.mean(dim=(1, 2, 3)) > 0.5).long() + (inputs[:, 0, 0, 0] > 0.5).long()


@pytest.fixture
def networks():
    torch.manual_seed(0)
    return mlp(3, image_size=8, hidden=(32,)), mlp(3, image_size=8, hidden=(4,))


def test_three_lines_teach_a_student_and_leave_both_networks_alone(data, networks, tmp_path):
    teacher, student = networks
    teacher.train()
    before = copy.deepcopy((teacher.state_dict(), student.state_dict()))
    result = tutelage.distill(teacher, student, data, baseline=True, epochs=2, out=tmp_path)
    parity = result.export(tmp_path / "student.onnx")
    report = result.report(tmp_path / "report.html")
    assert parity.agreement == 1.0
    assert report.stat().st_size > 1000
    assert result.verdict is not None
    assert 0 <= result.metrics["accuracy"] <= 1
    assert teacher.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    for network, state in zip((teacher, student), before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    assert load_record(tmp_path / "results.json", RunRecord) == result.record
    assert torch.__version__.partition("+")[0] in result.record.machine
    assert f"{torch.get_num_threads()} thread" in result.record.machine or torch.cuda.is_available()


def test_a_second_call_keeps_what_is_there(data, networks, tmp_path):
    first = tutelage.distill(*networks, data, epochs=2, codec="float16", out=tmp_path)
    events = []
    again = tutelage.distill(
        *networks, data, epochs=2, codec="float16", out=tmp_path, listener=events.append
    )
    kept = {e.name: e.was_there for e in events if isinstance(e, StageDone)}
    assert kept["teacher cache"]
    assert kept["distilled, seed 0"]
    assert again.metrics == first.metrics


def test_test_samples_that_were_trained_on_are_told(data, networks, tmp_path):
    (inputs, labels), told = data, "stand in the training data as well"
    parts = {"valid_data": (inputs[80:100], labels[80:100]), "epochs": 1}
    test = (inputs[90:], labels[90:])
    apart = tutelage.distill(
        *networks, (inputs[:80], labels[:80]), test_data=test, out=tmp_path / "1", **parts
    )
    mixed = tutelage.distill(
        *networks, (inputs[:95], labels[:95]), test_data=test, out=tmp_path / "2", **parts
    )
    assert not any(told in note for note in apart.record.notes)
    assert any(note.startswith(f"5 of 30 test samples {told}") for note in mixed.record.notes)


def test_another_temperature_trains_again(data, networks, tmp_path):
    tutelage.distill(*networks, data, epochs=1, out=tmp_path)
    events = []
    tutelage.distill(
        *networks, data, epochs=1, temperature=2.0, out=tmp_path, listener=events.append
    )
    kept = {e.name: e.was_there for e in events if isinstance(e, StageDone)}
    assert kept["distilled, seed 0"] is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_data": []}, "is empty"),
        ({"train_data": "folder"}, "got the path"),
        ({"student": nn.Linear(3, 3)}, "student: Linear failed on inputs"),
        ({"student": mlp(5, image_size=8, hidden=(4,))}, "student: Sequential returned shape"),
        ({"teacher": nn.Linear(3, 3)}, "teacher: Linear failed"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"codec": "zip"}, "unknown codec 'zip'"),
    ],
)
def test_wrong_arguments_are_one_clear_error(data, networks, tmp_path, change, message):
    teacher, student = networks
    call = {"teacher": teacher, "student": student, "train_data": data, "out": tmp_path} | change
    with pytest.raises(TutelageError, match=message):
        tutelage.distill(**call)


def test_a_label_out_of_range_names_its_sample(data, networks, tmp_path):
    inputs, labels = data
    labels[17] = 9
    with pytest.raises(
        (DataError, ModelError), match=r"Sample \d+ has label 9; allowed are 0 to 2"
    ):
        tutelage.distill(*networks, (inputs, labels), epochs=1, out=tmp_path)
