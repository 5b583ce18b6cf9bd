"""Labels of every kind, read from arrays and from columns of tables."""

import numpy as np
import pytest
import torch
from texts import save_tokenizer, write_csv

from tutelage.config import build_job, read_recipe
from tutelage.data.arrays import load_arrays
from tutelage.data.cells import Cells, text_of
from tutelage.data.flags import FlagLabels
from tutelage.data.labels import ClassLabels
from tutelage.data.text import load_text
from tutelage.data.values import ValueLabels
from tutelage.errors import ConfigError, DataError
from tutelage.tasks import TASKS


def cells(**columns):
    return Cells(columns, lambda row: f"file.csv, row {row + 2}", "data.label_column")


def arrays(folder, labels, test_labels=None):
    for name, of_part in (
        ("train", labels),
        ("test", labels if test_labels is None else test_labels),
    ):
        (folder / name).mkdir(parents=True)
        np.save(folder / name / "inputs.npy", np.zeros((len(of_part), 3), dtype=np.float32))
        np.save(folder / name / "labels.npy", np.asarray(of_part))
    return folder


def test_numbers_of_an_array_are_values_where_the_task_is_regression(tmp_path):
    splits = load_arrays(arrays(tmp_path / "a", [0.5, -2.0, 7.25]), kind=ValueLabels())
    assert splits.class_names == ("0",)
    assert splits.train.fetch(torch.tensor([2, 0]))[1].tolist() == [[7.25], [0.5]]


def test_rows_of_an_array_are_flags_where_the_task_is_multi_label(tmp_path):
    rows = np.array([[0, 1], [1, 1], [0, 0]], dtype=np.uint8)
    splits = load_arrays(arrays(tmp_path / "a", rows), kind=FlagLabels())
    assert splits.class_names == ("0", "1")
    labels = splits.train.fetch(torch.tensor([1, 0]))[1]
    assert labels.dtype == torch.float32
    assert labels.tolist() == [[1, 1], [0, 1]]


def test_arrays_whose_labels_do_not_fit_are_refused(tmp_path):
    wide = arrays(tmp_path / "wide", [[0.5, 1.0]], [[0.5, 1.0, 2.0]])
    with pytest.raises(DataError, match="3 labels a sample, but those of train have 2"):
        load_arrays(wide, kind=ValueLabels())
    twos = arrays(tmp_path / "twos", [[0, 1], [2, 1]])
    with pytest.raises(DataError, match=r"labels\.npy, from row 0: sample 1 has the label 2"):
        load_arrays(twos, kind=FlagLabels())
    with pytest.raises(ConfigError, match=r"data\.num_classes: 5, but .* holds 1 labels"):
        load_arrays(arrays(tmp_path / "b", [0.5, 1.5]), kind=ValueLabels(), num_classes=5)
    with pytest.raises(DataError, match=r"sample 1 has the label nan"):
        load_arrays(arrays(tmp_path / "c", [0.5, np.nan]), kind=ValueLabels())


def test_columns_become_values_in_their_order():
    names, labels = ValueLabels().read(
        {
            "train": cells(height=["1.5", "2"], width=[3, -1e-3]),
            "test": cells(height=[0], width=["4"]),
        }
    )
    assert names == ("height", "width")
    assert labels["train"].equal(torch.tensor([[1.5, 3], [2, -1e-3]]))
    assert labels["test"].tolist() == [[0, 4]]


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("tall", "row 3: 'height' is 'tall', no number. Name a column of numbers"),
        ("3,14", "row 3: 'height' is '3,14', no number. Write a point"),
        ("1_000", "row 3: 'height' is '1_000', no number"),
        ("", "row 3: 'height' is empty"),
        ("NaN", "row 3: 'height' is empty"),
        (None, "row 3: 'height' is empty"),
        (float("nan"), "row 3: 'height' is empty"),
        (float("inf"), "row 3: the cell is inf"),
        ("inf", "row 3: 'height' is 'inf', no number"),
        ([1, 2], "row 3: the cell holds a list"),
    ],
)
def test_a_cell_that_is_no_number_is_refused_by_its_row(cell, why):
    with pytest.raises(DataError, match=why):
        ValueLabels().read({"train": cells(height=["1", cell])})


def test_columns_become_flags_in_their_order():
    names, labels = FlagLabels().read(
        {"train": cells(action=["0", "1", True], drama=["true", "False", 1.0])}
    )
    assert names == ("action", "drama")
    assert labels["train"].tolist() == [[0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (["0", "2"], "row 3: 'action' is '2', neither 0 nor 1"),
        (["0", "yes"], "row 3: 'action' is 'yes', neither 0 nor 1"),
        (["0", ""], "row 3: 'action' is empty"),
        (["1", "1"], "'action' is 1 in every row of the training part"),
    ],
)
def test_a_cell_that_is_no_flag_is_refused(column, why):
    with pytest.raises(DataError, match=why):
        FlagLabels().read({"train": cells(action=column)})


def test_classes_come_from_one_column_and_are_numbered_by_the_training_part():
    names, labels = ClassLabels().read(
        {"train": cells(kind=["b", "a", "b"]), "test": cells(kind=["a"])}
    )
    assert names == ("a", "b")
    assert labels["train"].tolist() == [1, 0, 1]
    assert labels["test"].tolist() == [0]
    with pytest.raises(ConfigError, match=r"data\.label_column: 2 columns \(kind, other\)"):
        ClassLabels().read({"train": cells(kind=["b"], other=["a"])})


@pytest.mark.parametrize(
    ("cell", "name"),
    [("007", "007"), ("1.0", "1"), (1.0, "1"), ("1.5", "1.5")],
)
def test_a_category_has_one_name_however_it_is_written(cell, name):
    assert text_of(cell) == name


def test_texts_take_the_labels_of_the_task(tmp_path):
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    rows = [(f"w{n} good", str(n / 2), str(n % 2)) for n in range(20)]
    file = write_csv(tmp_path / "rated.csv", rows, header="text,rating,funny")
    splits = load_text(file, str(tokenizer), label_column="rating", kind=ValueLabels())
    assert splits.class_names == ("rating",)
    _, labels = splits.train.fetch(torch.arange(3))
    assert labels.shape == (3, 1)
    assert labels.dtype == torch.float32
    flags = load_text(file, str(tokenizer), label_column=["funny"], kind=FlagLabels())
    assert flags.class_names == ("funny",)
    with pytest.raises(ConfigError, match=r"data\.transfer: its labels are classes"):
        load_text(file, str(tokenizer), label_column="rating", kind=ValueLabels(), transfer=[file])


@pytest.mark.parametrize("task", ["regression", "multi_label"])
def test_data_that_have_classes_alone_are_refused_for_other_tasks(tmp_path, task):
    path = tmp_path / "r.yaml"
    path.write_text(
        f"{{task: {task}, data: {{kind: digits}}, output: o, student: {{model: mlp}}, "
        "teacher: {model: mlp, training: {}}}",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match="data kind 'digits': its labels are classes"):
        build_job(read_recipe(path))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_says_how_labels_of_columns_are_read(name):
    assert callable(TASKS[name].label_kind.read)
