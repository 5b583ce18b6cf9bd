import math
from dataclasses import replace

import pytest
import torch

from tutelage.data.scan import FEW, SPREAD, longest_sample, parts_of, scan
from tutelage.data.sources import DatasetSource, Splits, SubsetSource, TensorSource
from tutelage.data.tokens import TokenSource
from tutelage.errors import DataError

LABELS = torch.arange(3000) % 3


def inputs():
    return torch.rand(3000, 2, 4)


def test_a_scan_counts_the_samples_of_each_class():
    found = scan(TensorSource(inputs(), LABELS), "train", 4)
    assert (found.num_samples, found.num_read, found.has_labels) == (3000, 3000, True)
    assert found.counts is not None
    assert found.counts.tolist() == [1000, 1000, 1000, 0]
    without = scan(TensorSource(inputs()), "test", 4)
    assert not without.has_labels
    assert without.counts is None


@pytest.mark.parametrize(
    ("value", "word"), [(math.nan, "NaN"), (math.inf, "infinity"), (-math.inf, "infinity")]
)
def test_a_value_that_is_not_finite_names_part_and_sample(value, word):
    wrong = inputs()
    wrong[2900, 1, 3] = value
    with pytest.raises(DataError, match=f"test data: sample 2900 holds {word}"):
        scan(TensorSource(wrong, LABELS), "test", 3)


def test_a_label_that_is_no_class_names_part_and_sample():
    with pytest.raises(DataError, match="valid data: Sample 2 has label 2; allowed are 0 to 1"):
        scan(TensorSource(inputs(), LABELS), "valid", 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_part_of_a_data_set_is_read_whole_by_workers_too(workers):
    items = DatasetSource([(row, 0) for row in torch.rand(50, 2)])
    found = scan(SubsetSource(items, torch.arange(40)), "test", 3, workers=workers)
    assert found.counts is not None
    assert found.counts.tolist() == [40, 0, 0]


def test_of_many_slow_training_samples_some_are_read():
    class Many:
        def __len__(self):
            return FEW + 1

        def __getitem__(self, number):
            return torch.zeros(1), 0

    assert scan(DatasetSource(Many()), "train", 2).num_read == SPREAD


def test_the_longest_text_of_all_parts_is_found():
    def texts(*lengths):
        return TokenSource([[1] * length for length in lengths], [0] * len(lengths))

    splits = Splits(texts(3, 2), texts(5, 1), texts(2, 9, 4), ("a", "b"))
    assert longest_sample(splits) == ("test", 1, 9)
    assert list(parts_of(splits)) == ["train", "valid", "test"]
    assert longest_sample(replace(splits, test=texts(1), valid=None)) == ("train", 0, 3)
    plain = TensorSource(inputs(), LABELS)
    assert longest_sample(Splits(plain, None, plain, ("a", "b"))) is None
