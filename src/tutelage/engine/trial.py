"""One update on a few samples: what cannot be trained shows before anything else is done."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tutelage.data.loading import Reader, num_batches
from tutelage.data.randomness import random_state_kept
from tutelage.engine.average import Average
from tutelage.engine.memory import is_out_of_memory
from tutelage.engine.settings import TrainSettings
from tutelage.engine.trainee import Trainee
from tutelage.errors import ConfigError, ModelError, TutelageError, one_line
from tutelage.objective import LossReport, Objective
from tutelage.teachers import Teacher

FEW = 8
_UNTRAINED = (
    "student: no weight of the student can be trained. Leave some of its parameters unfrozen "
    "(requires_grad), and its forward outside of torch.no_grad."
)


def try_training(
    name: str, trainee: Trainee, teacher: Teacher | None, reader: Reader, settings: TrainSettings
) -> None:
    """Make one update as a training will, of a trainee that is thrown away afterwards.

    The samples are as many as the smallest batch of the training has, but no more than `FEW`; of
    texts the longest one is among them.

    Args:
        name: Of the training, for messages.
        trainee: Prepared; it is changed.
        teacher: What is learned from; it need not be trained yet.
        reader: The training data.
        settings: Of the training.

    Raises:
        TutelageError: The training would fail.
    """
    rows = _few(reader, settings.batch_size)
    with told_as(f"{name}, a first step of batch size {len(rows)}"), random_state_kept():
        batch = reader[rows, torch.zeros_like(rows)]
        optimizer = settings.optimizer.build(trainee.parameters())
        report = trainee.train()(batch, None if teacher is None else teacher(batch))
        check_trainable(report, trainee.objective)
        report.total.backward()
        if all(weight.grad is None for weight in trainee.student.parameters()):
            raise ConfigError(_UNTRAINED)
        optimizer.step()
        if settings.ema is not None:
            Average(trainee.student, settings.ema).update(trainee.student)


def check_trainable(report: LossReport, objective: Objective) -> None:
    """Refuse what gives the student no gradient.

    Raises:
        ConfigError: No term counts, or no weight of the student can move.
    """
    if report.total.requires_grad:
        return
    if not objective.counted:
        raise ConfigError(
            "objective: no weight of the student can be trained by it. Give task_weight or a term "
            "a weight above 0."
        )
    raise ConfigError(_UNTRAINED)


@contextmanager
def told_as(place: str) -> Iterator[None]:
    """Say where something failed that a network or a loss of somebody's own did.

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


def _few(reader: Reader, batch_size: int) -> Tensor:
    count = len(reader)
    last = count - (num_batches(count, batch_size) - 1) * batch_size
    rows = torch.arange(min(FEW, batch_size, last))
    if reader.lengths is not None:
        rows[-1] = reader.lengths.argmax()
    return rows
