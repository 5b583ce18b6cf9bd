"""What a student minimises: a weighted sum of losses that reports its parts."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.errors import ConfigError, SignalError
from tutelage.types import Batch, Outputs, Signal


class Loss(nn.Module, ABC):
    """A distance between a student and what it learns from.

    A number times a loss is a term, and terms add up to an objective:
    `0.1 * CrossEntropy() + 0.9 * KD(temperature=4)`.

    Attributes:
        needs: What must be there besides the student's logits: labels, the teacher's logits.
        title: Short name in recipes, reports and logs.
    """

    needs: ClassVar[frozenset[Signal]]
    title: ClassVar[str]

    @abstractmethod
    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The loss of one batch, a mean over its counted items.

        Args:
            student: What the student gives for the batch, with gradient.
            teacher: What the teacher gives for the same views; None where nothing is needed of it.
            batch: Labels and mask.
        """

    def __rmul__(self, weight: float | int) -> "Objective":
        """An objective of this one term."""
        return Objective([Term(self, weight, self.title)])


@dataclass(frozen=True, slots=True)
class Term:
    """A loss with its weight, and a name of its own within the objective."""

    loss: Loss
    weight: float | int
    name: str


@dataclass(frozen=True, slots=True)
class LossReport:
    """The objective of one batch.

    Attributes:
        total: What is minimised, with gradient.
        parts: Each term, unweighted and without gradient.
    """

    total: Float[Tensor, ""]
    parts: Mapping[str, Float[Tensor, ""]]


class Objective(nn.Module):
    """A weighted sum of losses.

    Args:
        terms: At least one; equal names are numbered (`kd`, `kd_2`).

    Raises:
        ConfigError: There is no term, or a weight is negative or not finite.
    """

    def __init__(self, terms: Iterable[Term]) -> None:
        """Register the losses, so that any parameters of theirs are trained and saved."""
        super().__init__()
        named = _with_distinct_names(terms)
        if not named:
            raise ConfigError("objective: there is no term. Give a task_weight or a term.")
        for term in named:
            if not (math.isfinite(term.weight) and term.weight >= 0):
                raise ConfigError(
                    f"objective: the weight of {term.name!r} must be 0 or more and finite, "
                    f"got {term.weight}."
                )
        self.weights = {term.name: float(term.weight) for term in named}
        self.losses = nn.ModuleDict({term.name: term.loss for term in named})

    @property
    def terms(self) -> list[Term]:
        """The terms, in order."""
        return [Term(self._loss(name), weight, name) for name, weight in self.weights.items()]

    @property
    def needs(self) -> frozenset[Signal]:
        """What the terms of weight above 0 need, together."""
        return frozenset().union(*(term.loss.needs for term in self.terms if term.weight > 0))

    @property
    def needs_teacher(self) -> bool:
        """Whether any term of weight above 0 looks at the teacher."""
        return Signal.LOGITS in self.needs

    def __add__(self, other: "Objective") -> "Objective":
        """All terms of both."""
        return Objective([*self.terms, *other.terms])

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> LossReport:
        """The weighted sum and its parts; terms of weight 0 are not computed."""
        total = torch.zeros((), device=student.logits.device)
        parts = {}
        for name, weight in self.weights.items():
            if weight > 0:
                value = self._loss(name)(student, teacher, batch)
                parts[name] = value.detach()
                total = total + weight * value
        return LossReport(total, parts)

    def check(self, gives: frozenset[Signal], giver: str) -> None:
        """Refuse an objective that needs more than there is.

        Args:
            gives: What the teacher and the data give.
            giver: Who gives it, for the message.

        Raises:
            SignalError: A term needs something else.
        """
        for term in self.terms:
            missing = term.loss.needs - gives
            if term.weight > 0 and missing:
                wanted = ", ".join(sorted(signal.value for signal in missing))
                given = ", ".join(sorted(signal.value for signal in gives)) or "nothing"
                raise SignalError(
                    f"Loss {term.name!r} needs {wanted}, but {giver} gives only {given}. Give a "
                    "teacher or labels, or set its weight to 0."
                )

    @property
    def temperature(self) -> float:
        """Temperature of the first term that has one; 1 where none has."""
        temperatures = (getattr(term.loss, "temperature", None) for term in self.terms)
        return float(next((value for value in temperatures if value is not None), 1.0))

    def describe(self) -> str:
        """The sum in words, as `0.1 * cross_entropy + 0.9 * kd(temperature=4.0)`."""
        return " + ".join(f"{term.weight} * {describe_loss(term.loss)}" for term in self.terms)

    def _loss(self, name: str) -> Loss:
        loss = self.losses[name]
        assert isinstance(loss, Loss)
        return loss


def describe_loss(loss: Loss) -> str:
    """A loss with its settings, as `kd(temperature=4.0)`."""
    settings = {
        name: value
        for name, value in vars(loss).items()
        if not name.startswith("_") and isinstance(value, int | float | str) and name != "training"
    }
    inside = ", ".join(f"{name}={value}" for name, value in sorted(settings.items()))
    return f"{loss.title}({inside})" if inside else loss.title


def _with_distinct_names(terms: Iterable[Term]) -> list[Term]:
    named: list[Term] = []
    for term in terms:
        base = term.loss.title
        taken = {other.name for other in named}
        names = (term.name if n == 1 else f"{base}_{n}" for n in range(1, len(taken) + 3))
        named.append(replace(term, name=next(name for name in names if name not in taken)))
    return named
