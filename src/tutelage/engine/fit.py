"""The training loop: epochs, validation, checkpoints and results."""

import contextlib
import copy
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from tutelage import distributed
from tutelage.data.loading import (
    BatchBuilder,
    SampleIndex,
    iterate,
    num_batches,
    training_requests,
)
from tutelage.data.randomness import seeded_draws
from tutelage.data.views import mix
from tutelage.engine.average import Average
from tutelage.engine.checkpoint import Progress, load_checkpoint, save_checkpoint
from tutelage.engine.distiller import Distiller
from tutelage.engine.events import Advanced, EpochDone, Listener, TensorBoardLog, ignore
from tutelage.engine.generation import WritingSettings, maybe_generate
from tutelage.engine.interrupt import DeferredInterrupt, Interrupted
from tutelage.engine.memory import free, most_parts, oom_context
from tutelage.engine.processes import StopSync, make_accelerator, predict_together
from tutelage.engine.settings import TrainSettings
from tutelage.engine.snapshot import Snapshot
from tutelage.engine.training_module import TrainingModule
from tutelage.engine.watch import is_constant
from tutelage.errors import (
    GradientError,
    ModelError,
    OutOfMemoryError,
    RunFolderError,
    TeacherChangedError,
    TrainingError,
)
from tutelage.models.attention import fastest_attention
from tutelage.models.copies import copied
from tutelage.objective import LossReport, Objective
from tutelage.records import MetricPoint
from tutelage.sharding import gather, local, shard
from tutelage.tasks import Task
from tutelage.tasks.numbers import check_numbers
from tutelage.tasks.tokens import tokens_a_sample
from tutelage.teachers import CanCheck, ModuleTeacher, Teacher
from tutelage.types import Batch, Signal

CHECKPOINT = "checkpoint.safetensors"
CHECK_EVERY = 50


@dataclass(frozen=True, slots=True)
class Arm:
    """A training to run.

    Attributes:
        name: "teacher", "baseline" or "distilled".
        seed: Seed of the order of data and views, and of whatever the networks draw while training.
        objective: What is minimised.
        task: How the network is called.
        settings: Length, optimizer and so on.
        train: Training data with its view policy.
        valid: Validation data; None selects the last epoch.
        teacher: What is learned from; None where the objective needs none.
        folder: Where checkpoints and logs go.
        key: Fingerprint of all that the training depends on.
        writing: How much of the text is written by a network; None reads all of it.
    """

    name: str
    seed: int
    objective: Objective
    task: Task
    settings: TrainSettings
    train: BatchBuilder
    valid: BatchBuilder | None
    teacher: Teacher | None
    folder: Path
    key: str
    writing: WritingSettings | None = None

    @property
    def micro_steps(self) -> int:
        """Micro-steps of one epoch."""
        return num_batches(len(self.train), self.settings.batch_size)

    @property
    def most_rows(self) -> int:
        """Samples of the largest batch."""
        return self.settings.most_rows(len(self.train))

    @property
    def total_micro_steps(self) -> int:
        """Micro-steps of the whole training."""
        return self.settings.epochs * self.micro_steps

    @property
    def total_steps(self) -> int:
        """Optimizer updates of the whole training; the last may have fewer micro-steps."""
        return -(-self.total_micro_steps // self.settings.accumulate)

    def due(self, done: int) -> int:
        """Micro-steps of the current update after this many of the training.

        Updates run on over the ends of epochs; what is left at the end of the training makes a
        last, smaller one.
        """
        accumulate = self.settings.accumulate
        return min(accumulate, self.total_micro_steps - done // accumulate * accumulate)


@dataclass(frozen=True, slots=True)
class FitResult:
    """A finished training.

    Attributes:
        last: The network after the last epoch, on the CPU.
        selected: The network of the best epoch on the validation data; the last one without.
        progress: Curve, best epoch, steps and time.
        adapters: What the objective's own losses had learned when the selected network stood where
            it does, on the CPU.
    """

    last: nn.Module
    selected: nn.Module
    progress: Progress
    adapters: Mapping[str, Tensor]


def fit(student: nn.Module, arm: Arm, listener: Listener = ignore) -> FitResult:
    """Train a network, or resume from the arm's checkpoint.

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
    with DeferredInterrupt() as interrupt, seeded_draws(arm.seed):
        fitted = _fit_in_memory(student, arm, listener, interrupt)
    _check_teacher(arm)
    return fitted


def _fit_in_memory(
    student: nn.Module, arm: Arm, listener: Listener, interrupt: DeferredInterrupt
) -> FitResult:
    """Train; if memory runs out, continue with batches split into twice as many parts."""
    trained = nn.ModuleList([student, arm.objective])
    first = copy.deepcopy(trained.state_dict())
    parts, place = 1, f"{arm.name}, seed {arm.seed}"
    most = most_parts(arm.most_rows, trained)
    while True:
        loop = None
        try:
            with oom_context(place):
                loop = _Loop(student, arm, listener, parts)
                return loop.run(interrupt)
        except OutOfMemoryError:
            parts = 2 * (parts if loop is None else loop.distiller.parts)
            if parts > most or int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise
        del loop
        trained.zero_grad()  # of micro-steps before the one that did not fit
        free()
        trained.load_state_dict(first)


def _check_teacher(arm: Arm) -> None:
    """Discard what was learned from a teacher that changed during training."""
    if not isinstance(arm.teacher, CanCheck):
        return
    try:
        arm.teacher.check()
    except TeacherChangedError as error:
        (arm.folder / CHECKPOINT).unlink(missing_ok=True)
        raise TeacherChangedError(f"{arm.name}, seed {arm.seed}: {error}") from error


class _Loop:
    """State of a running training."""

    seen = 0.0  # tokens, for the rate

    def __init__(self, student: nn.Module, arm: Arm, listener: Listener, parts: int = 1) -> None:
        self.arm, self.listener = arm, listener
        settings = arm.settings
        torch.manual_seed(arm.seed)
        self.ranks = distributed.world()
        trainee = TrainingModule(student, arm.objective, arm.task, settings.precision)
        self.selected = copied(student)
        self.learned = Snapshot(arm.objective)  # of the losses, of the selected network's epoch
        self.average = None if settings.ema is None else Average(student, settings.ema)
        self.whole = self._cut(trainee) if settings.shard and self.ranks.is_distributed else None
        self.optimizer = settings.optimizer.build(trainee.parameters())
        self.meetings = StopSync()
        self.accelerator = make_accelerator(settings.accumulate)
        with warnings.catch_warnings():  # of a setting's new name that Accelerate does not know
            warnings.filterwarnings("ignore", "`broadcast_buffers`", category=FutureWarning)
            self.distiller = Distiller(
                trainee,
                arm.teacher,
                self.optimizer,
                self.accelerator,
                settings.clip_norm,
                labelled_share=arm.train.source.labelled_share,
            )
        self.trainee = trainee
        self.device = self.accelerator.device
        self.modules = {"trainee": trainee, "selected": self.selected, "learned": self.learned}
        if self.average is not None:
            self.modules["average"] = self.average.to(self.device)
        self.path = arm.folder / CHECKPOINT
        self.progress = self._load() or Progress()
        self._cut_batches(parts)
        self.dead_epochs = 0
        self._check_together()
        self._set_schedules(max(0, self.progress.step - 1))  # as the last step left them
        self.sums = torch.tensor(self.progress.sums, dtype=torch.float64, device=self.device)
        self.one = torch.ones((), device=self.device)
        self.saved_at = time.monotonic()
        self.clock = self.began = time.perf_counter()

    def _cut_batches(self, parts: int) -> None:
        """Number of parts per batch, the same in all processes."""
        whole = self.ranks.is_distributed
        self.progress.parts = 1 if whole else max(parts, self.progress.parts)
        self.distiller.parts = self.progress.parts

    def _cut(self, trainee: TrainingModule) -> nn.Module:
        """Shard what is trained among the processes; returns the network of the shards."""
        whole = copied(trainee.student)
        trainee.cut()
        if self.average is not None:
            shard(self.average.module, self.average.module)
        return whole

    def _judged(self) -> nn.Module:
        """The whole network that is validated and kept."""
        judged = self.trainee.student if self.average is None else self.average.module
        return judged if self.whole is None else gather(judged, self.whole.to(self.device))

    def run(self, interrupt: DeferredInterrupt) -> FitResult:
        with contextlib.ExitStack() as stack:
            log = self._open_log(stack)
            settings, longest = self.arm.settings, self.arm.train.longest
            stack.enter_context(
                fastest_attention(self.trainee, self.device, settings.precision, longest)
            )
            while self.progress.epoch < self.arm.settings.epochs:
                for report, items in self._steps():
                    self._count(report, items)
                    self._save_if_due(interrupt)
                point = self._end_epoch()
                if log is not None:
                    log.add(point)
                self.listener(EpochDone(point))
        self._save()
        stop, _ = StopSync().agree(stop=interrupt.requested, save=False)
        if stop:  # during the last validation, when no step was left to notice
            raise self._interrupted()
        last = copied(self._judged()).cpu().eval()
        selected = self.selected.cpu().eval() if self.progress.best_epoch else last
        if not self.progress.best_epoch:
            self.learned.take(self.trainee.objective)
        return FitResult(last, selected, self.progress, self.learned.tensors())

    def _check_together(self) -> None:
        """Check that all processes resume from one point, which separate folders would break."""
        least, most = distributed.all_reduce_max(
            [-float(self.progress.step), float(self.progress.step)]
        )
        if -least != most:
            raise RunFolderError(
                f"{self.arm.folder}: processes see different checkpoints (steps {-least:.0f} and "
                f"{most:.0f}). Put the run folder where all machines see it."
            )

    def _open_log(self, stack: contextlib.ExitStack) -> TensorBoardLog | None:
        if not self.arm.settings.tensorboard or not self.ranks.is_main:
            return None
        folder = self.arm.folder / "tensorboard"
        metric = self.arm.task.metric.name
        return stack.enter_context(TensorBoardLog(folder, self.progress.step, metric))

    def _steps(self) -> Iterator[tuple[LossReport, int]]:
        """Remaining micro-steps of the current epoch, and the items of each."""
        self.trainee.train()
        for batch, rows in self._batches():
            self.seen += rows * tokens_a_sample(batch)
            self._set_schedules(self.progress.step)
            done = self._done
            self.distiller.due = self.arm.due(done)
            if self.ranks.is_distributed:  # each draws its own dropout, also after a resume
                torch.manual_seed(int(mix(self.arm.seed, done, self._stream)))
            try:
                report = self.distiller.step(self._written(batch))
            except GradientError as error:
                self._stop(str(error), "", type(error))
            yield report, self._num_items(rows)

    def _num_items(self, rows: int) -> int:
        """Items that the last batch's loss is a mean over: samples, or valid tokens."""
        batch = self.distiller.batch
        if batch is None or self.arm.task.items_per_sample is not None:
            return rows  # as many items of every sample
        return self.distiller.num_items(batch)

    @property
    def _done(self) -> int:
        """Micro-steps done so far."""
        return self.progress.epoch * self.arm.micro_steps + self.progress.micro_step

    @property
    def _stream(self) -> int:
        """Random stream of dropout; processes with shards must drop the same blocks."""
        return self.ranks.number if self.whole is None else 0

    def _written(self, batch: Batch) -> Batch:
        """The batch, or text generated in its place; reproducible for a given step."""
        settings, teacher = self.arm.writing, self.arm.teacher
        if settings is None:
            return batch
        writer = self.trainee.student
        if settings.writer == "teacher":
            assert isinstance(teacher, ModuleTeacher), "a recipe asks for a live one"
            writer = teacher.model
        with self.trainee.autocast(self.device):
            return maybe_generate(
                batch.to(self.device),
                writer,
                settings,
                vocab_size=self.arm.task.width,
                seed=self.arm.seed * 1_000_003 + self._done,
                rank=self.ranks.number,
            )

    def _batches(self) -> Iterator[tuple[Batch, int]]:
        """This process's rows of each batch, and the size of the whole batch."""
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
        if not self.ranks.is_distributed:
            for batch in iterate(arm.train, requests, arm.settings.workers):
                yield batch, len(batch)
            return
        own = (_picked(request, self.ranks.share(len(request[0]))[0]) for request in requests)
        size, last = arm.settings.batch_size, arm.micro_steps - 1
        batches = iterate(arm.train, own, arm.settings.workers)
        for number, batch in enumerate(batches, start=self.progress.micro_step):
            rows = size if number < last else len(arm.train) - last * size
            yield _with_mask(batch, self.ranks.share(rows)[1]), rows

    def _set_schedules(self, step: int) -> None:
        """Set the learning rate and the scheduled weights of the objective."""
        settings = self.arm.settings
        factor = settings.schedule.factor(step, self.arm.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.trainee.objective.progress = step / self.arm.total_steps

    def _count(self, report: LossReport, items: int) -> None:
        """Add one micro-step to the sums, and stop if the values diverge."""
        progress = self.progress
        progress.micro_step += 1
        if self.accelerator.sync_gradients:
            progress.step += 1
            self._limit_norms()
            if self.average is not None:
                self.average.update(self.trainee.student)
        values = torch.stack([self.one, report.total.detach(), *report.parts.values()])
        if len(self.sums) == 0:
            self.sums = torch.zeros(len(values), dtype=torch.float64, device=self.device)
        self.sums.add_(values, alpha=items)
        if not self.ranks.is_distributed and (
            self.device.type == "cpu" or progress.micro_step % CHECK_EVERY == 0
        ):
            self._check_finite(report)
        self.listener(Advanced(self._done, self.arm.total_micro_steps, self._rate()))

    def _rate(self) -> str:
        """Tokens per second since the training started or resumed, if an item is a token."""
        seconds = time.perf_counter() - self.began
        return f"{self.seen / seconds:,.0f} tokens/s" if self.seen else ""

    @torch.no_grad()
    def _limit_norms(self) -> None:
        """Shrink the incoming weights of units that exceed the limit."""
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
        """Stop before saving or validating a diverged network, even if its last loss was finite."""
        names, weights = zip(*self.trainee.named_parameters(), strict=True)
        lost = distributed.all_reduce_max(
            [float(not local(weight).isfinite().all()) for weight in weights]
        )
        if any(lost):
            self._stop(f"{names[lost.index(1)]} is not finite", "")

    def _stop(self, what: str, details: str, kind: type[TrainingError] = TrainingError) -> NoReturn:
        _check_teacher(self.arm)  # it may be the reason
        self._check_said(kind)
        kept = f"The last good checkpoint is {self.path}."
        raise kind(
            f"{self.arm.name}, seed {self.arm.seed}: {what} in epoch {self.progress.epoch + 1}, "
            f"step {self.progress.step}{details}. "
            f"{kept if self.path.is_file() else 'Nothing was saved yet.'} Try a smaller "
            "optimizer.lr, train.clip_norm: 1, or schedule.warmup_steps; look for NaN in the data."
        )

    def _check_said(self, kind: type[TrainingError]) -> None:
        """Name the teacher if its outputs for the last batch are not finite."""
        batch, teacher = self.distiller.batch, self.arm.teacher
        if batch is None or teacher is None:
            return
        ids = self.arm.task.items(batch).sample_ids
        try:
            network = getattr(teacher, "network", teacher)
            check_numbers(network, teacher(batch).logits, ids, "training data")
        except ModelError as error:
            raise kind(f"{self.arm.name}, seed {self.arm.seed}: teacher: {error}") from error

    def _pool(self) -> None:
        """Average sums and buffers over all processes."""
        distributed.all_reduce_mean([self.sums])
        for module in self.modules.values():
            distributed.copy_buffers(module)

    def _end_epoch(self) -> MetricPoint:
        self._pool()
        self._check_epoch_finite()
        judged = self._judged()
        self._check_alive(judged)
        valid_metric, valid_loss = self._validate(judged)
        progress = self.progress
        self._tick()
        counted, total, *parts = self.sums.tolist()
        count = counted or 1.0  # of no token at all the sums are 0 as well
        names = [term.name for term in self.arm.objective.active_terms]
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
        self._select(judged, valid_metric, point.epoch)
        progress.curve.append(point)
        progress.epoch, progress.micro_step, progress.epoch_seconds = point.epoch, 0, 0.0
        self.sums = self.sums[:0]
        return point

    def _check_epoch_finite(self) -> None:
        zero = torch.zeros((), device=self.device)
        self._check_finite(LossReport(zero, {}, zero))
        self._check_weights()

    def _check_alive(self, judged: nn.Module) -> None:
        """Stop if a network gave one output for all samples at the ends of two epochs."""
        reader = self.arm.valid or self.arm.train
        rows = -(-self.arm.most_rows // self.progress.parts)
        is_dead = is_constant(judged, self.arm.task, reader, self.device, most=rows)
        self.dead_epochs = self.dead_epochs + 1 if is_dead else 0
        if self.dead_epochs >= min(2, self.arm.settings.epochs):
            self._stop("the student is dead: it gives the same outputs for every sample", "")

    def _select(self, judged: nn.Module, valid_metric: float | None, epoch: int) -> None:
        """Keep the network if it is the best so far; on a tie the later one."""
        best, rank = self.progress.best_metric, self.arm.task.metric.rank
        if valid_metric is None or (best is not None and rank(valid_metric) < rank(best)):
            return
        self.progress.best_metric, self.progress.best_epoch = valid_metric, epoch
        self.selected.load_state_dict(judged.state_dict())
        self.learned.take(self.trainee.objective)

    def _validate(self, judged: nn.Module) -> tuple[float | None, float | None]:
        if self.arm.valid is None:
            return None, None
        said = predict_together(
            self.arm.task,
            judged,
            self.arm.valid,
            batch_size=-(-self.arm.most_rows // self.progress.parts),
            workers=self.arm.settings.workers,
            device=self.device,
        )
        return self.arm.task.validate(said)

    def _save_if_due(self, interrupt: DeferredInterrupt) -> None:
        """Save after a full update if it is due, or if the run is asked to stop."""
        if not self.accelerator.sync_gradients:
            return
        is_due = time.monotonic() - self.saved_at > self.arm.settings.checkpoint_s
        stop, save = self.meetings.agree(stop=interrupt.requested, save=is_due)
        if not (stop or save):
            return
        self._pool()
        self._check_epoch_finite()
        self._save()
        if stop:
            raise self._interrupted()

    def _interrupted(self) -> Interrupted:
        epoch = min(self.progress.epoch + 1, self.arm.settings.epochs)
        return Interrupted(
            f"{self.arm.name}, seed {self.arm.seed}: stopped in epoch {epoch}; the state is saved"
        )

    def _load(self) -> Progress | None:
        return load_checkpoint(self.path, self.modules, self.optimizer, self.arm.key)

    def _save(self) -> None:
        self._tick()
        self.progress.sums = self.sums.tolist()
        save_checkpoint(self.path, self.modules, self.optimizer, self.progress, self.arm.key)
        self.saved_at = time.monotonic()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self.clock
        self.progress.epoch_seconds += now - self.clock
        self.clock = now


def _picked(request: SampleIndex, rows: slice) -> SampleIndex:
    return request[0][rows], request[1][rows]


def _with_mask(batch: Batch, rows: torch.Tensor | None) -> Batch:
    """A batch with a mask, where only some rows are valid."""
    if rows is None:
        return batch
    if batch.mask is None:
        return replace(batch, mask=rows)
    return replace(batch, mask=batch.mask & rows.view(-1, *[1] * (batch.mask.ndim - 1)))


def _check_signals(arm: Arm) -> None:
    _, labels = arm.train.source.fetch(torch.tensor([0]))
    gives = frozenset() if labels is None else frozenset({Signal.LABELS})
    giver = "the training data" + ("" if labels is not None else " (no labels)")
    if arm.teacher is not None:
        gives |= arm.teacher.gives
        giver += f" with {type(arm.teacher).__name__}"
    arm.objective.check(gives, giver, arm.task.gives)
    if arm.train.source.is_partly_labelled:
        arm.objective.check_all_labelled(giver)
