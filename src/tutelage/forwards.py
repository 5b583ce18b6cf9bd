"""Trial calls of a run's networks on first samples, so that errors name the role."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from tutelage.data.scan import longest_sample, parts_of
from tutelage.engine.inversion import check_invertible
from tutelage.errors import ConfigError, TutelageError, of_role
from tutelage.inputs import kind_of
from tutelage.job import Job
from tutelage.models.copies import copied, state_of
from tutelage.models.modes import frozen
from tutelage.tasks import Task
from tutelage.tasks.predicting import check_logits
from tutelage.teachers.module import inside_of, split
from tutelage.types import Batch, Outputs

TRACED = 2  # samples of the call whose steps are looked at


def try_between(job: Job, *batches: Batch) -> None:
    """Try what comes between teacher and students: drawn images and assistants.

    Raises:
        TutelageError: One of them cannot be made, or called.
    """
    if job.transfer is not None:
        check_pictured(job)
        with of_role("transfer"):
            check_invertible(job.new_teacher())
    for number in range(len(job.assistants)):
        try_network(f"assistants[{number}]", partial(job.new_assistant, number), job.task, *batches)


def try_teachers(job: Job, *batches: Batch) -> None:
    """Try every teacher, each by itself if several are averaged.

    Raises:
        TutelageError: One of them cannot be made, or called, or gives no logits.
    """
    for plan in job.teachers:
        job.own_norm(plan)
    if len(job.teachers) > 1:
        for number, plan in enumerate(job.teachers):
            name = f"teacher {number + 1}" if number else "teacher"
            try_network(name, partial(job.new_member, plan), job.teacher_task, batches[0])
    try_network("teacher", job.new_teacher, job.teacher_task, *batches)


def check_pictured(job: Job) -> tuple[int, int, int]:
    """Channels, height and width of images.

    Raises:
        ConfigError: Transfer images cannot be made, for the data are none.
    """
    first = torch.tensor([0])
    shape = job.splits.inputs.image_shape(job.train_reader[first, first].inputs)
    if shape is not None:
        return shape
    raise ConfigError(
        "transfer: it generates images, but these data are not images (channels, height, width). "
        "Leave transfer out."
    )


def try_network(role: str, make: Callable[[], nn.Module], task: Task, *batches: Batch) -> None:
    """Build a network and call it, so that its errors name its role.

    Args:
        role: For messages.
        make: Makes the network.
        task: Calls it.
        batches: The first samples and, where these are texts, the longest of all.
    """
    with of_role(role), torch.no_grad():
        network = still(make())
        state_of(network)  # which a checkpoint must hold
        own, _ = inside_of(network)
        check_logits(task, own, task.run(network, batches[0]))
        check_logits(task, own, _traced(network, task, batches[0]))
        for longest in batches[1:]:
            _try_longest(network, task, longest)


@torch.enable_grad()
def _traced(network: nn.Module, task: Task, batch: Batch) -> Outputs:
    """A network's outputs for a few samples with their autograd graph, for any inputs."""
    for weight in network.parameters():
        weight.requires_grad_(weight.is_floating_point())
    try:
        return task.run(network, next(split(batch, TRACED)))
    finally:
        frozen(network)


def _try_longest(network: nn.Module, task: Task, longest: Batch) -> None:
    try:
        task.run(network, longest)
    except TutelageError as error:
        raise type(error)(f"{kind_of(longest.inputs).too_long}: {error}") from error


def longest_batch(job: Job) -> list[Batch]:
    """The longest text of all parts; None for samples of equal shape."""
    found = longest_sample(job.splits)
    if found is None:
        return []
    part, number, _ = found
    reader = job.reader(parts_of(job.splits)[part])
    return [reader[torch.tensor([number]), torch.tensor([0])]]


def first_batch(job: Job, rows: int) -> Batch:
    """The first training samples, as the students see them."""
    ids = torch.arange(min(rows, len(job.splits.train)))
    return job.train_reader[ids, torch.zeros_like(ids)]


def still(model: nn.Module) -> nn.Module:
    """A network for a trial call; a copy if it may be the user's own."""
    return frozen(copied(model).eval())
