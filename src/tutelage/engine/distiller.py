"""One training step. Read this file first."""

from accelerate import Accelerator, DistributedType
from accelerate.optimizer import AcceleratedOptimizer
from torch.optim import Optimizer

from tutelage.engine.dot import DOT
from tutelage.engine.trainee import Trainee
from tutelage.objective import LossReport
from tutelage.teachers import Teacher
from tutelage.types import Batch

_UNWRAPPED = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.FSDP,
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
    """

    def __init__(
        self,
        trainee: Trainee,
        teacher: Teacher | None,
        optimizer: Optimizer,
        accelerator: Accelerator | None = None,
        clip_norm: float | None = None,
    ) -> None:
        """Let Accelerate prepare what is trained."""
        self.accelerator = accelerator or Accelerator()
        self.trainee, prepared = self.accelerator.prepare(trainee, optimizer)
        self.optimizer = _unwrap(self.accelerator, prepared)
        self.teacher = teacher
        self.clip_norm = clip_norm

    def step(self, batch: Batch) -> LossReport:
        """Teach the student one batch; every `accumulate`-th call updates its weights."""
        batch = batch.to(self.accelerator.device)
        with self.accelerator.accumulate(self.trainee):
            teacher = None if self.teacher is None else self.teacher(batch)
            report: LossReport = self.trainee(batch, teacher)
            if isinstance(self.optimizer, DOT):
                self.optimizer.take(report.task / self.accelerator.gradient_accumulation_steps)
            self.accelerator.backward(report.total)
            if self.accelerator.sync_gradients:
                self._update()
        return report

    def _update(self) -> None:
        if self.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.trainee.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


def _unwrap(accelerator: Accelerator, prepared: AcceleratedOptimizer) -> Optimizer:
    """The optimizer itself where Accelerate's wrapper would do nothing but call it.

    The wrapper searches the whole import path twice a step, for a package that is not there.
    """
    is_plain = accelerator.scaler is None and accelerator.distributed_type in _UNWRAPPED
    optimizer: Optimizer = prepared.optimizer if is_plain else prepared
    return optimizer
