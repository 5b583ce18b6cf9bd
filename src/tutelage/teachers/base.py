"""What every teacher is."""

from typing import Protocol, runtime_checkable

import torch
from torch import nn

from tutelage.types import Batch, Outputs, Signal


@runtime_checkable
class Teacher(Protocol):
    """A source of outputs to learn from. It is no `nn.Module`: it cannot be trained by mistake.

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
    """A teacher whose network is at hand, so that a student can be given a part of it."""

    def part(self, layer: str) -> nn.Module:
        """A frozen copy of a part of the network, such as its classifier."""
        ...


@runtime_checkable
class CanCheck(Protocol):
    """A teacher that can tell whether it is still what it was when it began to teach."""

    def check(self) -> None:
        """Compare it with what it was.

        Raises:
            TeacherChangedError: Its weights, or the files that it reads, are others now.
        """
        ...
