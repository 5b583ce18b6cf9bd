"""Int8 files: made from the float one, run in ONNX Runtime, judged, and refused if too bad."""

import numpy as np
import onnx
import pytest
import torch

from tutelage.deploy import export_onnx, open_session, quantise_onnx, run_session
from tutelage.deploy.quantise import SCHEMES
from tutelage.errors import ExportError, UnknownNameError
from tutelage.job import MeasureSettings
from tutelage.models.nets import cnn, mlp
from tutelage.pipeline import exporting, run_job


@pytest.fixture(scope="module")
def samples():
    return torch.rand(64, 1, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def network(request):
    torch.manual_seed(0)
    return mlp(5, image_size=12, hidden=(64,)) if request.param == "mlp" else cnn(5, width=16)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_eight_bit_file_is_near_the_float_one(tmp_path, network, samples, scheme):
    export_onnx(network, samples[:1], tmp_path / "float.onnx")
    quantise_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", samples.split(16), scheme)
    expected = run_session(open_session(tmp_path / "float.onnx", threads=1), samples.numpy())
    given = run_session(open_session(tmp_path / "int8.onnx", threads=1), samples.numpy())
    largest = np.abs(expected - given).max()
    assert 0 < largest < 0.1 * np.abs(expected).max()
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in kinds


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_leave_a_bit_free_for_processors_that_add_in_sixteen(tmp_path, samples, scheme):
    export_onnx(mlp(5, image_size=12, hidden=(64,)), samples[:1], tmp_path / "float.onnx")
    quantise_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", [samples], scheme)
    tensors = onnx.load(tmp_path / "int8.onnx").graph.initializer
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in tensors
        if tensor.data_type == onnx.TensorProto.INT8 and np.prod(tensor.dims) > 100
    ]
    assert weights
    assert 60 <= max(np.abs(weight.astype(int)).max() for weight in weights) <= 64


def test_a_wide_network_shrinks_to_about_a_quarter(tmp_path, samples):
    export_onnx(mlp(5, image_size=12, hidden=(400, 400)), samples[:1], tmp_path / "float.onnx")
    quantise_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", [samples], "minmax")
    sizes = [(tmp_path / name).stat().st_size for name in ("int8.onnx", "float.onnx")]
    assert sizes[0] < 0.3 * sizes[1]


def test_no_path_of_this_machine_is_in_the_file(tmp_path, samples):
    export_onnx(cnn(5), samples[:1], tmp_path / "float.onnx")
    quantise_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", [samples], "minmax")
    assert str(tmp_path).encode() not in (tmp_path / "int8.onnx").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["float.onnx", "int8.onnx"]


def test_an_unknown_way_and_a_broken_file_are_one_clear_error(tmp_path):
    with pytest.raises(UnknownNameError, match="minmax"):
        quantise_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", [], "minmac")
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match="cannot be quantised"):
        quantise_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", [], "dynamic")
    assert not (tmp_path / "b.onnx").exists()


@pytest.fixture
def job(make_job, tmp_path):
    measure = MeasureSettings(batch_sizes=(1,), seconds=0.2, int8="minmax")
    return make_job(tmp_path / "run", seeds=(0,), measure=measure, has_report=True)


def test_a_run_delivers_the_eight_bit_student_and_says_what_it_cost(job, monkeypatch):
    monkeypatch.setattr(exporting, "LEAST_AGREEMENT", 0.0)
    record = run_job(job).record
    (row,) = record.quantised
    assert (job.out / "export" / row.file).is_file()
    assert row.calibration == len(job.splits.train) == 60
    assert row.count == len(job.splits.test)
    assert row.low <= row.metric - row.float_metric <= row.high
    selected = next(t for t in record.arms if t.arm == "distilled").selected
    assert row.float_metric == pytest.approx(selected.accuracy)
    assert {size.name for size in record.sizes} == {"teacher", "distilled", "distilled int8"}
    assert "distilled int8" in {latency.name for latency in record.latencies}
    assert "Int8 against float" in (job.out / "report.html").read_text()
    assert run_job(job).record.quantised == [row]


def test_a_file_that_disagrees_too_often_is_an_error_and_no_file(job, monkeypatch):
    monkeypatch.setattr(exporting, "LEAST_AGREEMENT", 1.01)
    (refused,) = run_job(job).record.refused
    assert "agrees with the float file on" in refused.reason
    assert "Try measure.int8" in refused.reason
    assert not list((job.out / "export").glob("*.int8.onnx"))


def test_calibration_samples_come_from_all_over_the_data(job):
    (batch,) = exporting.calibration(job)
    reader = job.reader(job.splits.train)
    last = reader.inputs.export_inputs(reader[torch.tensor([59]), torch.tensor([0])].inputs)[0]
    assert torch.equal(batch[-1], last)
