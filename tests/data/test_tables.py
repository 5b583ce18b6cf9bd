import json
import os

import pytest

from tutelage.data.tables import read_class_folders, read_table
from tutelage.data.text import read_parts
from tutelage.errors import DataError, TutelageError, UnknownNameError

ROWS = [("a film", "good"), ('say "no", twice', "bad"), ("two\nlines", "good")]


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"])
def test_every_kind_of_file_gives_the_same_columns(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    if suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = {"text": [t for t, _ in ROWS], "label": [name for _, name in ROWS]}
        parquet.write_table(pyarrow.table(columns), path)
    elif "json" in suffix:
        rows = [json.dumps({"text": text, "label": label}) for text, label in ROWS]
        write(path, "\n".join(rows) + "\n\n")
    else:
        import csv

        with path.open("w", newline="") as file:
            delimiter = "," if suffix == ".csv" else "\t"
            csv.writer(file, delimiter=delimiter).writerows([("text", "label"), *ROWS])
    table = read_table(path)
    assert len(table) == 3
    assert list(zip(table.columns["text"], table.columns["label"], strict=True)) == ROWS


def test_plain_text_is_one_text_a_line_and_empty_lines_are_none(tmp_path):
    path = write(tmp_path / "more.txt", "one\n\n  \ntwo words\n")
    assert read_table(path).columns == {"text": ["one", "two words"]}


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    path = tmp_path / "excel.csv"
    path.write_bytes("text,label\nja,1\n".encode("utf-8-sig"))
    assert list(read_table(path).columns) == ["text", "label"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\none,1\ntwo\n", r"a\.csv, line 3: 1 field, but the first .* 2 col"),
        ("a.csv", "text,text\none,1\n", r"a\.csv: the first line must name the columns, each once"),
        ("a.csv", "", r"a\.csv: the first line must name the columns"),
        ("a.csv", 'text,label\n"one,1\n', r"a\.csv: cannot be read: Error"),
        ("a.jsonl", '{"text": "one"}\nnothing\n', r"a\.jsonl, line 2: no JSON"),
        ("a.jsonl", "[1]\n", r"a\.jsonl, line 1: a list, not an object"),
        ("a.jsonl", '{"text": "a", "l": 1}\n{"text": "b"}\n', r"a\.jsonl, row 2: it has no 'l'"),
        ("a.parquet", "no parquet", r"a\.parquet: cannot be read: Arrow"),
    ],
)
def test_a_damaged_file_is_one_error_with_its_place(tmp_path, name, content, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path / name, content))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "latin.csv"
    path.write_bytes("text,label\ncafé,1\n".encode("latin-1"))
    with pytest.raises(
        DataError, match=r"latin\.csv, line 2: .* is not UTF-8 \(perhaps Windows-1252\)"
    ):
        read_table(path)


def test_an_unknown_kind_or_column_says_what_is_known(tmp_path):
    with pytest.raises(UnknownNameError, match=r"Unknown kind of text file '\.xls'.*Known: \.csv"):
        read_table(write(tmp_path / "a.xls", ""))
    table = read_table(write(tmp_path / "a.csv", "text,label\none,1\n"))
    with pytest.raises(UnknownNameError, match=r"a\.csv \(data\.text_column\) 'txt'.*mean 'text'"):
        table.column("txt", "data.text_column")
    assert table.place(0).endswith("a.csv, row 2")


def test_folders_of_classes_hold_one_text_a_file(tmp_path):
    for label, text in (("pos", "fine"), ("neg", "poor"), ("neg", "bad")):
        folder = tmp_path / label
        folder.mkdir(exist_ok=True)
        write(folder / f"{text}.txt", text)
    (tmp_path / ".hidden").mkdir()
    table = read_class_folders(tmp_path)
    assert table.columns == {"text": ["bad", "poor", "fine"], "label": ["neg", "neg", "pos"]}
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: the class has no \.txt file"):
        read_class_folders(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "txt"])
def test_files_that_say_their_encoding_are_read_in_it(tmp_path, encoding, suffix):
    content = {
        "csv": "text,label\ncaf\u00e9,1\n",
        "jsonl": '{"text": "caf\u00e9"}\n',
        "txt": "caf\u00e9\n",
    }
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path = tmp_path / f"a.{suffix}"
    path.write_bytes((mark + content[suffix]).encode(encoding))
    assert list(read_table(path).columns["text"]) == ["caf\u00e9"]


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_columns_may_be_parted_by_what_the_first_line_has(tmp_path, sign, suffix):
    rows = [f"text{sign} label", f'"one, two; three"{sign}1', f"four{sign}2"]
    table = read_table(write(tmp_path / f"a.{suffix}", "\n".join(rows)))
    assert table.columns == {"text": ["one, two; three", "four"], "label": ["1", "2"]}


def test_signs_in_texts_do_not_part_columns_where_the_usual_one_does(tmp_path):
    table = read_table(write(tmp_path / "a.csv", "text,label\none; two|three,1\n"))
    assert table.columns == {"text": ["one; two|three"], "label": ["1"]}


def test_what_has_no_end_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(TutelageError, match=r"pipe\.csv: is a pipe, a file is needed"):
        read_table(tmp_path / "pipe.csv")
    (tmp_path / "data" / "a").mkdir(parents=True)
    os.mkfifo(tmp_path / "data" / "a" / "pipe.txt")
    with pytest.raises(DataError, match=r"pipe\.txt: cannot be read: .*is a pipe"):
        read_class_folders(tmp_path / "data")
    with pytest.raises(DataError, match="/dev/zero is neither a file nor a folder"):
        read_parts("/dev/zero")
