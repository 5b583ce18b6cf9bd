"""Quality of a teacher before it teaches: on validation data, against guessing."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from tutelage.distributed import on_main_process, world
from tutelage.engine.memory import oom_context
from tutelage.errors import of_role
from tutelage.job import Job
from tutelage.records import Metric
from tutelage.tasks.predicting import OF_PROBABILITIES, are_shares, check_logits, predict_data


@dataclass(frozen=True, slots=True)
class Quality:
    """Score of a network on the validation data.

    Attributes:
        value: The task's metric.
        chance: The same of whoever has not seen the inputs.
        is_share_each: Whether all its logits lie between 0 and 1, as a sigmoid gives them.
    """

    value: float
    chance: float
    is_share_each: bool

    def notes(self, name: str, metric: Metric) -> Iterator[str]:
        """Notes for the reader.

        Args:
            name: Name of the network, as "teacher".
            metric: Metric of the task.
        """
        if metric.rank(self.value) <= metric.rank(self.chance):
            yield (
                f"The {name} is no better than chance on the validation data "
                f"({metric.text(self.value)} {metric.title}, {metric.text(self.chance)} without a "
                "look at the inputs). Are its weights loaded, its classes in the order of the "
                "labels (teacher.class_names), its normalisation right (teacher.mean, teacher.std)?"
            )
        if self.is_share_each:
            yield (
                f"All that the {name} gives for the validation data lies between 0 and 1, as after "
                "a sigmoid. Losses expect logits: let its forward end before it."
            )


def measure_quality(job: Job, model: nn.Module, name: str) -> Quality | None:
    """Evaluate a teacher on the validation data, whatever its origin.

    Args:
        job: The run.
        model: The network.
        name: What messages call it.

    Returns:
        What it is worth; None where there are no validation data.

    Raises:
        ModelError: It gives probabilities or NaN.
    """
    reader, task = job.valid_reader, job.teacher_task
    if reader is None:
        return None
    is_cut = job.shards_teacher and world().is_distributed
    device = torch.device("cpu") if is_cut else Accelerator().device

    def ask() -> list[float]:
        said = predict_data(task, model.to(device), reader, batch_size=job.most_rows, device=device)
        check_logits(task, model, said.outputs)
        shares = float(task.gives in OF_PROBABILITIES and are_shares(said.outputs))
        return [task.validate(said)[0], task.chance(said.labels), shares]

    with of_role(name), oom_context(name):
        value, chance, is_share_each = on_main_process(ask)
    return Quality(value, chance, bool(is_share_each))
