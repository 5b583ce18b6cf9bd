"""Interface of teachers."""

from typing import Protocol, runtime_checkable

import torch
from torch import nn

from tutelage.types import Batch, Outputs, Signal


@runtime_checkable
class Teacher(Protocol):
    """A source of outputs to learn from. Not an `nn.Module`, so that it is never trained.

    Attributes:
        gives: The signals that it offers.
        fingerprint: Changes when its outputs would change.
        device: Where it wants its batches.
    """

    gives: frozenset[Signal]
    fingerprint: str
    device: torch.device

    def __call__(self, batch: Batch) -> Outputs:
        """Outputs for the batch's views, without gradient, on the batch's device."""
        ...


@runtime_checkable
class HasParts(Protocol):
    """A teacher with a network whose parts a student can use."""

    def part(self, layer: str) -> nn.Module:
        """A frozen copy of a part of the network, such as its classifier."""
        ...


@runtime_checkable
class CanCheck(Protocol):
    """A teacher that can check whether it changed since it began to teach."""

    def check(self) -> None:
        """Compare the current state with the first one.

        Raises:
            TeacherChangedError: Its weights, or the files that it reads, are others now.
        """
        ...
