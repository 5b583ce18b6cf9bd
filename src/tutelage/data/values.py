"""Real numbers as labels, one or several per sample."""

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.data.cells import Cells, target_number
from tutelage.data.labels import check_no_gaps
from tutelage.errors import DataError

_ONE = "Give one real number a sample, or the same count of them for each."


class ValueLabels:
    """How real numbers are read as labels."""

    def column(self, labels: Any, origin: str) -> Float[Tensor, "n values"]:
        """The values of all samples.

        Args:
            labels: A tensor, an array or a list: one number a sample, or one row of them.
            origin: Where they come from, for messages.

        Raises:
            DataError: They are no real numbers, or one is not finite; the message names it.
        """
        check_no_gaps(labels, origin)
        rows = _numbers(labels, origin)
        if rows.ndim == 1:
            rows = rows[:, None]
        if rows.ndim != 2 or rows.shape[1] == 0:
            raise DataError(f"{origin}: the labels have the shape {tuple(rows.shape)}. {_ONE}")
        wrong = (~rows.isfinite()).any(dim=1).nonzero()
        if len(wrong):
            row = int(wrong[0])
            found = rows[row][~rows[row].isfinite()][0]
            raise DataError(
                f"{origin}: sample {row} has the label {float(found)}. Leave such samples out, or "
                "fill the value in."
            )
        return rows

    def one(self, label: Any, place: str) -> tuple[float, ...]:
        """The values of one sample.

        Args:
            label: A number, or several in a list, an array or a tensor.
            place: Where it stands, for messages.

        Raises:
            DataError: It is no finite number.
        """
        row = _numbers([label] if isinstance(label, int | float) else label, place).reshape(-1)
        values = tuple(float(value) for value in row)
        if not values or not all(map(math.isfinite, values)):
            raise DataError(f"{place}: the label is {label!r:.80}, no finite number. {_ONE}")
        return values

    def stack(self, labels: list[Any]) -> Float[Tensor, "batch values"]:
        """Stack the results of `one` for several samples.

        Raises:
            DataError: They differ in how many values they have.
        """
        counts = {len(label) for label in labels}
        if len(counts) > 1:
            raise DataError(f"Labels of {sorted(counts)} values stand in one data set. {_ONE}")
        return torch.tensor(labels, dtype=torch.float32)

    def count(self, labels: Float[Tensor, "batch values"]) -> int:
        """Number of values per sample."""
        return labels.shape[1]

    def read(self, parts: Mapping[str, Cells]) -> tuple[tuple[str, ...], dict[str, Tensor]]:
        """Names of the columns, and the values of each part, a column each.

        Raises:
            DataError: A cell is empty or no number; the message says where.
        """
        return tuple(parts["train"].columns), {part: _rows(cells) for part, cells in parts.items()}


def _rows(cells: Cells) -> Float[Tensor, "n values"]:
    columns = [
        [target_number(cell, cells.place(row), name) for row, cell in enumerate(column)]
        for name, column in cells.columns.items()
    ]
    return torch.tensor(columns, dtype=torch.float64).T.float().contiguous()


def _numbers(labels: Any, origin: str) -> Tensor:
    """Labels as float32, from any container."""
    if not isinstance(labels, Tensor):
        try:
            array = np.asarray(labels)
        except ValueError as error:
            raise DataError(
                f"{origin}: the labels are lists of different lengths. {_ONE}"
            ) from error
        if array.dtype == object:
            with contextlib.suppress(TypeError, ValueError):
                array = array.astype(np.float64)
        if array.dtype.kind not in "biuf":
            raise DataError(
                f"{origin}: the labels are {array.dtype}, as {array.reshape(-1)[0]!r:.60}. {_ONE}"
            )
        labels = torch.from_numpy(array.astype(np.float64))
    if labels.is_complex():
        raise DataError(f"{origin}: the labels are complex numbers. {_ONE}")
    rows: Tensor = labels.detach().float()
    return rows
