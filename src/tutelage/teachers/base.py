"""What every teacher is."""

from typing import Protocol, runtime_checkable

import torch

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
