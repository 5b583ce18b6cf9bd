"""One training step. Read this file first."""

import contextlib
import functools

from accelerate import Accelerator, DistributedType
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from torch.optim import Optimizer

from tutelage import distributed
from tutelage.engine.dot import DOT
from tutelage.engine.training_module import TrainingModule
from tutelage.engine.watch import GradientWatch
from tutelage.objective import LossReport
from tutelage.sharding import is_sharded, set_requires_gradient_sync
from tutelage.teachers import Teacher
from tutelage.types import Batch

_UNWRAPPED = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
)


class Distiller:
    """Teacher, training module, backward and optimizer: one training step.

    For people who keep their own loop: call `step` with batches of your own.

    Args:
        trainee: Student and objective.
        teacher: What the student learns from; None for the baseline.
        optimizer: Over `trainee.parameters()`.
        accelerator: Device, gradient accumulation and processes; None makes a plain one.
        clip_norm: Largest gradient norm; None clips nothing.
        parts: Into how many a batch is cut where the whole takes too much memory; the gradients
            are those of the whole, but for losses and layers that compare samples.
        labelled_share: Share of the training samples that have a label, where some have none:
            micro-steps of an update then weigh by their labels in terms that need one. None weighs
            them by their samples.

    Attributes:
        due: Micro-steps of the update under way: the accelerator's accumulation steps, or fewer
            where that many are left; set it before the first of them.
    """

    def __init__(
        self,
        trainee: TrainingModule,
        teacher: Teacher | None,
        optimizer: Optimizer,
        accelerator: Accelerator | None = None,
        clip_norm: float | None = None,
        parts: int = 1,
        labelled_share: float | None = None,
    ) -> None:
        """Let Accelerate prepare the trained modules."""
        self.accelerator = accelerator or Accelerator()
        self._plain = trainee  # whose names are the user's, however it is wrapped
        self.trainee, self.optimizer = _prepared(self.accelerator, trainee, optimizer)
        self.teacher = teacher
        self.clip_norm = clip_norm
        self.parts = parts
        self.task = trainee.task
        self.watch = GradientWatch()
        self.batch: Batch | None = None  # the last one, to look at where something went wrong
        self.due = self.accelerator.gradient_accumulation_steps
        self.labelled_share = labelled_share
        self._done = 0  # micro-steps of the update under way
        self._counts: list[int] = []  # items of each, in all processes

    def step(self, batch: Batch) -> LossReport:
        """Train the student on one batch; every `due`-th call updates its weights.

        The gradient of an update is that of the mean over all items of its batches, however many
        items each has: padded texts and a last, smaller batch weigh by their items.
        """
        batch = self.batch = batch.to(self.accelerator.device)
        self._done += 1
        is_last = self._done >= self.due
        self.accelerator.sync_gradients = is_last
        set_requires_gradient_sync(self.trainee, now=is_last)
        with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.trainee):
            weight, labels = self._weigh(batch), self._weigh_labels(batch)
            if self.parts == 1:
                report = self._learn(batch, weight, label_share=labels)
            else:
                report = self._learn_in_parts(batch, weight, labels)
        if is_last:
            self._update()
        return report

    def _weigh(self, batch: Batch) -> float:
        """Weight of the batch by items, relative to the first non-empty batch of the update.

        How many the whole update has is known at its end alone; `_rescale` divides by it then. So
        batches of equal counts are learned exactly as if nobody had counted.
        """
        if self.due == 1:
            return 1.0
        self._counts.append(self.num_items(batch))
        first = next((count for count in self._counts if count), 1)
        return self._counts[-1] / first

    def num_items(self, batch: Batch) -> int:
        """Number of valid items of a batch, over all processes."""
        own = self._count(batch)
        return (
            sum(distributed.all_gather_sizes(own, own)[1])
            if distributed.world().is_distributed
            else own
        )

    def _weigh_labels(self, batch: Batch) -> float:
        """Weight of the batch's share of labelled items, relative to that of the training data.

        What the whole update has is not known before its end, when the terms are one sum. So a
        labelled item weighs the same in every update of as many items.
        """
        if self.due == 1 or batch.is_labelled is None or not self.labelled_share:
            return 1.0
        own = self._count(batch), self.task.items(batch).num_labelled
        count, labelled = own
        if distributed.world().is_distributed:
            count, labelled = map(sum, distributed.all_gather_sizes(*own))
        return labelled / max(1, count) / self.labelled_share

    def _rescale(self) -> None:
        """Scale the gradient to that of the mean over all items of the update."""
        counts, self._counts = self._counts, []
        first = next((count for count in counts if count), 0)
        if first * len(counts) == sum(counts):
            return
        factor = first * len(counts) / sum(counts)
        for parameter in self.trainee.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        if isinstance(self.optimizer, DOT):
            self.optimizer.scale_taken(factor)

    def _learn(
        self, batch: Batch, weight: float, share: float = 1.0, label_share: float = 1.0
    ) -> LossReport:
        """Add the gradients of a batch with a weight, or of a split part with its share."""
        teacher = None if self.teacher is None else self.teacher(batch)
        report: LossReport = self.trainee(batch, teacher, label_share)
        report = report if share == 1 else report.share(share)
        usual = self.accelerator.gradient_accumulation_steps  # by which Accelerate divides
        factor = weight if self.due == usual else weight * usual / self.due
        learned = report if factor == 1 else report.share(factor)
        if isinstance(self.optimizer, DOT):
            self.optimizer.take(learned.task / usual)
        self.accelerator.backward(learned.total)
        return report

    def _learn_in_parts(self, batch: Batch, weight: float, label_share: float) -> LossReport:
        """Gradients of a whole batch from its parts, which need less memory."""
        parts = batch.parts(self.parts)
        counts = [self._count(part) for part in parts]
        labelled = [self.task.items(part).num_labelled for part in parts]
        whole, all_labelled = max(1, sum(counts)), max(1, sum(labelled))
        reports = [
            self._learn(
                part,
                weight,
                share=count / whole,
                label_share=label_share * whole * labels / (all_labelled * max(1, count)),
            )
            for part, count, labels in zip(parts, counts, labelled, strict=True)
        ]
        return functools.reduce(LossReport.plus, reports)

    def _count(self, batch: Batch) -> int:
        """Number of valid items."""
        items = self.task.items(batch)
        return len(items.sample_ids) if items.mask is None else int(items.mask.sum())

    def _update(self) -> None:
        norm, self._done = None, 0
        self._rescale()
        if self.clip_norm is not None:
            norm = self.accelerator.clip_grad_norm_(self.trainee.parameters(), self.clip_norm)
        self.watch.see(self._plain, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


def _prepared(
    accelerator: Accelerator, trainee: TrainingModule, optimizer: Optimizer
) -> tuple[nn.Module, Optimizer]:
    """Both as Accelerate prepares them; a sharded module reduces its gradients itself."""
    if is_sharded(trainee):
        return trainee, optimizer
    wrapped, prepared = accelerator.prepare(trainee, optimizer)
    return wrapped, _unwrap(accelerator, prepared)


def _unwrap(accelerator: Accelerator, prepared: AcceleratedOptimizer) -> Optimizer:
    """The optimizer itself, if Accelerate's wrapper would only forward to it.

    The wrapper searches the whole import path twice a step, for a package that is not there.
    """
    is_plain = accelerator.scaler is None and accelerator.distributed_type in _UNWRAPPED
    optimizer: Optimizer = prepared.optimizer if is_plain else prepared
    return optimizer
