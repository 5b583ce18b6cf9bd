"""Items of map-style data sets, and whole arrays, in the usual forms."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tutelage.data.decoding import as_bytes
from tutelage.data.labels import check_no_gaps
from tutelage.errors import DataError
from tutelage.types import Inputs

INPUT_NAMES = (
    "input",
    "inputs",
    "image",
    "images",
    "img",
    "pixel_values",
    "input_values",
    "input_features",
    "features",
    "data",
    "x",
)
LABEL_NAMES = ("label", "labels", "target", "targets", "y")
_FORMS = "(input, label), {'image': ..., 'label': ...}, or the input alone"


def split_item(item: Any, place: str) -> tuple[Any, Any]:
    """Input and label of an item; the label is None where there is none.

    Args:
        item: A pair, a mapping with one input and at most one label under one of the usual names,
            or an input. Other entries of a mapping are not read.
        place: Where it stands, for messages.

    Raises:
        DataError: It is in no such form, or more than one entry may be meant.
    """
    match item:
        case Mapping():
            return _of_mapping(item, place)
        case (inputs, label):
            return inputs, label
        case tuple():
            raise DataError(
                f"{place}: it has {len(item)} entries. Allowed: {_FORMS}. Wrap the data set in one "
                "that gives the two that count."
            )
    return item, None


def _of_mapping(item: Mapping[Any, Any], place: str) -> tuple[Any, Any]:
    inputs = [name for name in INPUT_NAMES if name in item]
    labels = [name for name in LABEL_NAMES if name in item]
    if len(inputs) != 1 or len(labels) > 1:
        raise DataError(
            f"{place}: its entries are {', '.join(map(str, item))}. One input is needed, named "
            f"{', '.join(INPUT_NAMES)}, and at most one label, named {', '.join(LABEL_NAMES)}. "
            "Rename or remove entries; for a network of several inputs give ({name: input, ...}, "
            "label)."
        )
    return item[inputs[0]], item[labels[0]] if labels else None


def as_tensor(value: Any, place: str) -> Tensor:
    """An input as a tensor, or many inputs as one.

    Args:
        value: A tensor, or anything that NumPy takes as an array of numbers, of which floats of
            every precision and booleans become float32; or an image of PIL, which becomes bytes
            of shape (channels, height, width); or a list of such images.
        place: Where it stands, for messages.

    Raises:
        DataError: It is none of these.
    """
    if isinstance(value, Image.Image):
        return torch.from_numpy(as_bytes(value))
    if isinstance(value, list) and value and isinstance(value[0], Image.Image):
        return _stacked(value, place)
    tensor = value if isinstance(value, Tensor) else _from_array(value, place)
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        raise DataError(
            f"{place}: the input is a tensor of {tensor.dtype} and layout {tensor.layout}. Give a "
            "dense tensor of real numbers."
        )
    is_number = tensor.is_floating_point() or tensor.dtype == torch.bool
    return tensor.detach().float() if is_number else tensor.detach()


def as_inputs(value: Any, place: str) -> Inputs:
    """An input as a tensor, or several as tensors by the name of a network's argument.

    Args:
        value: What `as_tensor` takes, or a mapping of such values.
        place: Where it stands, for messages.

    Raises:
        DataError: A value is none of these, or a name cannot be that of an argument.
    """
    if not isinstance(value, Mapping):
        return as_tensor(value, place)
    for name in value:
        if not (isinstance(name, str) and name.isidentifier()):
            raise DataError(
                f"{place}: the input {name!r} cannot be an argument of a network's forward. Name "
                "inputs as forward names its arguments."
            )
    if not value:
        raise DataError(f"{place}: the mapping of inputs is empty. Give at least one.")
    return {name: as_tensor(one, f"{place}, {name!r}") for name, one in value.items()}


def _stacked(images: list[Any], place: str) -> Tensor:
    """Stack PIL images as one tensor, each read as it would be alone."""
    tensors = [as_tensor(image, f"{place}: entry {n}") for n, image in enumerate(images)]
    if len({tensor.shape for tensor in tensors}) > 1:
        raise DataError(
            f"{place}: the images differ in size or channels. Bring them to one, for example with "
            "image.convert('RGB').resize((64, 64))."
        )
    return torch.stack(tensors)


def _from_array(value: Any, place: str) -> Tensor:
    if isinstance(value, tuple) and len(value) > 1 and any(map(_has_axes, value)):
        raise DataError(
            f"{place}: the input is a tuple of {len(value)} arrays, as of a network with several "
            "inputs. Give a mapping from the names of its forward's arguments to the arrays."
        )
    if isinstance(value, str) or not (
        isinstance(value, list | tuple) or hasattr(value, "__array__")
    ):
        raise DataError(f"{place}: {_no_tensor(value)}")
    check_no_gaps(value, place)
    try:
        array = np.asarray(value)
    except Exception as error:  # ragged lists, foreign arrays: anything can happen
        raise DataError(f"{place}: the input is no array of numbers ({error}).") from error
    if array.dtype.kind in "fb":
        array = array.astype(np.float32, copy=False)
    if array.dtype.kind not in "fi" and array.dtype != np.uint8:
        raise DataError(
            f"{place}: the input is an array of {array.dtype}. Give numbers: float32, or uint8 "
            "for pixels from 0 to 255."
        )
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    usable = native.flags.writeable and all(stride >= 0 for stride in native.strides)
    return torch.from_numpy(native if usable else native.copy())


def _has_axes(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0


def _no_tensor(value: Any) -> str:
    return (
        f"the input is a {type(value).__name__}, not a tensor. Give the data set a transform that "
        "ends in a tensor (torchvision.transforms.v2.ToImage())."
    )
