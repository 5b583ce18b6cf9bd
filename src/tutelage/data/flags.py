"""Yes/no labels: one question per sample, or several at once."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.data.cells import Cells, is_missing, number_of, plain
from tutelage.data.values import ValueLabels
from tutelage.errors import DataError

_WORDS = {"true": 1.0, "false": 0.0}
_ONE = (
    "Give 0 or 1 for each label of each sample: a column a label. Lists of names become such "
    "columns with sklearn.preprocessing.MultiLabelBinarizer."
)


class FlagLabels:
    """How 0/1 labels are read, one or many per sample."""

    def column(self, labels: Any, origin: str) -> Float[Tensor, "n labels"]:
        """The labels of all samples.

        Args:
            labels: A tensor, an array or a list: 0 or 1 a sample, or one row of them.
            origin: Where they come from, for messages.

        Raises:
            DataError: One is neither 0 nor 1; the message names its sample.
        """
        try:
            rows = ValueLabels().column(labels, origin)
        except DataError as error:
            raise DataError(f"{error} {_ONE}") from error
        wrong = ((rows != 0) & (rows != 1)).any(dim=1).nonzero()
        if len(wrong):
            row = int(wrong[0])
            found = float(rows[row][(rows[row] != 0) & (rows[row] != 1)][0])
            raise DataError(f"{origin}: sample {row} has the label {found:g}. {_ONE}")
        return rows

    def one(self, label: Any, place: str) -> tuple[float, ...]:
        """The labels of one sample.

        Args:
            label: 0 or 1, or several in a list, an array or a tensor.
            place: Where it stands, for messages.

        Raises:
            DataError: It is neither.
        """
        try:
            values = ValueLabels().one(label, place)
        except DataError as error:
            raise DataError(f"{error} {_ONE}") from error
        wrong = [value for value in values if value not in (0, 1)]
        if wrong:
            raise DataError(f"{place}: the label is {wrong[0]:g}. {_ONE}")
        return values

    def stack(self, labels: list[Any]) -> Float[Tensor, "batch labels"]:
        """Stack the results of `one` for several samples."""
        return ValueLabels().stack(labels)

    def count(self, labels: Float[Tensor, "batch labels"]) -> int:
        """Number of labels per sample."""
        return labels.shape[1]

    def read(self, parts: Mapping[str, Cells]) -> tuple[tuple[str, ...], dict[str, Tensor]]:
        """Names of the columns, and the labels of each part, a column each.

        Raises:
            DataError: A cell is neither 0 nor 1, or a label is the same in all training rows; the
                message says where.
        """
        train = parts["train"]
        labels = {part: _rows(cells) for part, cells in parts.items()}
        for number, name in enumerate(train.columns):
            found = labels["train"][:, number].unique()
            if len(found) == 1:
                raise DataError(
                    f"{train.setting}: {name!r} is {float(found[0]):g} in every row of the "
                    "training part, so there is nothing to learn. Leave it out."
                )
        return tuple(train.columns), labels


def _rows(cells: Cells) -> Float[Tensor, "n labels"]:
    columns = [
        [_flag(cell, cells.place(row), name) for row, cell in enumerate(column)]
        for name, column in cells.columns.items()
    ]
    return torch.tensor(columns, dtype=torch.float32).T.contiguous()


def _flag(cell: Any, place: str, column: str) -> float:
    found = plain(cell, place)
    if is_missing(found):
        raise DataError(f"{place}: {column!r} is empty. Give 0 or 1, or leave the row out.")
    number = _WORDS.get(found.lower()) if isinstance(found, str) else None
    number = number_of(found) if number is None else number
    if number not in (0.0, 1.0):
        raise DataError(
            f"{place}: {column!r} is {found!r:.80}, neither 0 nor 1. Give a column of 0 and 1 (or "
            "true and false) for each label; one column of several classes is learned with task: "
            "classification."
        )
    return number
