"""Kinds of input: how samples are read, shown, exported, and what networks may ask of them."""

from collections.abc import Mapping
from types import MappingProxyType

from tutelage.inputs.array import ArrayInputs
from tutelage.inputs.base import InputKind
from tutelage.inputs.image import ImageInputs
from tutelage.inputs.named import NamedInputs
from tutelage.inputs.series import SeriesInputs
from tutelage.inputs.table import TableInputs
from tutelage.inputs.text import TextInputs
from tutelage.types import Inputs

__all__ = [
    "INPUTS",
    "ArrayInputs",
    "ImageInputs",
    "InputKind",
    "NamedInputs",
    "SeriesInputs",
    "TableInputs",
    "TextInputs",
    "kind_of",
]

INPUTS: Mapping[str, type[InputKind]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            ImageInputs,
            TableInputs,
            ArrayInputs,
            SeriesInputs,
            TextInputs,
            NamedInputs,
        )
    }
)
"""Every kind, the more special before the more general."""

_PLAIN = tuple(kind() for kind in INPUTS.values())


def kind_of(inputs: Inputs) -> InputKind:
    """The kind that inputs look like, for data of which nobody says what they are."""
    return next(kind for kind in _PLAIN if kind.fits(inputs))
