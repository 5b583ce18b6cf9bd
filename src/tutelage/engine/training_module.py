"""Everything with a gradient in one module, the only one that Accelerate wraps."""

import functools
from dataclasses import replace

import torch
from torch import nn

from tutelage.distributed import all_gather_sizes, world
from tutelage.engine.processes import gather_loss_inputs
from tutelage.objective import Loss, LossInputs, LossReport, Objective, objective_of
from tutelage.sharding import is_sharded, shard
from tutelage.tasks import Task
from tutelage.types import Batch, Outputs, autocast


class TrainingModule(nn.Module):
    """A student together with its objective.

    Args:
        student: The network that is trained.
        objective: What it minimises; its losses may have parameters of their own.
        task: How the student is called.
        precision: "float32", or "bf16" for autocast of the student's forward.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective | Loss,
        task: Task,
        precision: str = "float32",
    ) -> None:
        """Store both."""
        super().__init__()
        self.student = student
        self.objective = objective_of(objective)
        self.layers = self.objective.student_layers
        self.task = task
        self.precision = precision

    def cut(self) -> None:
        """Shard the trained modules among processes; see `tutelage.sharding`."""
        _let_hooks_see_reports()
        shard(self, self.student)

    def autocast(self, device: torch.device) -> torch.autocast:
        """Precision of the student's forward."""
        return autocast(device, self.precision)

    def forward(
        self, batch: Batch, teacher: Outputs | None, label_share: float = 1.0
    ) -> LossReport:
        """The objective of one batch, given the teacher's outputs.

        Where several processes share a batch, the mean of theirs is that of the whole batch.

        Args:
            batch: Samples.
            teacher: What the teacher says of them.
            label_share: Multiplier of terms that leave out samples without a label, where some
                have none: what the labelled ones weigh among those of a larger whole.
        """
        with self.autocast(batch.device):
            student = self.task.run(self.student, batch, self.layers)
        items = self.task.items(batch)
        if not world().is_distributed:
            labels = None if items.is_labelled is None else label_share
            return self.objective(student, teacher, items, label_share=labels)  # type: ignore[no-any-return]
        with gather_loss_inputs(LossInputs(student, teacher, items), self.objective) as (
            whole,
            share,
        ):
            labels = None if items.is_labelled is None else label_share * _of_all(items)
            report: LossReport = self.objective(
                student, teacher, items, whole=whole, share=share, label_share=labels
            )
        return self._touching(report) if is_sharded(self) and share == 0 else report

    def _touching(self, report: LossReport) -> LossReport:
        """The same with zero gradients if this process has no rows, but others have.

        Processes with pieces add up gradients of the same parameters, or what they send does not
        fit. A loss of the whole batch looks at the same rows in each.
        """
        losses = [term.loss for term in self.objective.active_terms if not term.loss.whole_batch]
        firsts = [weight.flatten()[:1].sum() for loss in losses for weight in loss.parameters()]
        return replace(report, total=report.total + 0 * sum(firsts))


def _of_all(items: Batch) -> float:
    """Weight of this process's labelled rows, relative to the mean over processes."""
    _, counts = all_gather_sizes(len(items.sample_ids), items.num_labelled)
    return items.num_labelled * len(counts) / max(1, sum(counts))


@functools.cache
def _let_hooks_see_reports() -> None:
    """Let FSDP's hooks see the tensors of a report, so that shards are gathered for backward."""
    torch.export.register_dataclass(LossReport)
