"""Texts without labels, from every kind of file."""

import json

import pytest
import torch
from texts import save_tokenizer, snippets, write_csv

from tutelage.data.unlabelled import load_unlabelled
from tutelage.errors import DataError, UnknownNameError

pytest.importorskip("transformers")
TEXTS = [text for text, _ in snippets(40)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return str(save_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def write(path, texts=TEXTS):
    """Texts in the kind of file that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".csv":
            write_csv(path, [(text,) for text in texts], header="text")
        case ".jsonl":
            path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
        case ".parquet":
            parquet = pytest.importorskip("pyarrow.parquet")
            pa = pytest.importorskip("pyarrow")
            parquet.write_table(pa.table({"text": list(texts)}), path)
        case _:
            path.write_text("\n".join(texts) + "\n")
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.txt"])
def test_every_kind_of_file_gives_the_same_texts(tmp_path, tokenizer, name):
    splits = load_unlabelled(write(tmp_path / name), tokenizer)
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (32, 4, 4)
    assert splits.class_names == ()
    inputs, labels = splits.train.fetch(torch.arange(32))
    assert labels is None
    assert inputs["input_ids"][:, 0].unique().tolist() == [2]  # [CLS]
    parts = [list(part.texts) for part in (splits.train, splits.valid, splits.test)]
    assert sorted([text for part in parts for text in part]) == sorted(TEXTS)
    again = load_unlabelled(write(tmp_path / "b.csv"), tokenizer)
    assert again.train.fingerprint == splits.train.fingerprint


def test_more_texts_are_trained_on_and_given_parts_are_kept(tmp_path, tokenizer):
    for part, texts in (("train", TEXTS[:20]), ("valid", TEXTS[20:25]), ("test", TEXTS[25:])):
        write(tmp_path / f"data/{part}.csv", texts)
    more = write(tmp_path / "more.txt", TEXTS[:7])
    splits = load_unlabelled(tmp_path / "data", tokenizer, transfer=[more])
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (27, 5, 15)
    assert splits.labelled is None


def test_what_is_cut_is_said(tmp_path, tokenizer):
    splits = load_unlabelled(write(tmp_path / "a.txt"), tokenizer, max_length=4)
    assert int(splits.train.lengths.max()) == 4
    assert "of 40 (" in splits.notes[0]
    assert "Texts truncated to 4 tokens (data.max_length): " in splits.notes[0]


def test_an_unknown_column_is_named_with_those_that_are_there(tmp_path, tokenizer):
    path = write(tmp_path / "a.csv")
    with pytest.raises(UnknownNameError, match=r"column of .*a.csv \(data.text_column\) 'txet'"):
        load_unlabelled(path, tokenizer, text_column="txet")
    with pytest.raises(UnknownNameError, match=r"\(data.transfer_column\) 'no'"):
        load_unlabelled(path, tokenizer, transfer=[path], transfer_column="no")


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_text_is_named_by_its_row(tmp_path, tokenizer, empty):
    rows = [{"text": text} for text in [*TEXTS[:20], empty, *TEXTS[20:]]]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"a.jsonl, row 21: the text is empty. Remove the row"):
        load_unlabelled(path, tokenizer)


def test_parts_too_small_to_be_compared_are_refused(tmp_path, tokenizer):
    with pytest.raises(DataError, match="the valid part has 2 texts; at least 3 are compared"):
        load_unlabelled(write(tmp_path / "a.txt"), tokenizer, valid_fraction=0.05)


def test_a_transfer_file_that_is_not_there_is_named(tmp_path, tokenizer):
    with pytest.raises(DataError, match=r"data.transfer: .*none.csv: no such file or folder"):
        load_unlabelled(write(tmp_path / "a.txt"), tokenizer, transfer=[str(tmp_path / "none.csv")])
