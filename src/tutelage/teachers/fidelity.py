"""Loss of information in a cache: divergence, and the bias of the gradient."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.chunks import rows_at_once
from tutelage.losses import KD
from tutelage.losses.divergences import kl_per_item
from tutelage.tasks import Task
from tutelage.types import Batch, Outputs, Signal, SparseLogits

# The student that gradients are measured on hesitates more than the teacher: its logits by this.
BLUNTER = 2.0


class ReconstructionStats:
    """Statistics of the reconstruction, summed over a shard's items.

    Args:
        task: Says what the distance of two scores is: of classes the KL divergence.
    """

    def __init__(self, task: Task) -> None:
        """Start from zero."""
        self.distance = None if task.gives is Signal.LOGITS else task.distillation_loss(1.0)
        self.kl = 0.0
        self.live: Tensor | None = None
        self.kept: Tensor | None = None

    @property
    def facts(self) -> dict[str, str]:
        """The sums as a shard stores them."""
        facts = {"kl_sum": repr(self.kl)}
        if self.live is not None and self.kept is not None:
            gap = (self.kept - self.live).norm() / self.live.norm()
            facts["gradient_bias"] = repr(float(gap))
        return facts

    def add(self, logits: Float[Tensor, "items classes"], decoded: Outputs) -> None:
        """Add a comparison of decoded items with the original outputs."""
        if self.distance is not None:
            self.kl += len(logits) * float(self.distance(decoded, Outputs(logits), _batch(logits)))
            return
        read = decoded.logits
        scores = decoded.scores
        is_pooled = isinstance(scores, SparseLogits) and scores.is_pooled
        # Of draws, what was not drawn is impossible: only the other direction is finite.
        pair = (read, logits) if bool((read > -torch.inf).all()) else (logits, read)
        self.kl += float(kl_per_item(*pair).double().sum())
        if is_pooled:
            live, kept = _gradient(logits, Outputs(logits)), _gradient(logits, decoded)
            self.live = live if self.live is None else self.live + live
            self.kept = kept if self.kept is None else self.kept + kept


def _gradient(logits: Tensor, teacher: Outputs) -> Float[Tensor, " classes"]:
    """Forward KL's gradient on a less confident student, summed over items."""
    student = (logits / BLUNTER).requires_grad_()
    with torch.enable_grad():
        value = KD(temperature=1)(Outputs(student), teacher, _batch(logits))
    (gradient,) = torch.autograd.grad(value, student)
    return gradient.double().sum(dim=0) * len(logits)


def _batch(logits: Tensor) -> Batch:
    ids = torch.arange(len(logits))
    return Batch(torch.zeros(len(logits), 1), None, ids, ids)


def spans(outputs: Outputs, num_classes: int) -> Iterator[slice]:
    """Outputs in chunks with dense logits of limited size."""
    step = rows_at_once(num_classes)
    for start in range(0, outputs.shape[0], step):
        yield slice(start, start + step)
