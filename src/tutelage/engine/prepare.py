"""Preparation before the optimizer: losses build their adapters from one trial call."""

from collections.abc import Callable

import torch
from torch import nn

from tutelage.data.loading import BatchBuilder, spread
from tutelage.models.copies import copied
from tutelage.objective import DryRun, Loss, Objective, objective_of
from tutelage.tasks import Task
from tutelage.teachers import HasParts, Teacher
from tutelage.types import Batch, Outputs

ROWS_AT_ONCE = 128


def prepare_from(
    student: nn.Module,
    objective: Objective,
    task: Task,
    reader: BatchBuilder,
    *,
    batch_size: int,
    teacher: Teacher | None = None,
) -> nn.Module:
    """As `prepare`, with the first batch of the training data, and more on demand.

    Whoever trains, fine-tunes, checks or opens a run again calls this one, so that all of them make
    the same adapters.

    Args:
        student: The network to be trained; it is not changed.
        objective: Its losses get their adapters.
        task: How networks are called.
        reader: The training data.
        batch_size: Samples to try.
        teacher: What is learned from.

    Returns:
        The network to train.

    Raises:
        TutelageError: A layer is unknown, or what it gives does not fit its loss.
    """
    rows = torch.arange(min(batch_size, len(reader)))
    return prepare(
        student,
        objective,
        task,
        reader[rows, torch.zeros_like(rows)],
        teacher=teacher,
        num_samples=len(reader),
        more=lambda count: reader[spread(len(reader), count)],
    )


@torch.no_grad()
def prepare(
    student: nn.Module,
    objective: Objective | Loss,
    task: Task,
    batch: Batch,
    *,
    teacher: Teacher | None = None,
    num_samples: int = 0,
    more: Callable[[int], Batch] | None = None,
) -> nn.Module:
    """Let an objective build its adapters, with torch's own random numbers.

    Objectives of logit losses need none of it; calling it does no harm. First the network to be
    trained is settled, then adapters are made for what its layers give.

    Args:
        student: The network to be trained; it is not changed.
        objective: Its losses get their adapters.
        task: How networks are called.
        batch: A few samples to try.
        teacher: What is learned from.
        num_samples: Number of training samples, for losses that remember every sample.
        more: Gives so many training samples from all over the data, for losses that want to hear
            more of the teacher than the few; None lets them do with those.

    Returns:
        The network to train: the student itself, unless a loss delivers it with a part added.

    Raises:
        TutelageError: A layer is unknown, or what it gives does not fit its loss.
    """
    objective = objective_of(objective)
    given = None if teacher is None else teacher(batch.to(teacher.device))
    part = teacher.part if isinstance(teacher, HasParts) else None

    def dry_run() -> DryRun:
        layers = objective.student_layers
        trial = copied(student).eval()
        outputs = task.run(trial, batch, layers)
        return DryRun(
            outputs,
            given,
            num_samples=num_samples,
            teacher_part=part,
            run=task.run,
            teacher_outputs=_asking(teacher, more),
            student_outputs=_trying(trial, task, more),
        )

    losses = [term.loss for term in objective.active_terms]
    dry = dry_run()
    for loss in losses:
        given_student, student = student, loss.modify_student(student, dry)
        if student is not given_student:
            dry = dry_run()
    for loss in losses:
        loss.setup(dry)
    return student


def _asking(
    teacher: Teacher | None, more: Callable[[int], Batch] | None
) -> Callable[[int], Outputs] | None:
    if teacher is None or more is None:
        return None
    return lambda count: teacher(more(count).to(teacher.device))


def _trying(
    student: nn.Module, task: Task, more: Callable[[int], Batch] | None
) -> Callable[[int], Outputs] | None:
    if more is None:
        return None

    def say(count: int) -> Outputs:
        whole = more(count)
        parts = whole.parts(-(-len(whole) // ROWS_AT_ONCE))
        return Outputs.join([task.run(student, part) for part in parts])

    return say
