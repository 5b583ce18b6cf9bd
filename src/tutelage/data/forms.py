"""The usual forms of data (tensors, arrays, data sets, loaders) as a source."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
    default_convert,
)

from tutelage.data.collated import CollatedSource
from tutelage.data.items import as_inputs, as_tensor, split_item
from tutelage.data.labels import CLASS_LABELS, LabelKind
from tutelage.data.sources import BareSource, DatasetSource, OwnSource, Source, TensorSource
from tutelage.errors import DataError

_FORMS = (
    "a map-style data set of (input, label) pairs, a tuple (inputs, labels) of tensors or "
    "arrays, or a DataLoader of such a data set"
)


def as_source(data: Any, name: str, kind: LabelKind = CLASS_LABELS) -> Source:
    """Wrap data in any of the usual forms as a source.

    Args:
        data: A Source; a tuple (inputs, labels) of tensors, arrays or lists; inputs alone; a
            mapping of both, as NumPy's files and columns come; a map-style data set; or a
            DataLoader, of which its data set and its collate_fn are taken. Inputs may be a
            mapping by the names of a network's arguments.
        name: The argument, for messages.
        kind: What labels are.

    Raises:
        DataError: It is none of these, or a sample or a label cannot be used.
    """
    match data:
        case Source():
            return data
        case BareSource():
            return OwnSource(data)
        case str() | bytes() | Path():
            raise DataError(
                f"{name}: got the path {data!r}. Load it first, for example with "
                "torchvision.datasets.ImageFolder(path, transform)."
            )
        case None:
            raise DataError(f"{name}: got None. Give {_FORMS}.")
    try:
        return _as_source(data, kind)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def _as_source(data: Any, kind: LabelKind) -> Source:
    match data:
        case DataLoader():
            return _of_loader(data, kind)
        case Mapping():
            return _of_columns(data, kind)
        case tuple() if len(data) != 2 and any(map(_is_array, data)):
            raise DataError(f"got a tuple of {len(data)}. Give (inputs, labels).")
        case tuple((inputs, labels)) if _is_columns(inputs) or _is_named(inputs):
            return TensorSource(as_inputs(inputs, "inputs"), labels, kind)
        case list([inputs, labels]) if _is_columns(inputs) and _is_as_long(inputs, labels):
            return TensorSource(as_tensor(inputs, "inputs"), labels, kind)
    if _is_array(data) and hasattr(data, "columns"):
        raise DataError(
            f"got a {type(data).__name__}, whose columns may be inputs or labels. Give both by "
            "name: (frame[input_columns], frame[label_column])."
        )
    if _is_array(data):
        return TensorSource(as_tensor(data, "inputs"))
    return DatasetSource(data, kind=kind)


def _of_loader(loader: DataLoader[Any], kind: LabelKind) -> Source:
    dataset, collate = _dataset_of(loader), loader.collate_fn
    if collate in (default_collate, default_convert):
        return DatasetSource(dataset, kind=kind)
    return CollatedSource(dataset, collate, kind)


def _of_columns(data: Mapping[Any, Any], kind: LabelKind) -> Source:
    inputs, labels = split_item(data, "its columns")
    if not (_is_columns(inputs) or _is_named(inputs)):
        raise DataError(
            f"got a mapping whose input is a {type(inputs).__name__}. Give one part of the data, "
            f"such as data['train'], in one of these forms: {_FORMS}."
        )
    return TensorSource(as_inputs(inputs, "inputs"), labels, kind)


def _is_named(value: Any) -> bool:
    """Whether it is columns by the name of a network's argument."""
    return isinstance(value, Mapping) and bool(value) and all(map(_is_columns, value.values()))


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or hasattr(value, "__array__")


def _is_columns(value: Any) -> bool:
    """Whether a list has one row per sample, and is not itself an (inputs, labels) pair."""
    return _is_array(value) or (isinstance(value, list) and bool(value) and not _has_pairs(value))


def _has_pairs(value: list[Any]) -> bool:
    return isinstance(value[0], tuple | Mapping)


def _is_as_long(inputs: Any, labels: Any) -> bool:
    """Whether a list of two arrays is (inputs, labels) and not two samples."""
    shapes = [np.shape(value) for value in (inputs, labels) if _is_array(value)]
    return len(shapes) == 2 and len(shapes[0]) > len(shapes[1]) and shapes[0][:1] == shapes[1][:1]


def _dataset_of(loader: DataLoader[Any]) -> Any:
    """A loader's data set, if the loader draws every sample once.

    Raises:
        DataError: It draws or weights samples in a way of its own.
    """
    batches, sampler = loader.batch_sampler, loader.sampler
    is_usual = batches is None or type(batches) is BatchSampler
    draws_all = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler
        and not sampler.replacement
        and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    )
    if isinstance(loader.dataset, IterableDataset) or (is_usual and draws_all):
        return loader.dataset
    raise DataError(
        f"the DataLoader draws samples by a {type(sampler if is_usual else batches).__name__}, "
        "which would be left out. Give the data set itself, or a Subset of it."
    )


def loader_note(data: Any, name: str) -> list[str]:
    """Note for the reader where data were given as a loader."""
    if not isinstance(data, DataLoader):
        return []
    return [
        f"{name} was given as a DataLoader: its data set and its collate_fn are used; batch size, "
        "order and workers are those of the settings."
    ]
