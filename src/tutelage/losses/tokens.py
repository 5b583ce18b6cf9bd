"""Shared parts of token losses: padding is masked, and each text has equal weight."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tutelage.errors import ShapeError
from tutelage.losses.features import Features, features_of, nothing_of, precision_of
from tutelage.objective import Loss
from tutelage.types import VALID_MASK, Batch, Outputs, by_name

ATTENTION_MASK = "attention_mask"
ByToken = Callable[[Features, Features, Tensor], Tensor]


def over_tokens(
    loss: Loss, student: Outputs, teacher: Outputs | None, batch: Batch, by_token: ByToken
) -> Float[Tensor, ""]:
    """A distance of tokens: the mean over a sample's tokens, then over samples.

    So the mean over samples stays what it is however a batch is cut, and padding changes nothing.

    Args:
        loss: Names the layers of both networks.
        student: With gradient.
        teacher: A constant.
        batch: Its inputs say which tokens there are, its mask which samples count.
        by_token: Function of the student's features, the teacher's, and the mask; one number per
            token. Features of other tokens are 0 there.

    Returns:
        The distance; 0 where nothing counts.

    Raises:
        SignalError: A layer's features are not there.
        ShapeError: A layer gives no tokens, or the networks do not see the same ones.
    """
    ours = features_of(loss, student, loss.student_layers, "student", len(batch))
    theirs = features_of(loss, teacher, loss.teacher_layers, "teacher", len(batch))
    length = check_tokens(loss, ours, theirs)
    mask = token_mask(batch, length, ours[0].device)
    rows = mask.any(dim=1)
    if not rows.any():
        return nothing_of(ours)
    mask = mask[rows]
    dtype = precision_of(loss, ours[0])
    chosen = tuple(_cleared(feature[rows], mask, dtype) for feature in ours)
    wanted = tuple(_cleared(feature.detach()[rows], mask, dtype) for feature in theirs)
    with torch.autocast(mask.device.type, enabled=False):
        values = torch.where(mask, by_token(chosen, wanted, mask), 0.0)
        return (values.sum(dim=1) / mask.sum(dim=1)).mean()


def token_mask(batch: Batch, length: int, device: torch.device) -> Bool[Tensor, "samples length"]:
    """Mask of valid tokens of valid samples, without padding."""
    named = by_name(batch.inputs)
    if ATTENTION_MASK in named:
        mask = named[ATTENTION_MASK].bool()
    else:
        mask = torch.ones(len(batch), length, dtype=torch.bool, device=device)
    if batch.mask is None:
        return mask
    rows = batch.mask
    if VALID_MASK in named:  # one row an item there: a sample counts where one of its items does
        of_items = named[VALID_MASK].bool().clone()
        of_items[of_items.clone()] = batch.mask
        rows = of_items.any(dim=1)
    return mask & rows[:, None]


def check_tokens(loss: Loss, student: Features, teacher: Features) -> int:
    """Number of tokens per row, checked to be the same in all features.

    Raises:
        ShapeError: A layer gives no tokens, or the networks do not see the same ones.
    """
    for feature in (*student, *teacher):
        if feature.ndim != 3 or feature.shape[1] != student[0].shape[1]:
            found = ", ".join(str(tuple(each.shape)) for each in (*student, *teacher))
            raise ShapeError(
                f"{loss.title}: layers must give tokens (batch, tokens, width), as many in both "
                f"networks; got {found}. Name layers of transformers that share a tokenizer."
            )
    return student[0].shape[1]


def _cleared(
    feature: Float[Tensor, "rows length width"],
    mask: Bool[Tensor, "rows length"],
    dtype: torch.dtype,
) -> Float[Tensor, "rows length width"]:
    """Features in a precision, with 0 in masked tokens, whose values must not spread."""
    return feature.to(dtype).masked_fill(~mask[:, :, None], 0.0)
