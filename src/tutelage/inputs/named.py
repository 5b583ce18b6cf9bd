"""Tensors by name, of which nothing else is known: what networks of one's own take."""

from collections.abc import Mapping
from typing import final

from tutelage.inputs.base import InputKind
from tutelage.types import Inputs


@final
class NamedInputs(InputKind):
    """Tensors by the name of the argument that a network takes them as, one row a sample."""

    name = "named"

    @classmethod
    def fits(cls, inputs: Inputs) -> bool:
        """Any mapping."""
        return isinstance(inputs, Mapping)
