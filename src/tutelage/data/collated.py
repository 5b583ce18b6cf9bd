"""Data sets whose samples a function of their own joins to batches."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tutelage.data.items import INPUT_NAMES, LABEL_NAMES, as_inputs
from tutelage.data.labels import CLASS_LABELS, LabelKind
from tutelage.data.randomness import random_state_kept, seed_random
from tutelage.data.sources import FINGERPRINTED, Samples, Source, check_map_style, same_inputs
from tutelage.errors import DataError
from tutelage.types import by_name, tensor_bytes

_GIVES = "(inputs, labels), or a mapping of the inputs by name and labels, with a row a sample"


class CollatedSource(Source):
    """A map-style data set with the collate function that makes its batches.

    The function may fill samples up to the longest of their batch; networks must then give the
    same for a sample whatever is beside it, as masks make them do.

    Args:
        dataset: Anything with `__len__` and `__getitem__`.
        collate: From a list of items to inputs and labels, as a DataLoader's collate_fn.
        kind: What labels are; class numbers if not given.

    Raises:
        DataError: It is no map-style data set, or the function gives something else.
    """

    in_memory = False

    def __init__(
        self, dataset: Any, collate: Callable[[list[Any]], Any], kind: LabelKind = CLASS_LABELS
    ) -> None:
        """Hold both, and look at a few samples."""
        check_map_style(dataset)
        self.dataset, self.collate, self.kind = dataset, collate, kind
        count = len(dataset)
        ids = torch.linspace(0, count - 1, min(FINGERPRINTED, count)).long().unique()
        digest = hashlib.sha256(f"{count} collated".encode())
        with random_state_kept():
            seed_random(0)
            for number in ids:
                inputs, labels = self.fetch(number[None])
                again, other = self.fetch(number[None])
                is_same = same_inputs(inputs, again) and _is_equal(labels, other)
                self.is_random = self.is_random or not is_same
                for tensor in by_name(inputs).values():
                    digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
                    digest.update(b"" if self.is_random else tensor_bytes(tensor))
                digest.update(b"" if labels is None else tensor_bytes(labels))
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def fetch(self, ids: Int[Tensor, " batch"]) -> Samples:
        """Samples with these numbers, joined by the collate function.

        Raises:
            DataError: A sample cannot be read, or the function fails or gives something else.
        """
        numbers = ids.tolist()
        place = f"Samples {numbers[:3]}" + ("..." if len(numbers) > 3 else "")
        try:
            batch = self.collate([self.dataset[number] for number in numbers])
        except (DataError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise DataError(
                f"{place} cannot be read and joined: {type(error).__name__}: {error}. Look into "
                "the data set and its collate function."
            ) from error
        given, labels = _parts(batch, place)
        inputs = as_inputs(given, place)
        counts = {name: len(tensor) for name, tensor in by_name(inputs).items()}
        if any(count != len(numbers) for count in counts.values()):
            raise DataError(
                f"{place}: of {len(numbers)} samples the collate function gives {counts} rows. It "
                f"must give {_GIVES}."
            )
        if labels is None:
            return inputs, None
        found = self.kind.column(labels, place)
        if len(found) != len(numbers):
            raise DataError(
                f"{place}: of {len(numbers)} samples the collate function gives {len(found)} "
                f"labels. It must give {_GIVES}."
            )
        return inputs, found


def _parts(batch: Any, place: str) -> tuple[Any, Any]:
    """Inputs and labels of what a collate function gave."""
    if isinstance(batch, Mapping):
        labels = [name for name in LABEL_NAMES if name in batch]
        inputs = {name: value for name, value in batch.items() if name not in labels}
        if len(labels) > 1 or not inputs:
            raise DataError(f"{place}: the batch has {', '.join(map(str, batch))}. Give {_GIVES}.")
        name = next(iter(inputs))
        is_one = len(inputs) == 1 and name in INPUT_NAMES
        return inputs[name] if is_one else inputs, batch[labels[0]] if labels else None
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, Tensor):
        return batch, None
    raise DataError(
        f"{place}: the collate function gives a {type(batch).__name__}. It must give {_GIVES}."
    )


def _is_equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other is None or (
        one is not None and other is not None and torch.equal(one, other)
    )
