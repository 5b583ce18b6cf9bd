"""Rows of tables: numbers and categories, encoded as one row of numbers."""

from collections.abc import Mapping
from typing import Any, final

from torch import nn

from tutelage.inputs.base import InputKind
from tutelage.inputs.wrapping import with_norm
from tutelage.types import Inputs, one_tensor


@final
class TableInputs(InputKind):
    """Rows of a table, encoded as rows of numbers by what was fitted on the training rows.

    Args:
        encoding: How each column becomes numbers, as plain data: `TableEncoder.describe`. It goes
            into config.json, from which `example.py` reads rows of a table.
    """

    name = "table"

    def __init__(self, encoding: Mapping[str, Any] | None = None) -> None:
        """Hold the encoding."""
        self.encoding = dict(encoding or {})

    @classmethod
    def fits(cls, inputs: Inputs) -> bool:  # noqa: ARG003 - rows of numbers are arrays
        """Never: only who has read the table knows its columns."""
        return False

    def facts(self, inputs: Inputs) -> dict[str, Any]:
        """Numbers of a row as channels of one pixel, and how many columns they are of."""
        columns = len(self.encoding["columns"])
        return {"in_channels": one_tensor(inputs).shape[1], "image_size": 1, "columns": columns}

    def wrap_for_export(self, model: nn.Module, inputs: Inputs) -> nn.Module:
        """The network itself: rows come encoded."""
        return with_norm(model, None, one_tensor(inputs))

    def check_export(self, who: str, inputs: Inputs) -> None:
        """One tensor is taken by every kind of file."""

    def describe_export(self, inputs: Inputs, raw: Inputs) -> Any:
        """One input: an encoded row, of any range."""
        (only,) = super().describe_export(inputs, raw)
        return only | {"range": None}

    def preprocessing(self, raw: Inputs) -> dict[str, Any]:  # noqa: ARG002 - columns, not numbers
        """How a row of a table becomes numbers."""
        return self.encoding
