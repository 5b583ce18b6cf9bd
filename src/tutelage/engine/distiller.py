"""One training step. Read this file first."""

import contextlib
import functools

from accelerate import Accelerator, DistributedType
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from torch.optim import Optimizer

from tutelage.engine.dot import DOT
from tutelage.engine.trainee import Trainee
from tutelage.engine.watch import GradientWatch
from tutelage.objective import LossReport
from tutelage.sharding import add_up, is_cut
from tutelage.teachers import Teacher
from tutelage.types import Batch

_UNWRAPPED = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
)


class Distiller:
    """Teacher, trainee, backward, optimizer: what happens to one batch.

    For people who keep their own loop: call `step` with batches of your own.

    Args:
        trainee: Student and objective.
        teacher: What the student learns from; None for the baseline.
        optimizer: Over `trainee.parameters()`.
        accelerator: Device, gradient accumulation and processes; None makes a plain one.
        clip_norm: Largest gradient norm; None clips nothing.
        parts: Into how many a batch is cut where the whole takes too much memory; the gradients
            are those of the whole, but for losses and layers that compare samples.

    Attributes:
        due: Micro-steps of the update under way: the accelerator's accumulation steps, or fewer
            where that many are left; set it before the first of them.
    """

    def __init__(
        self,
        trainee: Trainee,
        teacher: Teacher | None,
        optimizer: Optimizer,
        accelerator: Accelerator | None = None,
        clip_norm: float | None = None,
        parts: int = 1,
    ) -> None:
        """Let Accelerate prepare what is trained."""
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
        self._done = 0  # micro-steps of the update under way

    def step(self, batch: Batch) -> LossReport:
        """Teach the student one batch; every `due`-th call updates its weights."""
        batch = self.batch = batch.to(self.accelerator.device)
        self._done += 1
        is_last = self._done >= self.due
        self.accelerator.sync_gradients = is_last
        add_up(self.trainee, now=is_last)
        with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.trainee):
            report = self._learn(batch) if self.parts == 1 else self._learn_in_parts(batch)
        if is_last:
            self._update()
        return report

    def _learn(self, batch: Batch, share: float = 1.0) -> LossReport:
        """Add the gradients of a batch, or of a part that is this share of one."""
        teacher = None if self.teacher is None else self.teacher(batch)
        report: LossReport = self.trainee(batch, teacher)
        report = report if share == 1 else report.share(share)
        usual = self.accelerator.gradient_accumulation_steps  # by which Accelerate divides
        learned = report if self.due == usual else report.share(usual / self.due)
        if isinstance(self.optimizer, DOT):
            self.optimizer.take(learned.task / usual)
        self.accelerator.backward(learned.total)
        return report

    def _learn_in_parts(self, batch: Batch) -> LossReport:
        """The gradients of a whole batch from parts of it, which take less memory."""
        parts = batch.parts(self.parts)
        counts = [self._count(part) for part in parts]
        whole = max(1, sum(counts))
        reports = [
            self._learn(part, count / whole) for part, count in zip(parts, counts, strict=True)
        ]
        return functools.reduce(LossReport.plus, reports)

    def _count(self, batch: Batch) -> int:
        """Items that count in the means."""
        items = self.task.items(batch)
        return len(items.sample_ids) if items.mask is None else int(items.mask.sum())

    def _update(self) -> None:
        norm, self._done = None, 0
        if self.clip_norm is not None:
            norm = self.accelerator.clip_grad_norm_(self.trainee.parameters(), self.clip_norm)
        self.watch.see(self._plain, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


def _prepared(
    accelerator: Accelerator, trainee: Trainee, optimizer: Optimizer
) -> tuple[nn.Module, Optimizer]:
    """What Accelerate makes of both; a trainee in pieces shares its gradients by itself."""
    if is_cut(trainee):
        return trainee, optimizer
    wrapped, prepared = accelerator.prepare(trainee, optimizer)
    return wrapped, _unwrap(accelerator, prepared)


def _unwrap(accelerator: Accelerator, prepared: AcceleratedOptimizer) -> Optimizer:
    """The optimizer itself where Accelerate's wrapper would do nothing but call it.

    The wrapper searches the whole import path twice a step, for a package that is not there.
    """
    is_plain = accelerator.scaler is None and accelerator.distributed_type in _UNWRAPPED
    optimizer: Optimizer = prepared.optimizer if is_plain else prepared
    return optimizer
