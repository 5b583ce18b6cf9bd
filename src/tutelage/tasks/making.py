"""From what a recipe or a Python call names as its task to the task."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.data.labels import LabelKind
from tutelage.data.sources import Source
from tutelage.errors import ConfigError, DataError, find
from tutelage.models.own import is_own, own_object
from tutelage.tasks.base import Task

LOOKED_AT = 20_000  # labels of larger data, spread evenly
AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """A task that is yet to be told how many outputs there are.

    Attributes:
        kind: Its class, or the task itself.
        metric: The metric that leads; None leaves the task's own.
        place: What messages call it, as "task".
    """

    kind: type[Task] | Task
    metric: str | None = None
    place: str = "task"

    @property
    def label_kind(self) -> LabelKind:
        """How its labels are read."""
        return self.kind.label_kind

    def make(self, names: Sequence[str], train: Source) -> Task:
        """The task.

        Args:
            names: Names of the outputs: classes, labels or values.
            train: Training data, for tasks that ask for `label_mean` and `label_std`.

        Raises:
            ConfigError: It cannot be made, or has no such metric.
            DataError: Labels do not vary.
        """
        if isinstance(self.kind, Task):
            if self.metric is not None and self.metric != self.kind.leading:
                raise ConfigError(
                    f"metric: {self.metric!r} beside a task that is led by {self.kind.leading!r}. "
                    "Let the task say what it is compared by, or name its class."
                )
            return self.kind
        asked = inspect.signature(self.kind).parameters
        settings: dict[str, Any] = {}
        if "class_names" in asked:
            settings["class_names"] = tuple(names)
        if self.metric is not None:
            if "compared_by" not in asked:
                raise ConfigError(
                    f"metric: {self.kind.__name__} is compared by one metric. Leave metric out."
                )
            settings["compared_by"] = self.metric
        if "label_mean" in asked:
            mean, std = label_statistics(train)
            settings |= {"label_mean": tuple(mean.tolist()), "label_std": tuple(std.tolist())}
        make: Callable[..., Task] = self.kind
        return make(len(names), **settings)


def plan_task(
    given: object,
    known: Mapping[str, type[Task]],
    metric: str | None = None,
    place: str = "task",
    folder: Path = Path(),
) -> TaskPlan:
    """What is meant by a task.

    Args:
        given: A name, "module:Class" or "file.py:Class" of one's own, a class, or a task.
        known: Names and what they stand for.
        metric: The metric that leads.
        place: For messages.
        folder: Where a relative file.py is looked for.

    Raises:
        ConfigError: It is none of these.
    """
    found = given
    if isinstance(given, str):
        what = f"{place}: {given}"
        found = own_object(given, what, folder) if is_own(given) else find(place, given, known)
    if isinstance(found, Task) or (isinstance(found, type) and issubclass(found, Task)):
        return TaskPlan(found, metric, place)
    raise ConfigError(
        f"{place}: {given!r} is no task. Give one of {', '.join(known)}, or a subclass of "
        "tutelage.Task of your own."
    )


def label_statistics(
    train: Source,
) -> tuple[Float[Tensor, " values"], Float[Tensor, " values"]]:
    """Mean and standard deviation of each value over the training labels.

    Raises:
        DataError: There are no labels, or a value does not vary.
    """
    count = len(train)
    ids = torch.linspace(0, count - 1, min(count, LOOKED_AT)).long()
    parts = [train.fetch(some)[1] for some in ids.split(AT_ONCE)]
    known = [part.double() for part in parts if part is not None]
    if not known:
        raise DataError("train data: there are no labels, which this task needs.")
    labels = torch.cat(known)
    labels = labels[:, None] if labels.ndim == 1 else labels
    mean, std = labels.mean(dim=0), labels.std(dim=0, correction=0)
    still = (std == 0).nonzero().flatten().tolist()
    if still:
        raise DataError(
            f"train data: value {still[0]} of every label is {float(mean[still[0]]):g}, so there "
            "is nothing to learn. Leave it out, or look whether it is the right column."
        )
    return mean.float(), std.float()
