"""The loop around the step: epochs, validation, checkpoints, and what a training leaves."""

import contextlib
import copy
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tutelage.data.loading import Reader, has_unlabelled, in_order, iterate, training_requests
from tutelage.engine.checkpoint import Progress, load_checkpoint, save_checkpoint
from tutelage.engine.distiller import Distiller
from tutelage.engine.events import Advanced, EpochDone, Listener, TensorBoardLog, ignore
from tutelage.engine.interrupt import DeferredInterrupt, Interrupted
from tutelage.engine.memory import free, told_where
from tutelage.engine.settings import TrainSettings
from tutelage.engine.trainee import Trainee
from tutelage.engine.watch import is_constant
from tutelage.errors import GradientError, OutOfMemoryError, TeacherChangedError, TrainingError
from tutelage.objective import LossReport, Objective
from tutelage.records import MetricPoint
from tutelage.tasks import Task
from tutelage.teachers import CanCheck, Teacher
from tutelage.types import Batch, Signal

CHECKPOINT = "checkpoint.safetensors"
CHECK_EVERY = 50


@dataclass(frozen=True, slots=True)
class Arm:
    """One training to do.

    Attributes:
        name: "teacher", "baseline" or "distilled".
        seed: Of the order of data and views, and of whatever the networks draw while training.
        objective: What is minimised.
        task: How the network is called.
        settings: Length, optimizer and so on.
        train: Training data with its view policy.
        valid: Validation data; None selects the last epoch.
        teacher: What is learned from; None where the objective needs none.
        folder: Where checkpoints and logs go.
        key: Fingerprint of all that the training depends on.
    """

    name: str
    seed: int
    objective: Objective
    task: Task
    settings: TrainSettings
    train: Reader
    valid: Reader | None
    teacher: Teacher | None
    folder: Path
    key: str

    @property
    def micro_steps(self) -> int:
        """Micro-steps of one epoch."""
        return -(-len(self.train) // self.settings.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer updates of the whole training."""
        return max(1, self.settings.epochs * self.micro_steps // self.settings.accumulate)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A finished training.

    Attributes:
        last: The network after the last epoch, on the CPU.
        selected: The network of the best epoch on the validation data; the last one without.
        progress: Curve, best epoch, steps and time.
    """

    last: nn.Module
    selected: nn.Module
    progress: Progress


def fit(student: nn.Module, arm: Arm, listener: Listener = ignore) -> Fitted:
    """Train a network, or go on where the arm's checkpoint stands.

    Args:
        student: The network with its initial weights; it is trained in place.
        arm: What to train it on and how.
        listener: Told of every step.

    Returns:
        The trained networks and the curve.

    Raises:
        TrainingError: The loss is not finite; the last good checkpoint is kept.
        Interrupted: Ctrl-C or SIGTERM; the state was saved.
        SignalError: The objective needs what neither teacher nor data gives.
    """
    _check_signals(arm)
    with DeferredInterrupt() as interrupt:
        fitted = _fit_in_memory(student, arm, listener, interrupt)
    _check_teacher(arm)
    return fitted


def _fit_in_memory(
    student: nn.Module, arm: Arm, listener: Listener, interrupt: DeferredInterrupt
) -> Fitted:
    """Train; where memory runs out go on with the same batches in twice as many parts."""
    trained = nn.ModuleList([student, arm.objective])
    first = copy.deepcopy(trained.state_dict())
    parts, place = 1, f"{arm.name}, seed {arm.seed}"
    while True:
        loop = None
        try:
            with told_where(place):
                loop = _Loop(student, arm, listener, parts)
                return loop.run(interrupt)
        except OutOfMemoryError:
            parts = 2 * (parts if loop is None else loop.distiller.parts)
            if parts > arm.settings.batch_size or int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise
        del loop
        free()
        trained.load_state_dict(first)


def _check_teacher(arm: Arm) -> None:
    """What was learned from a teacher that changed meanwhile is thrown away."""
    if not isinstance(arm.teacher, CanCheck):
        return
    try:
        arm.teacher.check()
    except TeacherChangedError as error:
        (arm.folder / CHECKPOINT).unlink(missing_ok=True)
        raise TeacherChangedError(f"{arm.name}, seed {arm.seed}: {error}") from error


class _Loop:
    """State of one training while it runs."""

    def __init__(self, student: nn.Module, arm: Arm, listener: Listener, parts: int = 1) -> None:
        self.arm = arm
        self.listener = listener
        settings = arm.settings
        torch.manual_seed(arm.seed)
        trainee = Trainee(student, arm.objective, arm.task, settings.precision)
        self.optimizer = settings.optimizer.build(trainee.parameters())
        self.accelerator = Accelerator(
            gradient_accumulation_steps=settings.accumulate, mixed_precision="no"
        )
        self.distiller = Distiller(
            trainee, arm.teacher, self.optimizer, self.accelerator, settings.clip_norm
        )
        self.trainee = trainee
        self.device = self.accelerator.device
        self.selected = copy.deepcopy(student)
        self.modules = {"trainee": trainee, "selected": self.selected}
        self.average: AveragedModel | None = None
        if settings.ema is not None:
            average = get_ema_multi_avg_fn(settings.ema)
            self.average = AveragedModel(student, multi_avg_fn=average, use_buffers=True)
            self.modules["average"] = self.average
        path = arm.folder / CHECKPOINT
        self.progress = load_checkpoint(path, self.modules, self.optimizer, arm.key) or Progress()
        self.progress.parts = self.distiller.parts = max(parts, self.progress.parts)
        self.dead_epochs = 0
        self._set_schedules(max(0, self.progress.step - 1))  # as the last step left them
        self.sums = torch.tensor(self.progress.sums, dtype=torch.float64, device=self.device)
        self.one = torch.ones((), device=self.device)
        self.saved_at = time.monotonic()
        self.clock = time.perf_counter()

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and kept."""
        return self.trainee.student if self.average is None else self.average.module

    def run(self, interrupt: DeferredInterrupt) -> Fitted:
        with contextlib.ExitStack() as stack:
            log = self._open_log(stack)
            while self.progress.epoch < self.arm.settings.epochs:
                for report, rows in self._steps():
                    self._count(report, rows)
                    self._save_if_due(interrupt)
                point = self._end_epoch()
                if log is not None:
                    log.add(point)
                self.listener(EpochDone(point))
        self._save()
        if interrupt.requested:  # during the last validation, when no step was left to notice
            raise self._interrupted()
        last = copy.deepcopy(self.judged).cpu().eval()
        selected = self.selected.cpu().eval() if self.progress.best_epoch else last
        return Fitted(last, selected, self.progress)

    def _open_log(self, stack: contextlib.ExitStack) -> TensorBoardLog | None:
        if not self.arm.settings.tensorboard:
            return None
        folder = self.arm.folder / "tensorboard"
        metric = self.arm.task.metric.name
        return stack.enter_context(TensorBoardLog(folder, self.progress.step, metric))

    def _steps(self) -> Iterator[tuple[LossReport, int]]:
        """Micro-steps that are left of the epoch under way."""
        self.trainee.train()
        for batch in self._batches():
            self._set_schedules(self.progress.step)
            try:
                report = self.distiller.step(batch)
            except GradientError as error:
                self._stop(str(error), "", type(error))
            yield report, len(batch)

    def _batches(self) -> Iterator[Batch]:
        arm = self.arm
        requests = training_requests(
            len(arm.train),
            arm.train.views,
            batch_size=arm.settings.batch_size,
            seed=arm.seed,
            epoch=self.progress.epoch,
            lengths=arm.train.lengths,
        )
        for _ in range(self.progress.micro_step):
            next(requests)
        return iterate(arm.train, requests, arm.settings.workers)

    def _set_schedules(self, step: int) -> None:
        """Learning rate, and whatever in the objective moves with the training."""
        settings = self.arm.settings
        factor = settings.schedule.factor(step, self.arm.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.optimizer.lr * factor
        self.trainee.objective.progress = step / self.arm.total_steps

    def _count(self, report: LossReport, rows: int) -> None:
        """Add one micro-step to the sums, and stop if the numbers go wrong."""
        progress = self.progress
        progress.micro_step += 1
        if self.accelerator.sync_gradients:
            progress.step += 1
            self._limit_norms()
            if self.average is not None:
                self.average.update_parameters(self.trainee.student)
        values = torch.stack([self.one, report.total.detach(), *report.parts.values()])
        if len(self.sums) == 0:
            self.sums = torch.zeros(len(values), dtype=torch.float64, device=self.device)
        self.sums.add_(values, alpha=rows)
        if self.device.type == "cpu" or progress.micro_step % CHECK_EVERY == 0:
            self._check_finite(report)
        done = progress.epoch * self.arm.micro_steps + progress.micro_step
        self.listener(Advanced(done, self.arm.settings.epochs * self.arm.micro_steps))

    @torch.no_grad()
    def _limit_norms(self) -> None:
        """Shrink the incoming weights of units that have grown beyond the limit."""
        limit = self.arm.settings.max_norm
        if limit is None:
            return
        for module in self.trainee.student.modules():
            if isinstance(module, nn.Linear) and module.weight.requires_grad:
                module.weight.renorm_(p=2, dim=0, maxnorm=limit)

    def _check_finite(self, report: LossReport) -> None:
        if math.isfinite(self.sums[1].item()):
            return
        parts = ", ".join(f"{name} {float(value):g}" for name, value in report.parts.items())
        self._stop(f"the loss is {float(self.sums[1])}", f" ({parts})" if parts else "")

    def _check_weights(self) -> None:
        """Stop rather than save or judge a network that is lost, though its last loss was fine."""
        for name, weight in self.trainee.named_parameters():
            if not bool(weight.isfinite().all()):
                self._stop(f"{name} is not finite", "")

    def _stop(self, what: str, details: str, kind: type[TrainingError] = TrainingError) -> NoReturn:
        _check_teacher(self.arm)  # it may be the reason
        checkpoint = self.arm.folder / CHECKPOINT
        kept = f"The last good checkpoint is {checkpoint}."
        raise kind(
            f"{self.arm.name}, seed {self.arm.seed}: {what} in epoch {self.progress.epoch + 1}, "
            f"step {self.progress.step}{details}. "
            f"{kept if checkpoint.is_file() else 'Nothing was saved yet.'} Try a smaller "
            "optimizer.lr, train.clip_norm: 1, or schedule.warmup_steps; look for NaN in the data."
        )

    def _end_epoch(self) -> MetricPoint:
        self._check_epoch_finite()
        self._check_alive()
        valid_metric, valid_loss = self._validate()
        progress = self.progress
        self._tick()
        count, total, *parts = self.sums.tolist()
        names = [term.name for term in self.arm.objective.counted]
        point = MetricPoint(
            epoch=progress.epoch + 1,
            step=progress.step,
            train_loss=total / count,
            train_parts={n: part / count for n, part in zip(names, parts, strict=True)},
            valid_metric=valid_metric,
            valid_loss=valid_loss,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            seconds=progress.epoch_seconds,
        )
        self._select(valid_metric, point.epoch)
        progress.curve.append(point)
        progress.epoch, progress.micro_step, progress.epoch_seconds = point.epoch, 0, 0.0
        self.sums = self.sums[:0]
        return point

    def _check_epoch_finite(self) -> None:
        zero = torch.zeros((), device=self.device)
        self._check_finite(LossReport(zero, {}, zero))
        self._check_weights()

    def _check_alive(self) -> None:
        """Stop where a network has given one output for everything at the ends of two epochs."""
        reader = self.arm.valid or self.arm.train
        rows = -(-self.arm.settings.batch_size // self.progress.parts)
        is_dead = is_constant(self.judged, self.arm.task, reader, self.device, most=rows)
        self.dead_epochs = self.dead_epochs + 1 if is_dead else 0
        if self.dead_epochs >= min(2, self.arm.settings.epochs):
            self._stop("the student is dead: it gives the same outputs for every sample", "")

    def _select(self, valid_metric: float | None, epoch: int) -> None:
        """Keep the network if it is the best so far; of equals the later one."""
        best, rank = self.progress.best_metric, self.arm.task.metric.rank
        if valid_metric is None or (best is not None and rank(valid_metric) < rank(best)):
            return
        self.progress.best_metric, self.progress.best_epoch = valid_metric, epoch
        self.selected.load_state_dict(self.judged.state_dict())

    def _validate(self) -> tuple[float | None, float | None]:
        if self.arm.valid is None:
            return None, None
        rows = -(-self.arm.settings.batch_size // self.progress.parts)
        requests = in_order(len(self.arm.valid), batch_size=rows)
        batches = iterate(self.arm.valid, requests, self.arm.settings.workers)
        return self.arm.task.validate(self.arm.task.predict(self.judged, batches, self.device))

    def _save_if_due(self, interrupt: DeferredInterrupt) -> None:
        """Save at a full update, when it is time or when the run is asked to stop."""
        is_due = time.monotonic() - self.saved_at > self.arm.settings.checkpoint_s
        if not self.accelerator.sync_gradients or not (is_due or interrupt.requested):
            return
        self._check_epoch_finite()
        self._save()
        if interrupt.requested:
            raise self._interrupted()

    def _interrupted(self) -> Interrupted:
        epoch = min(self.progress.epoch + 1, self.arm.settings.epochs)
        return Interrupted(
            f"{self.arm.name}, seed {self.arm.seed}: stopped in epoch {epoch}; the state is saved"
        )

    def _save(self) -> None:
        self._tick()
        self.progress.sums = self.sums.tolist()
        path = self.arm.folder / CHECKPOINT
        save_checkpoint(path, self.modules, self.optimizer, self.progress, self.arm.key)
        self.saved_at = time.monotonic()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self.clock
        self.progress.epoch_seconds += now - self.clock
        self.clock = now


def _check_signals(arm: Arm) -> None:
    _, labels = arm.train.source.fetch(torch.tensor([0]))
    gives = frozenset() if labels is None else frozenset({Signal.LABELS})
    giver = "the training data" + ("" if labels is not None else " (no labels)")
    if arm.teacher is not None:
        gives |= arm.teacher.gives
        giver += f" with {type(arm.teacher).__name__}"
    arm.objective.check(gives, giver)
    if has_unlabelled(arm.train.source):
        arm.objective.check_gaps(giver)
