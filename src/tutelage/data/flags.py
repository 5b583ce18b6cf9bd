"""Yes/no labels: one question per sample, or several at once."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from tutelage.data.values import ValueLabels
from tutelage.errors import DataError

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
