import io
import zipfile

import numpy as np
import pytest
import torch

from tutelage.config import build_job, read_recipe
from tutelage.data.arrays import ArraySource, load_arrays
from tutelage.data.loading import BatchBuilder, in_order, iterate
from tutelage.errors import ConfigError, DataError

RECIPE = """
task: classification
data: {kind: arrays, path: DATA}
teacher: {model: mlp, settings: {hidden: [8]}, training: {train: {epochs: 1}}}
student: {model: mlp, settings: {hidden: [4]}}
measure: null
output: runs/arrays
"""


def write(folder, count=50, kind="float32", shape=(6,), classes=3, seed=0):
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    inputs = generator.integers(0, 255, (count, *shape)).astype(kind)
    labels = (np.arange(count) % classes).astype(np.uint8)
    np.save(folder / "inputs.npy", inputs)
    np.save(folder / "labels.npy", labels)
    return inputs, labels


@pytest.mark.parametrize(
    ("kind", "shape"), [("float32", (6,)), ("float16", (6,)), ("uint8", (1, 4, 4))]
)
def test_rows_are_those_of_the_files(tmp_path, kind, shape):
    inputs, labels = write(tmp_path / "a", kind=kind, shape=shape)
    source = ArraySource(tmp_path / "a")
    ids = torch.tensor([3, 49, 0, 3])
    got, classes = source.fetch(ids)
    assert got.dtype == (torch.uint8 if kind == "uint8" else torch.float32)
    np.testing.assert_array_equal(got.numpy(), inputs[ids.numpy()].astype(got.numpy().dtype))
    assert classes.dtype == torch.int64
    assert classes.tolist() == labels[ids.numpy()].tolist()
    assert isinstance(source.inputs, np.memmap)
    assert source.num_outputs == 3


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
def test_workers_read_the_same_rows(tmp_path):
    write(tmp_path / "a")
    reader = BatchBuilder(ArraySource(tmp_path / "a"))
    alone, helped = (
        torch.cat([b.inputs for b in iterate(reader, in_order(50, batch_size=8), workers)])
        for workers in (0, 2)
    )
    assert torch.equal(alone, helped)


def test_another_row_is_another_fingerprint(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    write(tmp_path / "c")
    labels = np.load(tmp_path / "c" / "labels.npy")
    labels[17] = 0
    np.save(tmp_path / "c" / "labels.npy", labels)
    first, second, third = (ArraySource(tmp_path / name).fingerprint for name in "abc")
    assert first == second != third


def archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.npy", b"")
    return buffer.getvalue()


def of_objects():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("inputs.npy", None, "no such file"),
        ("inputs.npy", b"", "not a NumPy file"),
        ("inputs.npy", b"\x93NUMPY\x01\x00\xff\xff{", "not a NumPy file"),
        ("inputs.npy", archive(), "one plain .npy file|not a NumPy file"),
        ("inputs.npy", of_objects(), "not a NumPy file"),
        ("inputs.npy", np.zeros(50, np.float32), "one row a sample"),
        ("inputs.npy", np.zeros((50, 2), np.complex64), "one row a sample"),
        ("inputs.npy", np.zeros((49, 2), np.float32), "49 inputs and 50 labels"),
        ("labels.npy", np.zeros((50, 2), np.int64), "several numbers a sample"),
        ("labels.npy", np.full(50, 0.5, np.float32), r"sample 0: the label is 0\.5"),
        ("labels.npy", np.full(50, -1), "sample 0: the label is -1, which means 'no label'"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, name, content, match):
    write(tmp_path / "a")
    path = tmp_path / "a" / name
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(DataError, match=match):
        ArraySource(tmp_path / "a")


def test_a_file_cut_short_is_refused(tmp_path):
    write(tmp_path / "a")
    path = tmp_path / "a" / "inputs.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="not a NumPy file that can be mapped"):
        ArraySource(tmp_path / "a")


def test_a_recipe_learns_from_arrays(tmp_path):
    for number, part in enumerate(("train", "test", "valid")):
        write(tmp_path / part, seed=number)
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("DATA", str(tmp_path)))
    job = build_job(read_recipe(path))
    assert len(job.splits.class_names) == 3
    logits = job.new_student(0)(job.train_reader[torch.arange(4), torch.zeros(4).long()].inputs)
    assert logits.shape == (4, 3)


def test_parts_of_another_shape_are_refused(tmp_path):
    write(tmp_path / "train")
    write(tmp_path / "test", shape=(5,))
    with pytest.raises(DataError, match=r"rows of shape \(5,\), but those of train have \(6,\)"):
        load_arrays(tmp_path)


def test_float64_inputs_and_a_column_of_whole_floats_are_taken(tmp_path):
    inputs, labels = write(tmp_path / "a")
    np.save(tmp_path / "a" / "inputs.npy", inputs.astype(np.float64))
    np.save(tmp_path / "a" / "labels.npy", labels.astype(np.float32)[:, None])
    got, classes = ArraySource(tmp_path / "a").fetch(torch.arange(5))
    assert got.dtype == torch.float32
    assert torch.equal(got, torch.from_numpy(inputs[:5]).float())
    assert classes.tolist() == labels[:5].tolist()


def test_arrays_of_one_class_or_with_another_number_of_channels_are_refused(tmp_path):
    for part in ("train", "test"):
        write(tmp_path / part, shape=(3, 4, 4))
    with pytest.raises(ConfigError, match=r"data\.mean: 1 value, but the inputs have 3 channels"):
        load_arrays(tmp_path, mean=(0.5,), std=(0.5,))
    with pytest.raises(ConfigError, match="mean and std belong together"):
        load_arrays(tmp_path, mean=(0.5,) * 3)
    with pytest.raises(DataError, match=r"is a file. Give a folder with train/"):
        load_arrays(tmp_path / "train" / "inputs.npy")
    labels = np.load(tmp_path / "train" / "labels.npy")
    np.save(tmp_path / "train" / "labels.npy", np.zeros_like(labels))
    with pytest.raises(DataError, match="every label is 0"):
        load_arrays(tmp_path)
