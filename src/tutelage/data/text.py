"""Texts with labels: from files, folders and data sets of `datasets` to tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tutelage.data.cells import Cells
from tutelage.data.labels import CLASS_LABELS, LabelKind, need_classes
from tutelage.data.sources import Splits, spread_classes
from tutelage.data.tables import (
    READERS,
    Table,
    class_folders,
    entries,
    read_class_folders,
    read_table,
)
from tutelage.data.tokenization import Tokenizing
from tutelage.errors import DataError, require
from tutelage.inputs.tokenizer import load_tokenizer
from tutelage.paths import hub_asked_once, resolve_path
from tutelage.types import UNLABELLED
from tutelage.wording import quantity

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "dev", "val"),
    "test": ("test",),
}
PURPOSE = "Reading texts"


Classes = Callable[["Examples"], Int[Tensor, " n"] | None]
"""The class of each example; None of examples without classes."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns to read.

    Attributes:
        text: Column of the text; for token tasks, of its words.
        label: Column of the labels: of the class, for tasks of tokens of the words' classes;
            several for several values or yes-or-no labels.
    """

    text: str = "text"
    label: str | tuple[str, ...] = "label"


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows of a table.

    Attributes:
        table: Where they stand.
        rows: Their numbers there.
        columns: Columns of text and label.
    """

    table: Table
    rows: Sequence[int]
    columns: Columns

    @property
    def texts(self) -> list[Any]:
        """The texts."""
        values = self.table.column(self.columns.text, "data.text_column")
        return [values[row] for row in self.rows]

    @property
    def labels(self) -> Sequence[Any]:
        """The labels of the one label column as they stand."""
        return next(iter(self.label_cells.columns.values()))

    @property
    def label_cells(self) -> Cells:
        """The label columns as they stand."""
        return self.cells(_several(self.columns.label), "data.label_column")

    def cells(self, names: Sequence[str], setting: str) -> Cells:
        """Some columns as they stand.

        Args:
            names: Names of the columns.
            setting: Where they were named, for messages.

        Raises:
            UnknownNameError: There is no such column.
        """
        columns = {name: self.table.column(name, setting) for name in names}
        rows = {name: [values[row] for row in self.rows] for name, values in columns.items()}
        return Cells(rows, self.place, setting)

    def place(self, number: int) -> str:
        """Location of an example, for messages."""
        return self.table.place(self.rows[number])


def load_text(  # noqa: PLR0913 - the keys of data in a recipe
    path: str | Path,
    tokenizer: str,
    text_column: str = "text",
    label_column: str | Sequence[str] = "label",
    max_length: int = 128,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    transfer: Sequence[str | Path] = (),
    transfer_column: str = "text",
    seed: int = 0,
    kind: LabelKind = CLASS_LABELS,
) -> Splits:
    """Load labelled texts as tokens.

    Args:
        path: A file (.csv, .tsv, .jsonl, .ndjson, .parquet); a folder with such files named train,
            valid and test; a folder with one subfolder of .txt files a class, or with train/,
            valid/ and test/ of that form; a folder that `datasets` saved; or a name on its hub.
        tokenizer: A folder, a `tokenizer.json`, or a name on the hub.
        text_column: Column of the texts.
        label_column: Column of the labels: of classes any text or whole numbers; several columns
            for several values or yes-or-no labels.
        max_length: Tokens of a text; what is longer is cut, counted and said.
        valid_fraction: Share of the training texts held out where there is no valid part.
        test_fraction: Share held out where there is no test part.
        transfer: More texts, without labels: the student learns from what the teacher says of
            them. Files as above, or .txt with one text a line.
        transfer_column: Column of their texts.
        seed: Random seed of the held-out parts.
        kind: What labels are.

    Raises:
        DataError: A file, a column, a text or a label cannot be used; the message says where.
        MissingExtraError: transformers is not installed.
    """
    if transfer:
        need_classes(kind, "data.transfer")
    columns = Columns(text_column, _several(label_column))
    tables = read_parts(path)
    parts = held_out_parts(tables, columns, valid_fraction, test_fraction, seed)
    cut = Tokenizing(load_tokenizer(tokenizer), max_length, tokenizer)
    return _labelled(parts, kind, cut, [transfer_table(p, transfer_column) for p in transfer])


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def read_parts(path: str | Path) -> dict[str, Table]:
    """The existing tables of a data set by part: train, valid, test.

    Raises:
        DataError: Nothing is there, or it holds no texts.
    """
    place = resolve_path(path)
    if place is None:
        return _from_hub(str(path))
    if place.is_file():
        return {"train": read_table(place)}
    if not place.is_dir():
        raise DataError(f"data.path: {place} is neither a file nor a folder. Give one of them.")
    if any((place / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        return _saved(place)
    return _from_folder(place)


def _from_folder(place: Path) -> dict[str, Table]:
    files = {file.stem: file for file in entries(place) if file.suffix in READERS}
    folders = {folder.name: folder for folder in class_folders(place)}
    of_files = {part: read_table(file) for part, file in _named(files).items()}
    if of_files:
        return _with_train(place, of_files)
    of_folders = _named(folders)
    if "train" in of_folders:
        return {part: read_class_folders(folder) for part, folder in of_folders.items()}
    if not folders:
        raise DataError(
            f"{place}: no texts. Allowed: files named train, valid, test ({', '.join(READERS)}), "
            "or one subfolder of .txt files a class."
        )
    return {"train": read_class_folders(place)}


def _named(things: Mapping[str, Path]) -> dict[str, Path]:
    """Tables whose names mean a part, by part."""
    return {
        part: things[name]
        for part, names in SPLIT_NAMES.items()
        for name in names
        if name in things
    }


def _with_train(place: str | Path, tables: dict[str, Table]) -> dict[str, Table]:
    if "train" not in tables:
        raise DataError(f"{place}: it has {', '.join(tables)}, but no train part. Add one.")
    return tables


def _saved(place: Path) -> dict[str, Table]:
    datasets = require("datasets", "text", PURPOSE)
    try:
        return _tables_of(datasets.load_from_disk(str(place)), str(place))
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{place}: cannot be read: {type(error).__name__}: {error}.") from error


def _from_hub(name: str) -> dict[str, Table]:
    datasets = require("datasets", "text", PURPOSE)
    try:
        with hub_asked_once(name):
            return _tables_of(datasets.load_dataset(name), name)
    except DataError:
        raise
    except Exception as error:  # no network, no such name, a data set that needs code, ...
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(
            f"data.path: {name}: no such file or folder, and the hub gives no data set of that "
            f"name ({reason}). Give a path; scripts/get-data {Path(name).name} may bring it."
        ) from error


def _tables_of(found: Any, origin: str) -> dict[str, Table]:
    """Tables of a data set of `datasets`, or of a dictionary of them."""
    parts = found if isinstance(found, Mapping) else {"train": found}
    given = {name: part for name, part in parts.items() if len(part)}
    named = {
        part: _named_classes(given[name], f"{origin} ({name})")
        for part, names in SPLIT_NAMES.items()
        for name in names
        if name in given
    }
    return _with_train(origin, named)


def _named_classes(part: Any, origin: str) -> Table:
    """A table with class numbers replaced by names, where it has them."""
    columns: dict[str, Sequence[Any]] = {}
    for name, feature in part.features.items():
        values = part[name][:]
        columns[name] = [_named_class(value, feature) for value in values]
    return Table(columns, origin)


def _named_class(value: Any, feature: Any) -> Any:
    """Name of a class number, or of each in a list; other values unchanged."""
    names = getattr(feature, "names", None)
    if names:
        return names[value] if value is not None and value >= 0 else None
    inside = getattr(feature, "feature", None)
    if isinstance(value, list) and getattr(inside, "names", None):
        return [_named_class(entry, inside) for entry in value]
    return value


def held_out_parts(
    tables: Mapping[str, Table],
    columns: Columns,
    valid_fraction: float,
    test_fraction: float,
    seed: int,
    classes: Classes = lambda _: None,
) -> dict[str, Examples]:
    """Examples of train, valid and test; missing parts are split off train.

    Args:
        tables: The parts that are there.
        columns: Which columns are read.
        valid_fraction: Share of the validation part.
        test_fraction: Share of the test part.
        seed: Of the parts split off.
        classes: By which parts that are split off get every class's share.

    Raises:
        DataError: A part is empty.
    """
    parts = {part: Examples(t, range(len(t)), columns) for part, t in tables.items()}
    for part, fraction in (("test", test_fraction), ("valid", valid_fraction)):
        if part not in parts:
            parts["train"], parts[part] = _hold_out(parts["train"], fraction, seed, classes)
    for part, examples in parts.items():
        if not examples.rows:
            raise DataError(f"{examples.table.origin}: the {part} part has no rows.")
    return parts


def _hold_out(
    examples: Examples, fraction: float, seed: int, classes: Classes
) -> tuple[Examples, Examples]:
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(examples.rows), generator=generator)
    of = classes(examples)
    order = (shuffled if of is None else spread_classes(shuffled, of)).tolist()
    count = round(len(order) * fraction)
    if not 0 < count < len(order):
        raise DataError(
            f"{examples.table.origin}: a share of {fraction} of {quantity(len(order), 'row')} is "
            f"{count}; both parts need rows. Choose another fraction, or give a part of your own."
        )
    held, rest = sorted(order[:count]), sorted(order[count:])
    return (
        replace(examples, rows=[examples.rows[i] for i in rest]),
        replace(examples, rows=[examples.rows[i] for i in held]),
    )


def transfer_table(path: str | Path, column: str) -> Examples:
    """More texts, for which only the teacher's outputs are used.

    Raises:
        DataError: Nothing is there, or it cannot be read.
    """
    place = resolve_path(path)
    if place is None:
        raise DataError(f"data.transfer: {path}: no such file or folder.")
    if not (place.is_file() or place.is_dir()):
        raise DataError(f"data.transfer: {place} is neither a file nor a folder. Give one of them.")
    table = read_table(place) if place.is_file() else _from_folder(place)["train"]
    return Examples(table, range(len(table)), Columns(column))


def _labelled(
    parts: Mapping[str, Examples], kind: LabelKind, cut: "Tokenizing", transfer: Sequence[Examples]
) -> Splits:
    names, labels = kind.read({part: examples.label_cells for part, examples in parts.items()})
    texts = {part: checked_texts(examples, "data.text_column") for part, examples in parts.items()}
    more = [
        text for examples in transfer for text in checked_texts(examples, "data.transfer_column")
    ]
    tokens = cut.tokenize(texts["train"])
    train = labelled = cut.token_source(tokens, labels["train"], None, texts["train"])
    if more:
        gaps = torch.full((len(more),), UNLABELLED)
        train = cut.token_source(
            [*tokens, *cut.tokenize(more)],
            torch.cat([labels["train"], gaps]),
            None,
            [*texts["train"], *more],
        )
    return Splits(
        train=train,
        valid=cut.source(texts["valid"], labels["valid"]),
        test=cut.source(texts["test"], labels["test"]),
        class_names=names,
        labelled=labelled if more else None,
        notes=cut.notes(),
    )


def checked_texts(examples: Examples, setting: str) -> list[str]:
    """The texts of some rows; empty texts are refused.

    Args:
        examples: The rows.
        setting: Where their column was named, for the message.

    Raises:
        DataError: One is empty or no text; the message says where it stands.
    """
    column = examples.columns.text
    values = examples.table.column(column, setting)
    texts = [values[row] for row in examples.rows]
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(
                f"{examples.place(row)}: {column!r} holds a {type(text).__name__}, not a text. "
                f"Name the column of the texts in {setting}."
            )
        if not text.strip():
            raise DataError(f"{examples.place(row)}: the text is empty. Remove the row.")
    return texts
