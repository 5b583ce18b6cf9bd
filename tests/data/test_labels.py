import math

import numpy as np
import pytest
import torch

from tutelage.data.labels import class_name, class_names, class_numbers
from tutelage.data.sources import DatasetSource, TensorSource
from tutelage.errors import DataError

WHOLE = {
    "int64": torch.tensor([2, 0, 1]),
    "uint8": torch.tensor([2, 0, 1], dtype=torch.uint8),
    "whole floats": torch.tensor([2.0, 0.0, 1.0]),
    "half": torch.tensor([2.0, 0.0, 1.0], dtype=torch.bfloat16),
    "column": torch.tensor([[2], [0], [1]]),
    "list": [2, 0, 1],
    "list of lists": [[2], [0], [1]],
    "numpy": np.array([2, 0, 1], dtype=np.uint16),
    "big endian": np.array([2, 0, 1], dtype=">i8"),
    "objects": np.array([2, np.int64(0), 1.0], dtype=object),
    "scalars": [torch.tensor(2), np.int8(0), 1],
}
WRONG = {
    "floats": (torch.tensor([0.0, 1.7]), r"sample 1: the label is 1\.7"),
    "nan": (torch.tensor([0.0, math.nan]), "sample 1: the label is nan"),
    "inf": (torch.tensor([0.0, math.inf]), "sample 1: the label is inf"),
    "minus one": (torch.tensor([0, -1]), "sample 1: the label is -1, which means 'no label'"),
    "minus hundred": (np.array([0, -100]), "sample 1: the label is -100, which means"),
    "negative": ([0, -3], "sample 1: the label is -3. Number the classes from 0"),
    "one-hot": (torch.eye(3)[[0, 2]], r"one-hot, of shape \(2, 3\).*labels\.argmax\(1\)"),
    "several": (torch.tensor([[0.0, 1.0], [1.0, 1.0]]), "several numbers a sample"),
    "probabilities": (torch.tensor([[0.3, 0.7], [1.0, 0.0]]), "several numbers a sample"),
    "deep": (torch.zeros(2, 2, 2), "several numbers a sample"),
    "one number": (torch.tensor(1), "the single number 1"),
    "ragged": ([[0], [1, 2]], "lists of different lengths"),
    "strings": (["0", "1"], "sample 0: the label is '0', not a whole number"),
    "none": ([0, None], "sample 1: the label is None"),
    "complex": (torch.tensor([0j, 1j]).numpy(), "sample 0: the label is 0j"),
}


@pytest.mark.parametrize("labels", WHOLE.values(), ids=WHOLE)
def test_whole_numbers_of_every_type_are_class_numbers(labels):
    found = class_numbers(labels, "labels")
    assert found.dtype == torch.int64
    assert found.tolist() == [2, 0, 1]


def test_booleans_are_two_classes():
    assert class_numbers([True, False], "labels").tolist() == [1, 0]


@pytest.mark.parametrize(("labels", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_class_number_is_refused_by_name_in_tensors(labels, message):
    with pytest.raises(DataError, match=message):
        TensorSource(torch.zeros(2, 4), labels)


@pytest.mark.parametrize("name", ["floats", "nan", "inf", "minus one", "negative", "strings"])
def test_what_is_no_class_number_is_refused_by_name_in_data_sets(name):
    labels, message = WRONG[name]
    message = message.replace("sample 1", "Sample 1").replace("sample 0", "Sample 0")
    with pytest.raises(DataError, match=message):
        DatasetSource(list(zip(torch.zeros(2, 4), labels, strict=True)))


@pytest.mark.parametrize("label", [torch.eye(3)[1], [0, 1], np.array([0.2, 0.8])])
def test_several_numbers_as_one_label_are_refused_in_data_sets(label):
    with pytest.raises(DataError, match=r"one-hot or multi-label|the label is a list"):
        DatasetSource([(torch.zeros(2), label)])


def test_a_label_that_some_samples_lack_is_refused_by_name():
    with pytest.raises(DataError, match="Sample 1: it has no label, unlike"):
        DatasetSource([(torch.zeros(2), 0), (torch.zeros(2), None)])


@pytest.mark.parametrize(("inputs", "labels"), [(3, 2), (2, 3), (0, 0)])
def test_each_input_needs_one_label(inputs, labels):
    with pytest.raises(DataError, match=r"Each sample needs one of both|it is empty"):
        TensorSource(torch.zeros(inputs, 2), torch.zeros(labels))


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("cat", "cat"),
        (" cat ", "cat"),
        ("Ka\u0308se", "K\u00e4se"),
        (3, "3"),
        (3.0, "3"),
        ("3.0", "3"),
        (np.int64(3), "3"),
        (0.5, "0.5"),
        (True, "True"),
        ("none (of these)", "none (of these)"),
        ("[PAD]", "[PAD]"),
    ],
)
def test_a_class_has_one_name_however_it_was_written(label, name):
    assert class_name(label, "row 1") == name


@pytest.mark.parametrize("label", [None, "", "  ", math.nan, "nan", np.float64("nan")])
def test_an_empty_label_is_refused(label):
    with pytest.raises(DataError, match="row 7: the label is empty"):
        class_name(label, "row 7")


@pytest.mark.parametrize(
    "label",
    [[0, 1], (0,), {"a": 1}, np.array([0, 1]), "[0, 1]", "[0 1]", "['a', 'b']", "[]", "(0, 1)"],
)
def test_a_list_is_no_class_even_where_it_was_saved_as_text(label):
    with pytest.raises(DataError, match=r"row 7: the label .*list|row 7: .*several labels"):
        class_name(label, "row 7")


def test_numbers_come_by_size_before_names_by_letters():
    names = [str(number) for number in range(12)] + ["2.5", "b", "a10", "a2", "-3", "1e1"]
    found = class_names(names, "data")
    assert found[:5] == ["-3", "0", "1", "2", "2.5"]
    assert found[-3:] == ["a10", "a2", "b"]
    numbers = [float(name) for name in found[:-3]]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("names", [["0", "1", "-1"], ["a", "b", "-1"], ["0", "1", "-100"]])
def test_what_stands_for_no_label_is_no_class(names):
    with pytest.raises(DataError, match=r"data\.label_column: -1(00)? means 'no label'"):
        class_names(names, "data.label_column")


@pytest.mark.parametrize("names", [["1", "-1"], ["-2", "-1", "0", "1", "2"]])
def test_minus_one_is_a_class_where_it_plainly_is(names):
    assert "-1" in class_names(names, "data.label_column")


def test_values_are_no_classes():
    with pytest.raises(DataError, match=r"30 different numbers in 30 rows.*are values"):
        class_names([f"{number / 7:.4f}" for number in range(1, 31)], "data.label_column")
    assert len(class_names(["0.5", "1", "1.5"] * 9, "data.label_column")) == 3
