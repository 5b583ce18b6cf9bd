"""Series from arrays, folders and .ts files."""

import numpy as np
import pytest
import torch
import yaml

import tutelage
from tutelage.config.build import build_job
from tutelage.config.read import read_recipe
from tutelage.data.loading import BatchBuilder
from tutelage.data.series import SeriesSource, load_series
from tutelage.errors import ConfigError, DataError
from tutelage.inputs.series import SeriesInputs
from tutelage.models.series_nets import CNN1d
from tutelage.pipeline import run_job
from tutelage.tasks import Classification
from tutelage.teachers import ModuleTeacher

RAGGED = [np.full((2, steps), steps, dtype=np.uint8) for steps in (3, 5, 4)]
HEAD = "@problemName x\n@timeStamps false\n@classLabel true up down\n@data\n"
ALL = torch.arange(3)


def waves(count, seed, lengths=range(8, 20)):
    """Rising and falling series with noise, and their classes."""
    dice = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    slopes = np.where(labels, 1.0, -1.0)
    steps = dice.choice(list(lengths), count)
    return [
        slope * np.linspace(-1, 1, n) + 0.1 * dice.standard_normal((2, n))
        for slope, n in zip(slopes, steps, strict=True)
    ], labels


def save(folder, series, labels):
    folder.mkdir(parents=True)
    np.savez(folder / "inputs.npz", *series)
    np.save(folder / "labels.npy", labels)


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "data/train", *waves(60, 0))
    save(tmp_path / "data/test", *waves(20, 1))
    return tmp_path / "data"


def test_series_of_several_lengths_are_filled_up_and_masked():
    inputs, labels = SeriesSource(RAGGED, [0, 1, 0]).fetch(torch.tensor([2, 0]))
    assert inputs["inputs"].dtype == torch.float32  # bytes are values, never pixels
    assert inputs["inputs"].tolist() == [[[4] * 4] * 2, [[3, 3, 3, 0]] * 2]
    assert inputs["mask"].tolist() == [[True] * 4, [True] * 3 + [False]]
    assert labels.tolist() == [0, 0]


def test_series_of_one_length_are_one_tensor():
    rows = torch.randn(4, 2, 6)
    inputs, labels = SeriesSource(list(rows)).fetch(torch.tensor([3, 1]))
    assert torch.equal(inputs, rows[[3, 1]])
    assert labels is None


def test_what_is_filled_up_stays_0_normalised_and_back():
    reader = BatchBuilder(SeriesSource(RAGGED), inputs=SeriesInputs((1.0, 2.0), (2.0, 4.0)))
    batch = reader[ALL, 0 * ALL]
    assert batch.inputs["inputs"][0, :, 3:].abs().sum() == 0
    assert batch.inputs["inputs"][0, 0, 0] == (3 - 1) / 2
    back, (raw, _) = reader.inputs.export_inputs(batch.inputs), reader.source.fetch(ALL)
    torch.testing.assert_close(back["inputs"], raw["inputs"])
    assert reader.lengths.tolist() == [3, 5, 4]
    assert reader.longest == 5


def test_a_teacher_says_the_same_of_a_series_in_any_batch():
    torch.manual_seed(0)
    source = SeriesSource(waves(12, 3)[0])
    teacher = ModuleTeacher(CNN1d(2, 2, channels=(4,), kernels=(3,)), Classification(2), chunk=4)
    reader, ids = BatchBuilder(source), torch.arange(12)
    together = teacher(reader[ids, 0 * ids]).logits
    for number in ids.split(1):
        assert torch.equal(teacher(reader[number, 0 * number]).logits, together[number])


def test_a_folder_is_normalised_by_its_training_series(folder):
    splits = load_series(folder)
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (54, 6, 20)
    assert splits.class_names == ("0", "1")
    values = np.concatenate(waves(60, 0)[0], axis=1)
    assert splits.inputs.norm[0] == pytest.approx(values.mean(axis=1), abs=1e-6)
    assert splits.inputs.norm[1] == pytest.approx(values.std(axis=1), rel=1e-5)


def test_ts_files_are_read_with_the_names_of_their_classes(tmp_path):
    (tmp_path / "x_TRAIN.ts").write_text(HEAD + "1,2,3:4,5,6:up\n1,2:3,4:down\n" * 5)
    (tmp_path / "x_TEST.ts").write_text(HEAD + "7,8:9,1:down\n")
    splits = load_series(tmp_path, valid_fraction=0.0)
    assert splits.class_names == ("down", "up")
    inputs, labels = splits.test.fetch(torch.tensor([0]))
    assert inputs["inputs"].tolist() == [[[7, 8], [9, 1]]]
    assert labels.tolist() == [0]
    assert splits.valid is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,?:3,4:up", r"x_TRAIN.ts, line 5: a value is missing"),
        ("1,2:3:up", r"x_TRAIN.ts, line 5: its channels are no rows of numbers of one length"),
        ("1,a:3,4:up", r"line 5: its channels are no rows of numbers"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, message):
    (tmp_path / "x_TRAIN.ts").write_text(HEAD + line)
    (tmp_path / "x_TEST.ts").write_text(HEAD + "1,2:3,4:up")
    with pytest.raises(DataError, match=message):
        load_series(tmp_path)


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ([np.zeros((2, 3)), np.zeros((3, 3))], "series 1: 3 channels, but the first has 2"),
        ([np.zeros((2, 0))], r"series 0: it has the shape \(2, 0\)"),
        ([np.zeros((1, 2, 3))], r"series 0: it has the shape \(1, 2, 3\)"),
        ([["a", "b"]], "series 0: it is no array of numbers"),
        ([], "series: it is empty"),
    ],
)
def test_what_is_no_series_is_refused(series, message):
    with pytest.raises(DataError, match=message):
        SeriesSource(series)


def test_series_are_found_where_get_data_brings_them(folder, monkeypatch):
    monkeypatch.setenv("TUTELAGE_DATA", str(folder.parent))
    assert len(load_series("data").test) == 20
    with pytest.raises(DataError, match=r"data\.path: nowhere: no such folder.*get-data nowhere"):
        load_series("nowhere")


def test_a_folder_without_parts_says_what_is_needed(tmp_path):
    with pytest.raises(DataError, match=r"neither NAME_TRAIN\.ts .* inputs\.npz and labels\.npy"):
        load_series(tmp_path)


def network():
    return {"model": "cnn1d", "settings": {"channels": [4], "kernels": [3]}}


def recipe(tmp_path, folder, **changes):
    training = {"train": {"epochs": 3, "batch_size": 8}}
    content = {
        "task": "classification",
        "data": {"kind": "series", "path": str(folder)},
        "teacher": {**network(), "training": training},
        "student": network(),
        "train": {"epochs": 2, "batch_size": 8},
        "seeds": [0],
        "baseline": False,
        "measure": {"batch_sizes": [1], "seconds": 0.1},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content | changes))
    return build_job(read_recipe(tmp_path / "recipe.yaml"))


def test_a_run_delivers_a_file_for_series_of_any_length(tmp_path, folder):
    finished = run_job(recipe(tmp_path, folder))
    (row,) = [row for row in finished.record.parity if row.file == "student.onnx"]
    assert (row.count, row.agreement) == (20, 1.0)  # in batches of several lengths
    assert any("series of" in note for note in finished.record.notes)


def test_views_of_images_do_not_fit(tmp_path, folder):
    job = recipe(tmp_path, folder, views={"kind": "shift"})
    with pytest.raises(ConfigError, match="come as inputs, mask"):
        run_job(job)


def test_a_budget_for_a_student_of_series_is_refused_in_words(tmp_path, folder):
    with pytest.raises(ConfigError, match=r"data are series inputs; .* predicted for images alone"):
        run_job(recipe(tmp_path, folder, budget="1 MB"))


def test_series_are_distilled_from_python_with_their_own_normalisation(tmp_path):
    train, valid = (tutelage.SeriesSource(*waves(40, seed)) for seed in (0, 1))
    teacher, student = CNN1d(2, 2, (4,), (3,)), CNN1d(2, 2, (2,), (3,))
    kind = SeriesInputs((0.0, 0.0), (0.5, 0.5))
    made = tutelage.distill(
        teacher, student, train, valid_data=valid, inputs=kind, epochs=1, out=tmp_path / "run"
    )
    row = made.export(tmp_path / "series.onnx")
    assert (row.count, row.agreement) == (40, 1.0)
