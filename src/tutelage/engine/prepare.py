"""Before the optimizer is made: losses look at one trial call and make what they need."""

import copy

import torch
from torch import nn

from tutelage.objective import DryRun, Objective
from tutelage.tasks import Classification
from tutelage.teachers import ModuleTeacher, Teacher
from tutelage.types import Batch


@torch.no_grad()
def prepare(
    student: nn.Module,
    objective: Objective,
    task: Classification,
    batch: Batch,
    *,
    teacher: Teacher | None = None,
    num_samples: int = 0,
) -> nn.Module:
    """Let an objective make its adapters, drawn from torch's own random numbers.

    Objectives of logit losses need none of it; calling it does no harm.

    Args:
        student: The network to be trained; it is not changed.
        objective: Its losses get their adapters.
        task: How networks are called.
        batch: A few samples to try.
        teacher: What is learned from.
        num_samples: Of the training data, for losses that remember every sample.

    Returns:
        The network to train: the student itself, unless a loss delivers it with a part added.

    Raises:
        TutelageError: A layer is unknown, or what it gives does not fit its loss.
    """
    dry = DryRun(
        student=task.run(copy.deepcopy(student).eval(), batch, objective.student_layers),
        teacher=None if teacher is None else teacher(batch.to(teacher.device)),
        num_samples=num_samples,
        teacher_part=teacher.part if isinstance(teacher, ModuleTeacher) else None,
    )
    for term in objective.counted:
        term.loss.build(dry)
        student = term.loss.wrap(student, dry)
    return student
