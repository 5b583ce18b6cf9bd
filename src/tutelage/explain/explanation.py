"""Effect of temperature in numbers: distributions over temperatures, losses step by step."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from tutelage.errors import ConfigError
from tutelage.explain.example import Example, check_example
from tutelage.losses import divergences

TEMPERATURES = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 100.0)
"""From the logits' own distribution up to a nearly uniform one."""

LOSS_TEMPERATURES = (0.01, 1e4)
"""Lowest and highest for a loss; above, temperature squared times KL is mostly rounding."""

WEIGHTS = (0.1, 0.9)
"""Default weights of the task loss and of the distillation loss."""

MOST_INSERTED = 12
"""Terms of a sum that are written out."""


@dataclass(frozen=True, slots=True)
class Softened:
    """A network's distribution at one temperature.

    Attributes:
        temperature: Divisor of the logits.
        probabilities: One a class.
        entropy: In nats; at most log of the number of classes, reached by the uniform one.
    """

    temperature: float
    probabilities: tuple[float, ...]
    entropy: float


@dataclass(frozen=True, slots=True)
class TeacherLosses:
    """Components of the student's distance from the teacher at the loss's temperature, in nats.

    Attributes:
        teacher_at: The teacher's probabilities as they enter the soft cross-entropy.
        soft_cross_entropy_parts: p (-log q) of each class.
        soft_cross_entropy: Their sum, with the teacher's probabilities as given.
        soft_cross_entropy_renormalised: The same with probabilities that sum to 1.
        teacher_entropy: Entropy of the probabilities that sum to 1.
        kl: KL(teacher || student), of the probabilities that sum to 1, without T squared.
        distillation_loss: T squared times that KL.
    """

    teacher_at: tuple[float, ...]
    soft_cross_entropy_parts: tuple[float, ...]
    soft_cross_entropy: float
    soft_cross_entropy_renormalised: float
    teacher_entropy: float
    kl: float
    distillation_loss: float


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the calculation: name, formula, inserted numbers, value.

    `shown` is the value as people read it, rounded.
    """

    name: str
    formula: str
    inserted: str
    value: float
    shown: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """All numbers of one example.

    Attributes:
        example: What was explained.
        student: The student's distribution at each temperature.
        teacher: The teacher's; None where there is no teacher.
        at: Temperature of the distillation loss.
        student_at: The student's probabilities there.
        task_weight: Weight of the task loss.
        weight: Weight of the distillation loss.
        hard_loss: The task loss, -log of the label's probability at T = 1; None without a label.
        teacher_losses: None without a teacher.
        total: The weighted sum; None where one of the two losses is missing.
    """

    example: Example
    student: tuple[Softened, ...]
    teacher: tuple[Softened, ...] | None
    at: float
    student_at: tuple[float, ...]
    task_weight: float
    weight: float
    hard_loss: float | None
    teacher_losses: TeacherLosses | None
    total: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain data with floats in full precision; unknown values are None."""
        example, given = self.example, self.example.teacher_probabilities
        numbers = {
            "source": example.source,
            "classes": example.classes,
            "label": example.label,
            "student_logits": example.student_logits,
            "teacher_logits": example.teacher_logits,
            "teacher_given": given,
            "teacher_given_temperature": None if given is None else example.temperature,
            "teacher_given_sum": None if given is None else math.fsum(given),
            "temperatures": [row.temperature for row in self.student],
            **_columns("", self.student),
            **_columns("teacher_", self.teacher),
            "at": self.at,
            "student_at": self.student_at,
            "task_weight": self.task_weight,
            "weight": self.weight,
            "hard_loss": self.hard_loss,
            **_fields(self.teacher_losses),
            "total": self.total,
            "ranking": _ranking(self),
            "steps": [asdict(step) for step in steps(self)],
            "notes": notes(self),
        }
        return {key: _as_list(value) for key, value in numbers.items()}


def _columns(prefix: str, rows: Sequence[Softened] | None) -> dict[str, Any]:
    return {
        f"{prefix}probabilities": rows and [list(row.probabilities) for row in rows],
        f"{prefix}entropies": rows and [row.entropy for row in rows],
    }


def _fields(losses: TeacherLosses | None) -> dict[str, Any]:
    names = [field.name for field in fields(TeacherLosses)]
    return dict.fromkeys(names) if losses is None else asdict(losses)


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def explain(
    example: Example,
    temperatures: Sequence[float] = TEMPERATURES,
    at: float | None = None,
    task_weight: float | None = None,
    weight: float | None = None,
) -> Explanation:
    """Compute the distributions over temperatures and the losses of one example.

    All arithmetic is in float64.

    Args:
        example: The sample.
        temperatures: For the distributions; each above 0.
        at: Temperature of the distillation loss, up to 10000; None takes the example's own.
        task_weight: Weight of the task loss; None takes the example's own, or 0.1.
        weight: Weight of the distillation loss; None takes the example's own, or 0.9.

    Raises:
        ConfigError: A number, a name or a count cannot be used; the message says which.
    """
    check_example(example)
    at = _check_loss_temperature(example.temperature if at is None else at)
    if not temperatures:
        raise ConfigError("temperatures must hold at least one value. Usual values: 1 to 10.")
    student_logits = _float64(example.student_logits)
    teacher_logits = _teacher_logits(example)
    usual = example.weights or WEIGHTS
    task_weight = _check_weight("task_weight", usual[0] if task_weight is None else task_weight)
    weight = _check_weight("weight", usual[1] if weight is None else weight)
    hard_loss = _hard_loss(example, student_logits)
    losses = None if teacher_logits is None else _teacher_losses(example, teacher_logits, at)
    total = None
    if hard_loss is not None and losses is not None:
        total = task_weight * hard_loss + weight * losses.distillation_loss
    return Explanation(
        example=example,
        student=_over_temperatures(student_logits, temperatures),
        teacher=None
        if teacher_logits is None
        else _over_temperatures(teacher_logits, temperatures),
        at=at,
        student_at=_softened(student_logits, at).probabilities,
        task_weight=task_weight,
        weight=weight,
        hard_loss=hard_loss,
        teacher_losses=losses,
        total=total,
    )


def _check_loss_temperature(at: float) -> float:
    low, high = LOSS_TEMPERATURES
    if not low <= divergences.check_temperature(at) <= high:
        raise ConfigError(
            f"at, the temperature of the distillation loss, must be from {low:g} to {high:g}, "
            f"got {at:g}. Usual values: 1 to 10."
        )
    return float(at)


def _check_weight(name: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ConfigError(f"{name} must be 0 or above and finite, got {value}. Usual: 0 to 1.")
    return float(value)


def _float64(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _teacher_logits(example: Example) -> Tensor | None:
    """The teacher's logits, up to a constant if only probabilities are given."""
    if example.teacher_logits is not None:
        return _float64(example.teacher_logits)
    if example.teacher_probabilities is not None:
        return example.temperature * _float64(example.teacher_probabilities).log()
    return None


def _softened(logits: Tensor, temperature: float) -> Softened:
    divergences.check_temperature(temperature)
    centred = logits - logits.max()  # the quotient by a tiny temperature overflows only downwards
    probabilities = divergences.soften(centred, temperature)
    entropy = divergences.soft_cross_entropy(centred, probabilities, temperature)
    return Softened(
        temperature=float(temperature),
        probabilities=tuple(probabilities.tolist()),
        entropy=max(0.0, entropy.item()),
    )


def _over_temperatures(logits: Tensor, temperatures: Sequence[float]) -> tuple[Softened, ...]:
    return tuple(_softened(logits, temperature) for temperature in temperatures)


def _hard_loss(example: Example, student_logits: Tensor) -> float | None:
    if example.label is None:
        return None
    label = torch.tensor(example.classes.index(example.label))
    return divergences.cross_entropy(student_logits, label).item()


def _teacher_losses(example: Example, teacher_logits: Tensor, at: float) -> TeacherLosses:
    student_logits = _float64(example.student_logits)
    softened = _softened(teacher_logits, at)
    used = _as_given(example, at) or softened.probabilities
    surprise = 0.0 - divergences.log_soften(student_logits, at)
    proper = _float64(softened.probabilities)
    kl = max(0.0, divergences.kl_per_item(student_logits, teacher_logits, at).item())
    return TeacherLosses(
        teacher_at=used,
        soft_cross_entropy_parts=tuple((_float64(used) * surprise).tolist()),
        soft_cross_entropy=divergences.soft_cross_entropy(
            student_logits, _float64(used), at
        ).item(),
        soft_cross_entropy_renormalised=divergences.soft_cross_entropy(
            student_logits, proper, at
        ).item(),
        teacher_entropy=softened.entropy,
        kl=kl,
        distillation_loss=at**2 * kl,
    )


def _as_given(example: Example, at: float) -> tuple[float, ...] | None:
    """The given teacher probabilities, if they were given for this temperature."""
    return example.teacher_probabilities if at == example.temperature else None


def steps(explanation: Explanation) -> list[Step]:
    """The losses computed line by line, with inserted numbers."""
    losses, at = explanation.teacher_losses, explanation.at
    lines: list[Step] = []
    if explanation.hard_loss is not None:
        lines.append(_task_step(explanation, explanation.hard_loss))
    if losses is not None:
        lines += _teacher_steps(explanation, losses)
        lines.append(
            _step(
                "Distillation loss",
                "T² · KL",
                f"{at:g}² · {loss_text(losses.kl)}",
                losses.distillation_loss,
            )
        )
    if explanation.total is not None and losses is not None and explanation.hard_loss is not None:
        inserted = (
            f"{explanation.task_weight:g} · {loss_text(explanation.hard_loss)} + "
            f"{explanation.weight:g} · {loss_text(losses.distillation_loss)}"
        )
        formula = "task_weight · task loss + weight · distillation loss"
        lines.append(_step("Total", formula, inserted, explanation.total))
    return lines


def _step(name: str, formula: str, inserted: str, value: float) -> Step:
    return Step(name, formula, inserted, value, shown=loss_text(value))


def _task_step(explanation: Explanation, hard_loss: float) -> Step:
    label = explanation.example.label
    return _step(
        "Task loss (hard loss)",
        f"-log q({label}), q the student's probability at T = 1",
        f"-log {loss_text(math.exp(-hard_loss))}",
        hard_loss,
    )


def _teacher_steps(explanation: Explanation, losses: TeacherLosses) -> list[Step]:
    at, total = explanation.at, math.fsum(losses.teacher_at)
    lines = [
        _step(
            "Soft cross-entropy",
            f"sum of p · (-log q), p the teacher's and q the student's at T = {at:g}",
            _inserted_sum(losses.teacher_at, losses.soft_cross_entropy_parts),
            losses.soft_cross_entropy,
        )
    ]
    if not _is_one(total):
        lines.append(
            _step(
                "Soft cross-entropy, renormalised",
                "the same with every p divided by the sum of all p",
                f"{loss_text(losses.soft_cross_entropy)} / {total:.4f}",
                losses.soft_cross_entropy_renormalised,
            )
        )
    proper = [value / total for value in losses.teacher_at]
    own = [p * (0.0 - math.log(p)) if p > 0 else 0.0 for p in proper]
    digits = _digits_for_difference(losses.kl)
    crossed = losses.soft_cross_entropy_renormalised
    lines.append(
        _step(
            "Teacher's entropy",
            "sum of p · (-log p)",
            _inserted_sum(proper, own),
            losses.teacher_entropy,
        )
    )
    lines.append(
        _step(
            "KL(teacher || student)",
            "soft cross-entropy - teacher's entropy",
            f"{crossed:.{digits}f} - {losses.teacher_entropy:.{digits}f}",
            losses.kl,
        )
    )
    return lines


def notes(explanation: Explanation) -> list[str]:
    """Notes on how the numbers were computed, needed to reproduce them."""
    lines = ["log is the natural logarithm. Nothing is rounded before it is shown."]
    if explanation.example.weights is not None:
        lines.append("Both weights and the temperature are those of the run.")
    given = explanation.example.teacher_probabilities
    if given is not None and not _is_one(math.fsum(given)):
        lines.append(_note_on_sum(explanation, math.fsum(given)))
    if given is not None:
        at = explanation.example.temperature
        lines.append(
            f"The teacher is given by its probabilities at T = {at:g}. At another T they are "
            f"p^({at:g}/T), divided by their sum: what logits {at:g} · log p would give."
        )
    if explanation.teacher_losses is not None:
        lines.append(
            "The teacher's entropy does not depend on the student, so soft cross-entropy and KL "
            "have the same gradient; KL is the one that is 0 when the student matches."
        )
    return lines


def _note_on_sum(explanation: Explanation, total: float) -> str:
    losses = explanation.teacher_losses
    start = f"The teacher's values sum to {total:.4f}, not to 1: inexact, as rounded values are."
    if losses is None or _as_given(explanation.example, explanation.at) is None:
        return f"{start} Here they are divided by their sum."
    return (
        f"{start} The soft cross-entropy {loss_text(losses.soft_cross_entropy)} uses them as they "
        f"stand; divided by their sum they give "
        f"{loss_text(losses.soft_cross_entropy_renormalised)}. Entropy, KL and total use the "
        "divided ones, since a KL is between distributions."
    )


def loss_text(value: float) -> str:
    """A number for people: four decimals, or four digits where it is smaller than 0.01."""
    return f"{value:.4g}" if 0 < abs(value) < 0.01 else f"{value:.4f}"


def _inserted_sum(weights: Sequence[float], parts: Sequence[float]) -> str:
    """The products of a sum, without classes of probability 0."""
    there = [(p, part) for p, part in zip(weights, parts, strict=True) if p > 0]
    shown = [f"{p:.4f}·{part / p:.4f}" for p, part in there[:MOST_INSERTED]]
    rest = len(there) - MOST_INSERTED
    more = f" + {rest} more" if rest > 0 else ""
    return " + ".join(shown) + more


def _digits_for_difference(difference: float) -> int:
    """Decimals that make the small result of a subtraction visible."""
    if difference <= 0:
        return 4
    return min(12, max(4, 3 - math.floor(math.log10(difference))))


def _ranking(explanation: Explanation) -> list[int]:
    """Class numbers in order of interest: the label, then by either probability."""
    classes, label = explanation.example.classes, explanation.example.label
    losses = explanation.teacher_losses
    teacher = explanation.student_at if losses is None else losses.teacher_at
    best = [max(pair) for pair in zip(explanation.student_at, teacher, strict=True)]
    return sorted(range(len(classes)), key=lambda k: (classes[k] != label, -best[k], k))


def _is_one(total: float) -> bool:
    return abs(total - 1) < 1e-9
