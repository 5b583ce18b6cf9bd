"""Random draws while samples are read, and samples that vary because of them."""

import random
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the random state of torch (CPU), NumPy and Python afterwards."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what others use
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


def seed_random(seed: int) -> None:
    """Seed the generators that transforms use: torch, NumPy and Python.

    Args:
        seed: From 0 to 2**63 - 1.
    """
    torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds accelerators too
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


@contextmanager
def seeded_draws(seed: int) -> Iterator[None]:
    """Seed Python's and NumPy's generators, and restore them afterwards.

    A network may draw from them in its forward pass, to leave out blocks for example.

    Args:
        seed: 0 or more.
    """
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


def draws_as_tensors() -> dict[str, Tensor]:
    """State of Python's and NumPy's generators as tensors, for a checkpoint."""
    _, words, gauss = random.getstate()
    _, keys, place, has_gauss, kept = np.random.get_state()  # noqa: NPY002
    assert not isinstance(keys, str)
    return {
        "rng/python": torch.tensor(words),
        "rng/python_normal": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "rng/numpy": torch.tensor([*keys.tolist(), place]),
        "rng/numpy_normal": torch.tensor([kept] if has_gauss else [], dtype=torch.float64),
    }


def set_draws(tensors: Mapping[str, Tensor]) -> None:
    """Restore the state of Python's and NumPy's generators."""
    words = tuple(tensors["rng/python"].tolist())
    random.setstate(
        (random.getstate()[0], words, next(iter(tensors["rng/python_normal"].tolist()), None))
    )
    *keys, place = tensors["rng/numpy"].tolist()
    normal = tensors["rng/numpy_normal"].tolist()
    np.random.set_state(  # noqa: NPY002
        ("MT19937", np.array(keys, dtype=np.uint32), place, len(normal), sum(normal))
    )


class FixedDraws:
    """A data set with random items, each with a seed of its own number.

    Only random numbers of torch, NumPy and Python can be fixed, not those of a generator that the
    data set keeps for itself.

    Args:
        dataset: Map-style.
    """

    def __init__(self, dataset: Any) -> None:
        """Hold the data set."""
        self.dataset = dataset

    def __len__(self) -> int:
        """Number of items."""
        assert isinstance(self.dataset, Sized)
        return len(self.dataset)

    def __getitem__(self, number: int) -> Any:
        """The item, always with the same random draw."""
        with random_state_kept():
            seed_random(number)
            return self.dataset[number]
