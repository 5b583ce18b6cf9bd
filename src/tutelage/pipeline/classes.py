"""Number and names of the classes of a Python call."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.data.given import highest_label, names_of
from tutelage.data.labels import CLASS_LABELS, LabelKind
from tutelage.data.randomness import random_state_kept
from tutelage.data.sources import Source
from tutelage.errors import ConfigError, ModelError, of_role
from tutelage.models.calling import call_checked
from tutelage.models.modes import preserve_mode
from tutelage.types import map_tensors
from tutelage.wording import quantity


def classes_of(
    given: Sequence[str] | None,
    data: Any,
    source: Source,
    teacher: nn.Module,
    student: nn.Module,
    kind: LabelKind = CLASS_LABELS,
) -> tuple[str, ...]:
    """Class names: the given ones, those of the data set, or numbers up to the logits' width.

    Of labels that tell themselves how many outputs they are of, as values do, numbers name these.

    Args:
        given: By the caller.
        data: The training data as they were given.
        source: The same as they are read.
        teacher: Gives one logit a class.
        student: The student network.
        kind: What labels are.

    Raises:
        ConfigError: Teacher and student differ in their logits, and the data side with the student.
    """
    if given:
        return tuple(given)
    _, labels = source.fetch(torch.tensor([0]))
    told = None if labels is None else kind.count(labels)
    if told is not None:
        return tuple(map(str, range(told)))
    names = names_of(data)
    count = _num_logits(teacher, "teacher", source)
    with random_state_kept():
        others = _num_logits(student, "student", source)
    if count != others:
        _check_teacher(count, others, names, source)
    return names if len(names) == count else tuple(map(str, range(count)))


def _check_teacher(count: int, others: int, names: Sequence[str], source: Source) -> None:
    """Report a mismatch of the teacher; otherwise the error is about the student."""
    if names:
        known, fits = f"the data name {quantity(len(names), 'class')}", len(names) == count
    else:
        highest = highest_label(source)
        known = f"the highest label seen in the data is {highest}"
        fits = highest is None or (highest < count and not highest < others < count)
    if not fits:
        raise ConfigError(
            f"teacher: it gives {quantity(count, 'logit')} per sample, the student {others:,}, and "
            f"{known}. Both need one logit a class of the data. Give the teacher a last layer of "
            "as many (num_classes=...) and train it on the data first, as a recipe does with head: "
            f"new and training; or, if {count:,} classes are meant, give class_names and a student "
            f"with num_classes={count}."
        )


@torch.no_grad()
def _num_logits(network: nn.Module, role: str, source: Source) -> int:
    """Number of a network's logits."""
    inputs, _ = source.fetch(torch.tensor([0, min(1, len(source) - 1)]))
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    with of_role(role), preserve_mode(network):
        network.eval()
        logits = call_checked(
            network, map_tensors(inputs, lambda tensor: _scaled(tensor).to(device))
        )
    if logits.ndim != 2:
        raise ModelError(
            f"{role}: it must give logits (batch, classes), got {tuple(logits.shape)}."
        )
    return logits.shape[1]


def _scaled(tensor: Tensor) -> Tensor:
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor
