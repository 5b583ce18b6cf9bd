"""Losses that need no teacher: the student learns from a peer, or from its own past."""

from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.errors import ConfigError, ModelError, SignalError
from tutelage.losses.divergences import (
    check_temperature,
    cross_entropy,
    kl_divergence,
    soft_cross_entropy,
    soften,
)
from tutelage.losses.per_sample import Rows, checked_labels, class_logits
from tutelage.models.copies import copied
from tutelage.objective import DryRun, Loss
from tutelage.types import Batch, Outputs, Signal


@final
class MutualLearning(Loss):
    """Deep mutual learning: the student and a freshly initialised peer teach one another.

    Use it where there is no teacher. The peer is trained with the student and never delivered; a
    step costs about two of the baseline's.

    Args:
        temperature: Temperature of what they teach each other, above 0; the paper has 1.

    Source:
        Zhang, Xiang, Hospedales & Lu 2018, "Deep Mutual Learning", arXiv:1706.00384, equations
        3 to 6, for two networks.

    Differs from the paper:
        Both are updated at once from one forward each, not in turn. The value is the student's
        divergence from the peer plus all that the peer minimises: its own task loss and its
        divergence from the student. The student's task loss is the objective's.
    """

    needs = frozenset({Signal.LABELS})
    title = "mutual_learning"

    def __init__(self, temperature: float | int = 1.0) -> None:
        """Store the temperature; `modify_student` adds the peer."""
        super().__init__()
        self.temperature = check_temperature(temperature)
        self.peer: nn.Module | None = None
        self.run: Callable[[nn.Module, Batch], Outputs] | None = None

    def modify_student(self, student: nn.Module, dry: DryRun) -> nn.Module:
        """Create the peer: the student's architecture with fresh weights."""
        self.peer, self.run = copied(student), dry.run
        drawn = [_draw_anew(module) for module in self.peer.modules()]
        if not any(drawn):
            raise ModelError(
                f"Loss 'mutual_learning' needs a peer with other weights, but no part of "
                f"{type(student).__name__} has reset_parameters. Build it from torch.nn layers."
            )
        return student

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """What each learns from the other, and the peer from the labels."""
        if self.peer is None or self.run is None:
            raise SignalError(
                "Loss 'mutual_learning' has no peer yet. Call tutelage.engine.prepare.prepare "
                "before the optimizer is made."
            )
        mine, mask = class_logits(self, student), batch.mask
        labels = checked_labels(self, batch, mine.shape[1], mask)
        peer = self.run(self.peer, batch).logits
        from_peer = kl_divergence(mine, peer, self.temperature, mask)
        from_student = kl_divergence(peer, mine, self.temperature, mask)
        return from_peer + from_student + cross_entropy(peer, labels, mask)


def _draw_anew(module: nn.Module) -> bool:
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
        return True
    return False


@final
class PastSelf(Loss):
    """Progressive self-knowledge distillation: labels softened by the student's last predictions.

    Use it where there is no teacher, above all for better calibration. It replaces the task loss:
    set task_weight to 0. It remembers one distribution a sample, so its memory grows with the
    training data.

    Args:
        share: Share of the past predictions in the soft targets at the end of training; it rises
            from 0 in a straight line. Between 0 and 1; the paper has 0.8.

    Source:
        Kim, Ji, Yoon & Hwang 2021, "Self-Knowledge Distillation with Progressive Refinement of
        Targets", arXiv:2006.12000, equations 2 and 3.

    Differs from the paper:
        The share rises with each step, not with each epoch.
    """

    needs = frozenset({Signal.LABELS})
    title = "past_self"
    whole_batch = True

    def __init__(self, share: float | int = 0.8) -> None:
        """Store the share; `setup` adds the memory."""
        super().__init__()
        if not 0 <= share <= 1:
            raise ConfigError(f"share must lie between 0 and 1, got {share}. Usual: 0.8.")
        self.share = float(share)
        self.register_buffer("memory", torch.zeros(0))
        self.memory: Tensor

    def setup(self, dry: DryRun) -> None:
        """Allocate one distribution per sample; a row of zeros marks a missing one."""
        if dry.num_samples == 0:
            raise ConfigError("Loss 'past_self' must know how many training samples there are.")
        self.memory = torch.zeros(dry.num_samples, dry.student.logits.shape[-1])

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy against labels softened by the student's predictions of an epoch ago."""
        if len(self.memory) == 0:
            raise SignalError(
                "Loss 'past_self' has no memory yet. Call tutelage.engine.prepare.prepare before "
                "the optimizer is made."
            )
        rows = Rows(self, student, teacher, batch)
        logits = rows.student
        ids = rows.counted(batch.sample_ids.to(logits.device))
        past = self.memory[ids]
        share = self.share * self.progress * past.sum(dim=-1, keepdim=True).round()
        hard = nn.functional.one_hot(rows.labels, logits.shape[-1]).to(past.dtype)
        if self.training:
            self.memory[ids] = soften(logits.detach()).to(past.dtype)
        return soft_cross_entropy(logits, (1 - share) * hard + share * past)
