"""Test samples that were trained on are counted and said."""

from dataclasses import replace

import pytest
import torch

from tutelage.data.overlap import SAME_NOTE, judged_on, num_shared, overlap_note
from tutelage.data.sources import DatasetSource, Splits, TensorSource
from tutelage.data.tokens import TokenSource


def splits_of(train, test):
    return Splits(train, None, test, ("a", "b"))


def test_rows_of_tensors_are_compared_without_their_labels():
    images = torch.randint(256, (6, 1, 4, 4), dtype=torch.uint8)
    train = TensorSource(images[:4], torch.zeros(4, dtype=torch.long))
    test = TensorSource(images[[5, 3, 3, 0]], torch.ones(4, dtype=torch.long))
    splits = splits_of(train, test)
    assert num_shared(splits) == 3
    (note,) = overlap_note(splits)
    assert note.startswith("Test samples that are also training data (or transfer data): 3 of 4.")


def test_nothing_is_said_where_none_is_shared():
    rows = torch.randn(6, 5)
    assert overlap_note(splits_of(TensorSource(rows[:4]), TensorSource(rows[4:]))) == []


def test_texts_are_compared_as_they_are_and_not_as_they_are_filled_up():
    train = TokenSource([[1, 2], [1, 2, 3], [5, 6, 7, 8]], [0, 0, 1], pad_id=3)
    test = TokenSource([[1, 2], [1, 2, 3, 3], [5, 6, 7, 8]], [0, 1, 1], pad_id=3)
    assert num_shared(splits_of(train, test)) == 2


@pytest.mark.parametrize("part", ["train", "test"])
def test_what_lies_on_disk_is_not_read_for_it(part):
    rows = torch.randn(3, 5)
    splits = splits_of(TensorSource(rows), TensorSource(rows))
    slow = DatasetSource([(row, 0) for row in rows])
    slow.fetch = pytest.fail
    splits = replace(splits, **{part: slow})
    assert num_shared(splits) is None
    assert overlap_note(splits) == []


def test_test_data_that_are_the_validation_data_are_known_by_what_they_hold():
    rows, labels = torch.randn(9, 5), torch.arange(9)
    apart, valid = TensorSource(rows[:5], labels[:5]), TensorSource(rows[5:], labels[5:])
    again = TensorSource(rows[5:].clone(), labels[5:].clone())
    for test in (valid, again):
        splits = Splits(apart, valid, test, ("a", "b"))
        assert judged_on(splits) == "validation"
        assert overlap_note(splits) == [SAME_NOTE]
    relabelled = TensorSource(rows[5:], labels[5:].flip(0))
    for test in (apart, relabelled):
        assert judged_on(Splits(apart, valid, test, ("a", "b"))) == "test"
    assert judged_on(splits_of(apart, valid)) == "test"


def test_other_samples_under_one_fingerprint_are_test_samples():
    # So are two folders whose uncompressed images have the same names and sizes.
    valid, test = TensorSource(torch.randn(4, 5)), TensorSource(torch.randn(4, 5))
    test.fingerprint = valid.fingerprint
    assert judged_on(Splits(TensorSource(torch.randn(4, 5)), valid, test, ())) == "test"


def test_samples_that_are_for_validation_too_are_called_so():
    images = torch.randint(256, (6, 1, 4, 4), dtype=torch.uint8)
    train, test = TensorSource(images[:4]), TensorSource(images[2:])
    same, note = overlap_note(replace(splits_of(train, test), valid=test))
    assert same == SAME_NOTE
    assert note.startswith(
        "Validation samples that are also training data (or transfer data): 2 of 4."
    )
