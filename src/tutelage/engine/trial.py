"""A trial update on a few samples, which shows what cannot be trained."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tutelage.data.loading import BatchBuilder, num_batches
from tutelage.data.randomness import random_state_kept, seed_random
from tutelage.engine.average import Average
from tutelage.engine.memory import is_out_of_memory
from tutelage.engine.optimizers import check_state
from tutelage.engine.settings import TrainSettings
from tutelage.engine.training_module import TrainingModule
from tutelage.errors import ConfigError, ModelError, TutelageError, one_line
from tutelage.models.copies import copied, load_state, state_of
from tutelage.objective import LossReport, Objective
from tutelage.tasks import Task
from tutelage.teachers import Teacher
from tutelage.types import Batch, HiddenStates

FEW = 8
_PLAIN = (Tensor, int, float, str)
_UNTRAINED = (
    "student: no weight of the student can be trained. Leave some of its parameters unfrozen "
    "(requires_grad), and its forward outside of torch.no_grad."
)


def try_training(
    name: str,
    trainee: TrainingModule,
    teacher: Teacher | None,
    reader: BatchBuilder,
    settings: TrainSettings,
) -> None:
    """Make two updates on a copy, as the training will.

    The second shows what a network carries over from the first. The samples are as many as the
    smallest batch of the training has, but no more than `FEW`; of texts the longest one is among
    them.

    Args:
        name: Name of the training, for messages.
        trainee: Prepared; it is changed.
        teacher: What is learned from; it need not be trained yet.
        reader: The training data.
        settings: Settings of the training.

    Raises:
        TutelageError: The training would fail.
    """
    rows = _few(reader, settings.batch_size)
    with told_as(f"{name}, a first step of batch size {len(rows)}"), random_state_kept():
        batch = reader[rows, torch.zeros_like(rows)]
        optimizer = settings.optimizer.build(trainee.parameters())
        untrained = copied(trainee.student)
        for _ in range(2):
            optimizer.zero_grad()
            _learn(trainee, batch, teacher)
            _step(optimizer)
        if settings.ema is not None:
            Average(trainee.student, settings.ema).update(trainee.student)
        check_is_all_saved(trainee.student, untrained, trainee.task, batch)


def _step(optimizer: Optimizer) -> None:
    try:
        optimizer.step()
    except TutelageError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(
            f"optimizer {type(optimizer).__name__}: its step fails: {type(error).__name__}: "
            f"{one_line(error)}. Take another, such as adamw, or other options."
        ) from error
    check_state(optimizer)


def _learn(trainee: TrainingModule, batch: Batch, teacher: Teacher | None) -> None:
    report = trainee.train()(batch, None if teacher is None else teacher(batch))
    check_trainable(report, trainee.objective)
    report.total.backward()
    if all(weight.grad is None for weight in trainee.student.parameters()):
        raise ConfigError(_UNTRAINED)


@torch.no_grad()
def check_is_all_saved(trained: nn.Module, untrained: nn.Module, task: Task, batch: Batch) -> None:
    """Refuse a network in which training changes something that its state dict lacks.

    Args:
        trained: After an update or more.
        untrained: The same before them; it takes over what is saved of the trained one.
        task: How they are called.
        batch: Samples to compare them on.

    Raises:
        ModelError: They say something else in eval mode; the message names the part.
    """
    load_state(untrained, state_of(trained))
    said = said_in_eval(trained, task, batch)
    if _is_near(said, said_in_eval(untrained, task, batch)):
        return
    if not _is_near(said, said_in_eval(trained, task, batch)):
        return  # it says something else each time, so this shows nothing
    parts = _moved(trained, untrained)
    raise ModelError(
        f"{type(trained).__name__} is changed by training in a part that is not saved with its "
        f"weights ({next(parts, 'no buffer and no plain attribute')}), so what was trained could "
        "not be loaded again. Keep it in a parameter, in a buffer (register_buffer, persistent), "
        "or in get_extra_state."
    )


@torch.no_grad()
def said_in_eval(network: nn.Module, task: Task, batch: Batch) -> Tensor:
    """Logits or hidden states of a batch in eval mode, with a separate random state."""
    network.eval()
    with random_state_kept():
        seed_random(0)
        outputs = task.run(network, batch)
    scores = outputs.scores
    return scores.values if isinstance(scores, HiddenStates) else outputs.logits


def _is_near(one: Tensor, other: Tensor) -> bool:
    size = float(one.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5 * size, equal_nan=True)


def _moved(trained: nn.Module, untrained: nn.Module) -> Iterator[str]:
    """Buffers and plain attributes in which two networks differ."""
    for (path, one), other in zip(trained.named_modules(), untrained.modules(), strict=False):
        for kind, own, others in (
            ("buffer", one._buffers, other._buffers),
            ("attribute", vars(one), vars(other)),
        ):
            for name, value in own.items():
                if isinstance(value, _PLAIN) and not _is_same(value, others.get(name)):
                    yield f"the {kind} {'.'.join(filter(None, (path, name)))!r}"


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    return not isinstance(other, Tensor) and one == other


def check_trainable(report: LossReport, objective: Objective) -> None:
    """Refuse an objective that gives the student no gradient.

    Raises:
        ConfigError: No term counts, or no weight of the student can move.
    """
    if report.total.requires_grad:
        return
    if not objective.active_terms:
        raise ConfigError(
            "objective: no weight of the student can be trained by it. Give task_weight or a term "
            "a weight above 0."
        )
    raise ConfigError(_UNTRAINED)


@contextmanager
def told_as(place: str) -> Iterator[None]:
    """Add the role and the step to errors of a user's network or loss.

    Memory that runs out is no failure here: the training cuts its batches, or says so.

    Raises:
        TutelageError: Anything failed.
    """
    try:
        yield
    except TutelageError as error:
        raise type(error)(f"{place}: {error}") from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise ModelError(f"{place}: {type(error).__name__}: {one_line(error)}") from error


def _few(reader: BatchBuilder, batch_size: int) -> Tensor:
    count = len(reader)
    last = count - (num_batches(count, batch_size) - 1) * batch_size
    rows = torch.arange(min(FEW, batch_size, last))
    if reader.lengths is not None:
        rows[-1] = reader.lengths.argmax()
    return rows
