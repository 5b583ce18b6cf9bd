"""Teachers of scikit-learn in a recipe: fitted in the run, on the labelled training data."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from tutelage.config.schema import Teacher
from tutelage.data.loading import BatchBuilder, in_order
from tutelage.errors import ConfigError
from tutelage.models.estimators import PREFIX, fit_estimator, make_estimator
from tutelage.problem import Problem

OWN = ("model", "settings", "weight")  # keys that say something of a model of scikit-learn
AT_ONCE = 4096


def is_estimator_name(model: str) -> bool:
    """Whether a recipe names a model of scikit-learn."""
    return model.startswith(PREFIX)


def estimator_maker(teacher: Teacher, place: str, problem: Problem) -> Callable[[], nn.Module]:
    """Factory of a teacher that is fitted when it is first needed, once in each process.

    Args:
        teacher: As the recipe has it.
        place: Its key, for messages.
        problem: Data and task.

    Raises:
        ConfigError: A key is given that is for networks alone, or there is no such model.
    """
    given = teacher.model_dump(exclude=set(OWN), exclude_defaults=True)
    for key in given:
        raise ConfigError(
            f"{place}.{key}: {teacher.model} is no network. It is fitted on the labels at once, "
            f"and its arguments go into {place}.settings. Leave {key} out."
        )
    task, splits = problem.task, problem.splits
    name = teacher.model.removeprefix(PREFIX)
    outputs = len(splits.class_names)
    make_estimator(name, teacher.settings, task.gives, outputs)  # a wrong name shows at once

    @cache
    def fitted() -> nn.Module:
        estimator = make_estimator(name, teacher.settings, task.gives, outputs)
        reader = BatchBuilder(splits.labelled or splits.train, inputs=splits.inputs)
        rows, labels = _rows(reader, place)
        return fit_estimator(estimator, rows, labels, task.gives, task.width)

    return fitted


def _rows(reader: BatchBuilder, place: str) -> tuple[Tensor, Tensor]:
    """Inputs and labels of all training data."""
    batches = [reader[request] for request in in_order(len(reader), batch_size=AT_ONCE)]
    inputs = [batch.inputs for batch in batches if isinstance(batch.inputs, Tensor)]
    labels = [batch.labels for batch in batches if batch.labels is not None]
    if len(inputs) < len(batches) or len(labels) < len(batches):
        raise ConfigError(
            f"{place}.model: a model of scikit-learn takes rows of numbers with labels, as of data "
            "kind table or arrays. Use a network for these data."
        )
    return torch.cat(inputs), torch.cat(labels)
