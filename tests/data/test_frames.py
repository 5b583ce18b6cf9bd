"""Tables: columns, what is fitted on the training rows, what is said and what is refused."""

import json

import numpy as np
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

from tutelage.data.cells import Cells
from tutelage.data.columns import ColumnSettings, fit_columns
from tutelage.data.frames import load_table
from tutelage.data.labels import ClassLabels
from tutelage.data.values import ValueLabels
from tutelage.deploy import example
from tutelage.errors import ConfigError, DataError, UnknownNameError

HEADER = "size,weight,colour,price"


def rows(count, seed=0):
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        size, colour = generator.uniform(1, 9), generator.choice(["red", "green", "blue"])
        weight = "" if generator.random() < 0.2 else f"{10 * size + generator.normal():.3f}"
        price = 3 * size + (colour == "red") * 5 + generator.normal()
        found.append([f"{size:.3f}", weight, str(colour), f"{price:.4f}"])
    return found


def write(path, table, header=HEADER):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(row) for row in table)]) + "\n", encoding="utf-8")
    return path


def folder(path, train, test, header=HEADER):
    write(path / "train.csv", train, header)
    write(path / "valid.csv", test, header)
    write(path / "test.csv", test, header)
    return path


def load(path, target="price", kind=None, **settings):
    return load_table(path, target, kind=kind or ValueLabels(), **settings)


def cells(**columns):
    return Cells(columns, lambda row: f"t.csv, row {row + 2}", "data.columns")


def encoder_of(settings=None, **columns):
    return fit_columns(cells(**columns), settings or ColumnSettings(missing=("", "NA")))


def test_inputs_are_those_of_scikit_learns_own_preprocessing(tmp_path):
    train, test = rows(60), rows(20, seed=1)
    splits = load(folder(tmp_path / "t", train, test))

    def columns(table):
        return np.array([[float(r[0]), float(r[1] or "nan"), r[2]] for r in table], dtype=object)

    def numbers():
        return make_pipeline(
            SimpleImputer(strategy="median"), MinMaxScaler(clip=True), StandardScaler()
        )

    whole = ColumnTransformer(
        [
            ("size", numbers(), [0]),
            ("weight", numbers(), [1]),
            ("gap", SimpleImputer(strategy="constant", fill_value=0, add_indicator=True), [1]),
            ("colour", OneHotEncoder(sparse_output=False), [2]),
        ]
    )
    whole.fit(columns(train))
    wanted = np.delete(whole.transform(columns(test)).astype(float), 2, axis=1)
    given, _ = splits.test.fetch(torch.arange(20))
    np.testing.assert_allclose(given.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_what_is_fitted_does_not_know_the_test_rows(tmp_path):
    train = rows(40)
    one = load(folder(tmp_path / "one", train, rows(10, seed=1)))
    far = [["900", "9000", "violet", "1"]] * 10
    other = load(folder(tmp_path / "other", train, far))
    assert one.inputs.encoding == other.inputs.encoding
    assert one.train.fingerprint == other.train.fingerprint
    assert "10 valid rows, 10 test rows with a category that no training row has" in str(
        other.notes
    )


def test_the_delivered_example_encodes_rows_as_the_training_did(tmp_path):
    table = rows(60)
    table[3][2] = "  red "
    splits = load(folder(tmp_path / "t", table, rows(20, seed=1)), log=["size"])
    how = json.loads(json.dumps(splits.inputs.encoding))
    read = example.read_rows(str(tmp_path / "t" / "test.csv"))
    encoded = example.encode_rows(read, how, "test.csv")
    given, _ = splits.test.fetch(torch.arange(20))
    np.testing.assert_array_equal(encoded, given.numpy())
    one = splits.test.row(0)
    np.testing.assert_array_equal(
        example.encode_rows(example.read_rows(json.dumps(one)), how, "r")[0], given[0].numpy()
    )


def test_every_cell_is_encoded_alike_here_and_in_the_example(capsys):
    given = {
        "number": ["1", "2.50", " 3e1 ", "", None, 4, 2.5, "NA", "-.5"],
        "code": ["007", "7", "7.0", 7, 7.0, True, None, "e\u0301", "NA"],
        "rare": ["a", "a", "a", "b", "b", "c", "d", "", "a"],
    }
    settings = ColumnSettings(missing=("", "NA"), categories=("code",), max_categories=3)
    encoder, _ = encoder_of(settings, **given)
    others = {"number": ["9", "", "1"], "code": ["x", "007", ""], "rare": ["z", "b", None]}
    how = json.loads(json.dumps(encoder.describe()))
    for columns in (given, others):
        table = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        here = encoder.encode(cells(**columns))
        np.testing.assert_array_equal(example.encode_rows(table, how, "t"), here)
    assert encoder.columns[1].categories == ("7", "é")


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"a": ["1", "2", "x", "3"]}, r"row 4: 'a' is 'x', among 3 numbers.*data\.missing"),
        ({"a": ["1,5", "2,5", "3,0"]}, r"row 2: 'a' is '1,5'\. Write numbers with a decimal point"),
        ({"a": ["1,500", "2,500", "7"]}, r"row 2: 'a' is '1,500'\. Write numbers"),
        ({"a": [1.0, float("inf")]}, r"row 3: the cell is inf"),
        ({"a": [[1], [2]]}, r"row 2: the cell holds a list"),
        ({"a": ["1.7e308", "1.7e308", "1.6e308"]}, r"column 'a': its numbers are too large"),
        ({"a": ["", "NA", ""]}, r"no input column is left\. Column 'a' was left out: every"),
        ({"a": ["1", "1", "1"]}, r"was left out: every training row has '1'"),
    ],
)
def test_a_column_that_cannot_be_taken_is_refused_by_its_row(columns, why):
    with pytest.raises(DataError, match=why):
        encoder_of(**columns)


def test_what_is_filled_flagged_and_left_out_is_said():
    names = [f"name {n}" for n in range(80)]
    encoder, notes = encoder_of(
        id=[str(n) for n in range(1, 81)],
        name=names,
        empty=[""] * 80,
        size=["", *[str(n % 7) for n in range(79)]],
        town=[str(n) if n > 70 else "a" for n in range(80)][:70] + ["b"] * 10,
    )
    said = " ".join(notes)
    assert [column.name for column in encoder.columns] == ["id", "size", "town"]
    assert "'id' numbers the rows" in said
    assert "'name' was left out: it has 80 different texts in 80 rows" in said
    assert "'empty' was left out: every training row lacks it" in said
    assert "'size' lacks 1 of 80 training rows: filled with 3, and flagged" in said
    assert notes[0].startswith("2 columns of numbers and 1 of categories become 5 inputs")


def test_rare_categories_share_a_slot_which_unknown_ones_take():
    town = ["a"] * 5 + ["b"] * 4 + ["c"] * 3 + ["d"] * 2 + ["e"]
    encoder, notes = encoder_of(ColumnSettings(max_categories=3), town=town)
    assert encoder.columns[0].categories == ("a", "b")
    assert "5 categories: the 2 most frequent have a slot each, the 3 others share one" in str(
        notes
    )
    assert encoder.encode(cells(town=["b", "e", "unknown"])).tolist() == [
        [0, 1, 0], [0, 0, 1], [0, 0, 1],
    ]  # fmt: skip


@pytest.mark.parametrize("log", [(), ("a",)])
def test_numbers_outside_the_training_range_are_taken_for_its_ends(log, capsys):
    encoder, _ = encoder_of(ColumnSettings(missing=("",), log=log), a=["1", "2", "3", ""])
    here = encoder.encode(cells(a=["3", "1e300", "3.1", "1", "-1e300", ""]))
    assert (here[1] == here[0]).all()
    assert (here[2] == here[0]).all()
    assert (here[4] == here[3]).all()
    how = json.loads(json.dumps(encoder.describe()))
    given = [{"a": a} for a in ("3", "1e300", "3.1", "1", "-1e300", "")]
    np.testing.assert_array_equal(example.encode_rows(given, how, "t"), here)
    said = capsys.readouterr().err
    assert "t, row 3: 'a' is 3.1, outside the training rows; taken for 3.\n" in said
    assert said.count("\n") == 3
    with pytest.raises(DataError, match=r"row 2: 'a' is 'x', but the training rows hold numbers"):
        encoder.encode(cells(a=["x"]))


def test_numbers_outside_the_training_range_are_counted(tmp_path):
    far = [["900", "20", "red", "1"], ["-3", "20", "red", "1"], ["2", "20", "red", "1"]]
    train = [["1", "20", "red", "1"], ["9", "30", "blue", "2"]] * 9
    notes = str(load(folder(tmp_path / "t", train, far)).notes)
    assert (
        "Column 'size': 2 valid rows, 2 test rows with numbers outside the range of the training "
        "rows (1 to 9), taken for its nearest end." in notes
    )
    assert "'weight': " not in notes


def test_every_class_gives_its_share_of_the_parts_held_out(tmp_path):
    names = ["rare"] * 20 + ["often"] * 180
    table = [[f"{n}.5", "", name, "1"] for n, name in enumerate(names)]
    for seed in range(5):
        splits = load(write(tmp_path / "one.csv", table), "colour", ClassLabels(), seed=seed)
        rare = splits.class_names.index("rare")
        assert [int((part.labels == rare).sum()) for part in (splits.valid, splits.test)] == [2, 2]


@pytest.mark.parametrize(
    ("settings", "error", "why"),
    [
        ({"target": "cost"}, UnknownNameError, r"data\.target\)"),
        ({"leave_out": ["sise"]}, UnknownNameError, r"data\.leave_out"),
        ({"columns": ["size", "price"]}, ConfigError, r"data\.columns: 'price' is the target"),
        ({"leave_out": ["size"], "log": ["size"]}, ConfigError, r"data\.log: 'size' is no input"),
        ({"log": ["colour"]}, DataError, r"data\.log: 'colour' is no column of numbers"),
        ({"target": "colour"}, DataError, r"'colour' is '\w+', no number"),
        ({"path": "nowhere.csv"}, DataError, r"data\.path: nowhere\.csv: no such file"),
    ],
)
def test_settings_that_do_not_fit_the_table_are_refused(tmp_path, settings, error, why):
    path = folder(tmp_path / "t", rows(20), rows(5))
    with pytest.raises(error, match=why):
        load(**{"path": path, "target": "price", **settings})


def test_a_missing_target_is_refused_by_its_row(tmp_path):
    train = rows(20)
    train[4][3] = "NA"
    with pytest.raises(DataError, match=r"train\.csv, row 6: 'price' is empty"):
        load(folder(tmp_path / "t", train, rows(5)))


def test_one_class_alone_is_refused(tmp_path):
    path = folder(tmp_path / "t", [[*row[:2], "red", row[3]] for row in rows(20)], rows(5))
    with pytest.raises(DataError, match=r"data\.target: all training samples have the label 'red'"):
        load(path, target="colour", kind=ClassLabels())


@pytest.mark.parametrize(
    ("leak", "target", "kind"),
    [
        (lambda row: row[3], "price", ValueLabels()),
        (lambda row: str(2.54 * float(row[3]) - 1), "price", ValueLabels()),
        (lambda row: row[2], "colour", ClassLabels()),
        (lambda row: {"red": "1", "green": "2", "blue": "3"}[row[2]], "colour", ClassLabels()),
    ],
)
def test_a_column_that_is_the_target_is_pointed_out(tmp_path, leak, target, kind):
    def leaky(table):
        return [[*row, leak(row)] for row in table]

    path = folder(tmp_path / "t", leaky(rows(40)), leaky(rows(9)), f"{HEADER},copy")
    assert f"'copy' says what the target {target!r} says" in str(load(path, target, kind).notes)
    clean = folder(tmp_path / "c", rows(40), rows(9))
    assert "says what the target" not in str(load(clean, target, kind).notes)


def test_one_file_is_split_and_other_formats_hold_the_same(tmp_path):
    table = rows(50)
    splits = load(write(tmp_path / "one.csv", table))
    assert [len(s) for s in (splits.train, splits.valid, splits.test)] == [41, 4, 5]
    names = HEADER.split(",")
    objects = [dict(zip(names, row, strict=True)) for row in table]
    for one in objects:
        one |= {n: float(one[n]) if one[n] else None for n in ("size", "weight", "price")}
    lines = tmp_path / "one.jsonl"
    lines.write_text("\n".join(map(json.dumps, objects)), encoding="utf-8")
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.Table.from_pylist(objects), tmp_path / "one.parquet")
    for other in (lines, tmp_path / "one.parquet"):
        assert load(other).train.fingerprint == splits.train.fingerprint


def test_a_row_is_shown_as_it_stands_in_the_table(tmp_path):
    train = rows(20)
    train[0] = ["1.500", "", "red", "4"]
    splits = load(folder(tmp_path / "t", train, rows(5)))
    assert splits.train.text(0) == "size = 1.500, weight = —, colour = red"
