"""Detection of trainings that fail while their loss is still finite."""

import statistics
from collections import deque

import torch
from torch import Tensor, nn

from tutelage.data.loading import BatchBuilder
from tutelage.errors import GradientError
from tutelage.sharding import full
from tutelage.tasks import Task
from tutelage.types import Outputs, first_tensor

LOOK_EVERY = 10
REMEMBERED, ENOUGH = 50, 10
EXPLODED = 1e6
DEAD_LOOKS = 3
SAMPLES = 16
ALIKE = 1e-6


class GradientWatch:
    """Checks the norm of gradients at intervals and stops a hopeless training."""

    def __init__(self) -> None:
        """Start without observations."""
        self.updates = 0
        self.norms: deque[float] = deque(maxlen=REMEMBERED)

    def see(self, module: nn.Module, norm: Tensor | None) -> None:
        """Check one update before it is made.

        Args:
            module: What is trained, with its gradients.
            norm: Norm of all gradients, if known.

        Raises:
            GradientError: The norm is not finite, a million times the usual one, or has been 0
                for long.
        """
        is_due = self.updates % LOOK_EVERY == 0
        self.updates += 1
        if not is_due:
            return
        value = float(full(_norm(module) if norm is None else norm))
        usual = statistics.median(self.norms) if len(self.norms) >= ENOUGH else None
        if not value < float("inf"):
            raise GradientError(f"the gradient of {_largest(module)} is not finite")
        if usual and value > EXPLODED * usual:
            raise GradientError(
                f"the gradients explode: their norm is {value:.3g}, {usual:.3g} is usual, and "
                f"{_largest(module)} has the largest"
            )
        self.norms.append(value)
        last = list(self.norms)[-DEAD_LOOKS:]
        if len(last) == DEAD_LOOKS and not any(last):
            raise GradientError(
                f"the student is dead: every gradient has been 0 for {DEAD_LOOKS * LOOK_EVERY} "
                "updates"
            )


@torch.no_grad()
def is_constant(
    model: nn.Module, task: Task, reader: BatchBuilder, device: torch.device, *, most: int = SAMPLES
) -> bool:
    """Whether a network gives the same outputs for different samples because its units are dead.

    Args:
        model: The network.
        task: How it is called.
        reader: Data to try it on.
        device: Where it is.
        most: Samples that fit into memory; a few are enough.
    """
    count = min(SAMPLES, most, len(reader))
    ids = torch.linspace(0, len(reader) - 1, count).long().unique()
    batch = reader[ids, torch.zeros_like(ids)].to(device)
    inputs = first_tensor(batch.inputs)
    if len(ids) < 2 or bool((inputs == inputs[:1]).all()):
        return False
    outputs: Outputs = task.run(model.eval(), batch, ())
    logits = outputs.logits.float()
    spread = (logits.amax(dim=0) - logits.amin(dim=0)).max()
    return bool(spread <= ALIKE * logits.abs().max())


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None
    }


def _norm(module: nn.Module) -> Tensor:
    found = list(_gradients(module).values())
    return nn.utils.get_total_norm(found) if found else torch.zeros(())


def _largest(module: nn.Module) -> str:
    """The parameter with the largest gradient, or one that is not finite."""
    sizes = {name: float(full(grad.norm())) for name, grad in _gradients(module).items()}
    return max(sizes, key=lambda name: sizes[name] if sizes[name] < float("inf") else float("inf"))
