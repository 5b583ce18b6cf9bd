"""Losses on yes/no questions: one sigmoid per label, for one label or many."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.errors import DataError, SignalError
from tutelage.losses.divergences import (
    binary_cross_entropy_per_item,
    binary_kl_per_item,
    check_same_shape,
    check_scheduled_temperature,
    cleared,
    masked_mean,
)
from tutelage.objective import Loss, Scheduled, value_at
from tutelage.types import Batch, Outputs, Signal


@final
class BinaryCrossEntropy(Loss):
    """The task loss of multi-label and yes-or-no data: cross-entropy of each label.

    The baseline of every comparison on such data, and one part of most objectives. It is a mean
    over the samples that have labels.

    Source:
        Logistic regression; as the hard term of multi-label distillation: Yang, Xie, Li, Liu &
        Huang 2023, "Multi-Label Knowledge Distillation", arXiv:2308.06453, section 3.

    Differs from other libraries:
        Summed over labels and mean over counted items, as all here; `nn.BCEWithLogitsLoss` takes
        the mean over labels too.
    """

    needs = frozenset({Signal.LABELS})
    takes: frozenset[Signal] = frozenset({Signal.BINARY_LOGITS})
    title = "binary_cross_entropy"
    skips_unlabelled = True

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """In nats, summed over labels, mean over the valid items."""
        mask = batch.label_mask
        labels = cleared(_checked_labels(self, student, batch, mask), mask)
        surprise = binary_cross_entropy_per_item(cleared(student.logits, mask), labels)
        return masked_mean(surprise, mask)


@final
class BinaryKD(Loss):
    """Knowledge distillation through sigmoids: KL(teacher || student) of each label.

    It is to multi-label and one-logit networks what KD is to classes: T squared times the KL
    divergence at temperature T, summed over labels.

    Args:
        temperature: Above 0; 1 to 4 is usual. A ramp moves it.

    Source:
        Yang, Xie, Li, Liu & Huang 2023, "Multi-Label Knowledge Distillation", arXiv:2308.06453,
        equation 4 (multi-label logits distillation); the temperature: Hinton, Vinyals & Dean 2015,
        arXiv:1503.02531, section 2.

    Differs from the paper:
        The paper has no temperature (ours is 1 then).
    """

    needs = frozenset({Signal.BINARY_LOGITS})
    title = "binary_kd"

    def __init__(self, temperature: Scheduled = 1.0) -> None:
        """Hold the temperature."""
        super().__init__()
        self.temperature = check_scheduled_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """In nats times T squared, summed over labels, mean over the valid items."""
        if teacher is None:
            raise SignalError(
                f"Loss {self.title!r} needs a teacher's logits, but no teacher is given."
            )
        check_same_shape(student.shape, teacher.shape)
        ours, theirs = (cleared(each.logits, batch.mask) for each in (student, teacher))
        temperature = value_at(self.temperature, self.progress)
        divergence = binary_kl_per_item(ours, theirs, temperature)
        return temperature**2 * masked_mean(divergence, batch.mask)


def _checked_labels(
    loss: Loss, student: Outputs, batch: Batch, mask: Tensor | None
) -> Float[Tensor, "items labels"]:
    """The labels of a batch, checked to be 0 or 1 for each logit.

    Raises:
        SignalError: The data has none.
        DataError: They are something else.
    """
    labels = batch.labels
    if labels is None:
        raise SignalError(
            f"Loss {loss.title!r} needs labels, but this batch has none. Use labelled data, or "
            "binary_kd with task_weight: 0."
        )
    if tuple(labels.shape) != student.shape:
        raise DataError(
            f"Loss {loss.title!r} takes labels of shape {student.shape}, 0 or 1 for each logit, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = ((labels != 0) & (labels != 1)).any(dim=-1)
        wrong = wrong if mask is None else wrong & mask
        if bool(wrong.any()):
            row = labels[wrong][0]
            found = row[(row != 0) & (row != 1)][0]
            raise DataError(
                f"Loss {loss.title!r} got the label {float(found):g}; each is 0 or 1. Leave "
                "samples without labels out by the batch's mask or is_labelled."
            )
    return labels.to(torch.float64 if student.logits.dtype == torch.float64 else torch.float32)
