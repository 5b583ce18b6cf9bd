"""Check that a teacher is deterministic and does not change."""

import torch

from tutelage.errors import ModelError
from tutelage.teachers.module import ModuleTeacher
from tutelage.types import Batch, Outputs


def said_twice(teacher: ModuleTeacher, batch: Batch) -> Outputs:
    """A teacher's outputs for a batch, checked to be the same a second time.

    Raises:
        ModelError: It does not.
    """
    name = type(teacher.network).__name__
    before = {key: value.clone() for key, value in teacher.model.named_buffers()}
    said, again = teacher(batch), teacher(batch)
    moved = [k for k, v in teacher.model.named_buffers() if not _is_same(v, before[k])]
    if moved:
        raise ModelError(
            f"{name} writes into its buffer {moved[0]!r} when it is run in eval mode, so it would "
            "be another teacher after each batch. Let its forward do that in train mode alone."
        )
    if isinstance(said.scores, torch.Tensor) and not _is_same(said.logits, again.logits):
        raise ModelError(
            f"{name} gives different logits when it is run again on the same inputs in eval mode. "
            "Look for dropout or noise in its forward that does not ask self.training."
        )
    return said


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal, with NaN in the same positions."""
    return bool(((one == other) | ((one != one) & (other != other))).all())
