"""One training step. Read this file first."""

from accelerate import Accelerator
from torch.optim import Optimizer

from tutelage.engine.trainee import Trainee
from tutelage.objective import LossReport
from tutelage.teachers import Teacher
from tutelage.types import Batch


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
        self.trainee, self.optimizer = self.accelerator.prepare(trainee, optimizer)
        self.teacher = teacher
        self.clip_norm = clip_norm

    def step(self, batch: Batch) -> LossReport:
        """Teach the student one batch; every `accumulate`-th call updates its weights."""
        batch = batch.to(self.accelerator.device)
        with self.accelerator.accumulate(self.trainee):
            teacher = None if self.teacher is None else self.teacher(batch)
            report: LossReport = self.trainee(batch, teacher)
            self.accelerator.backward(report.total)
            if self.clip_norm is not None and self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.trainee.parameters(), self.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return report
