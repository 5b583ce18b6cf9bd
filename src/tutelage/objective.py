"""The student's objective: a weighted sum of losses that reports its terms."""

import functools
import inspect
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.chunks import sum_of_chunks
from tutelage.errors import ConfigError, ShapeError, SignalError
from tutelage.types import SCORES, Batch, HiddenStates, Outputs, Signal
from tutelage.untouched import Untouched

TEACHERS = SCORES | {Signal.FEATURES}


@dataclass(frozen=True, slots=True)
class Ramp:
    """A number that changes linearly during training, then stays.

    Attributes:
        start: Its value at first.
        end: Its value from `until` on.
        until: Share of the training, above 0 and at most 1, at which `end` is reached.
    """

    start: float | int
    end: float | int
    until: float | int = 1.0

    def __post_init__(self) -> None:
        """Refuse an invalid share."""
        if not 0 < self.until <= 1:
            raise ConfigError(f"ramp: until must lie above 0 and not above 1, got {self.until}.")

    def at(self, progress: float) -> float:
        """Value at this share of the training."""
        share = min(1.0, progress / self.until)
        return self.start + share * (self.end - self.start)

    def __str__(self) -> str:
        """Text such as `(0 to 8 until 0.1)`."""
        return f"({self.start} to {self.end} until {self.until})"

    def __mul__(self, other: object) -> "Objective":
        """An objective with scheduled weights."""
        return objective_of(other).times(self)


Scheduled = float | int | Ramp


def value_at(value: Scheduled, progress: float) -> float:
    """A number, or the value of a ramp at this share of the training."""
    return value.at(progress) if isinstance(value, Ramp) else float(value)


@dataclass(frozen=True, slots=True)
class DryRun:
    """Outputs of a trial call, for losses that build adapters from shapes.

    Attributes:
        student: Outputs of a copy of the student, without gradient.
        teacher: Outputs for the same views; None without a teacher.
        num_samples: Number of training samples.
        teacher_part: Gives a frozen copy of a part of the teacher's network by its name; None
            where the teacher is no live network.
        run: Calls another network as the student is called, for losses that bring one.
        teacher_outputs: What the teacher says of so many training samples, from all over the data;
            None without a teacher.
        student_outputs: What the student says of the same samples before it is trained.
    """

    student: Outputs
    teacher: Outputs | None = None
    num_samples: int = 0
    teacher_part: Callable[[str], nn.Module] | None = None
    run: Callable[[nn.Module, Batch], Outputs] | None = None
    teacher_outputs: Callable[[int], Outputs] | None = None
    student_outputs: Callable[[int], Outputs] | None = None


class Loss(nn.Module, ABC):
    """A distance between a student and what it learns from.

    Losses add up to an objective, with numbers as weights where they are not 1:
    `0.1 * CrossEntropy() + 0.9 * KD(temperature=4)`. Each argument of a constructor is kept under
    its own name.

    Attributes:
        needs: What must be there besides the student's logits: labels, the teacher's logits or
            features.
        title: Short name in recipes, reports and logs.
        student_layers: Parts of the student whose features it looks at.
        teacher_layers: Parts of the teacher whose features it looks at.
        progress: Share of the training that is done; the engine sets it before each step.
        whole_batch: Whether its formula relates the samples of a batch, or it remembers samples:
            where several processes share a batch, it is then computed of all rows in each of
            them. Otherwise each computes it of its own rows, and the mean is the same.
        skips_unlabelled: Whether it leaves out samples without a label where others have one.
        changes_student: Whether `modify_student` adds parts to the student that are trained and
            delivered: its result is then not the loss's alone.
        form: Which form of its formula it is, counted from 1: one more wherever the same settings
            come to mean something else. It stands in descriptions from 2 on, so that nothing that
            was trained with an earlier form is taken for this one's.
    """

    needs: frozenset[Signal]
    title: str
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()
    progress: float = 0.0
    whole_batch: bool = False
    skips_unlabelled: bool = False
    changes_student: bool = False
    form: int = 1

    def __init_subclass__(cls) -> None:
        """Refuse a loss with the methods of before, which nobody would call."""
        super().__init_subclass__()
        for old, new in {"build": "setup", "wrap": "modify_student"}.items():
            if old in vars(cls):
                raise ConfigError(f"{cls.__name__}: {old} of a loss is now {new}. Rename it.")

    @property
    def takes(self) -> frozenset[Signal]:
        """Kinds of student scores that the loss accepts: those that it needs of the teacher.

        A loss on features alone is for any, one on labels alone for logits unless it says another.
        """
        own = self.needs & SCORES
        is_of_features = self.needs == {Signal.FEATURES}
        return own or (SCORES if is_of_features else frozenset({Signal.LOGITS}))

    @property
    def is_by_item(self) -> bool:
        """Whether it is a plain mean over items, which can be computed in chunks."""
        has_parts = bool(self.student_layers or self.teacher_layers)
        learns = next(self.parameters(), None) is not None
        return hasattr(self, "per_row") and not has_parts and not learns

    def setup(self, dry: DryRun) -> None:
        """Build adapters once, after `modify_student` and before the optimizer."""

    def modify_student(self, student: nn.Module, dry: DryRun) -> nn.Module:  # noqa: ARG002
        """The network to train and deliver in place of the student; usually the student."""
        return student

    def observe(self, value: Float[Tensor, ""]) -> None:
        """Receive the loss's own value after each training batch; most losses ignore it."""

    @abstractmethod
    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The loss of one batch, a mean over its valid items.

        Args:
            student: What the student gives for the batch, with gradient.
            teacher: What the teacher gives for the same views; None where nothing is needed of it.
            batch: Labels and mask.
        """

    def __rmul__(self, weight: object) -> "Objective":
        """An objective with this term alone."""
        return objective_of(self).times(weight)

    def __mul__(self, weight: object) -> "Objective":
        """An objective with this term alone."""
        return objective_of(self).times(weight)

    def __add__(self, other: object) -> "Objective":
        """The sum of both."""
        return objective_of(self) + other

    def __radd__(self, other: object) -> "Objective":
        """The sum of both; for `sum`, which starts with 0."""
        return objective_of(self).__radd__(other)


@dataclass(frozen=True, slots=True)
class Term:
    """A loss with its weight, and a unique name within the objective."""

    loss: Loss
    weight: Scheduled
    name: str

    @property
    def is_active(self) -> bool:
        """Whether its weight is ever above 0."""
        return isinstance(self.weight, Ramp) or self.weight > 0

    @property
    def weight_now(self) -> float:
        """Its weight at this point of the training."""
        return value_at(self.weight, self.loss.progress)

    @property
    def needs_teacher(self) -> bool:
        """Whether it needs a teacher."""
        return bool(self.loss.needs & TEACHERS)


@dataclass(frozen=True, slots=True)
class LossReport:
    """The objective of one batch.

    Attributes:
        total: What is minimised, with gradient.
        parts: Each term, unweighted and without gradient.
        task: Share of the total that looks at no teacher, with gradient.
    """

    total: Float[Tensor, ""]
    parts: Mapping[str, Float[Tensor, ""]]
    task: Float[Tensor, ""]

    def share(self, share: float) -> "LossReport":
        """Contribution to the report of a batch, of which it is this share."""
        parts = {name: share * value for name, value in self.parts.items()}
        return LossReport(share * self.total, parts, share * self.task)

    def plus(self, other: "LossReport") -> "LossReport":
        """Sum of both, without gradient."""
        parts = {name: value + other.parts[name] for name, value in self.parts.items()}
        total, task = self.total + other.total, self.task + other.task
        return LossReport(total.detach(), parts, task.detach())


@dataclass(frozen=True, slots=True)
class LossInputs:
    """Inputs of terms: rows of a batch, and both networks' outputs for them."""

    student: Outputs
    teacher: Outputs | None
    batch: Batch


class Objective(nn.Module):
    """A weighted sum of losses.

    Args:
        terms: At least one; equal names are numbered (`kd`, `kd_2`). The same loss twice is one
            term, with the sum of both weights.

    Raises:
        ConfigError: There is no term, or a weight is negative or not finite.
    """

    def __init__(self, terms: Iterable[Term]) -> None:
        """Register the losses, so that their parameters are trained and saved."""
        super().__init__()
        named = _with_distinct_names(_each_loss_once(terms))
        if not named:
            raise ConfigError("objective: there is no term. Give a task_weight or a term.")
        for term in named:
            _check_weight(term)
        self.weights = {term.name: _plain(term.weight) for term in named}
        self.losses = nn.ModuleDict({term.name: term.loss for term in named})

    @property
    def terms(self) -> list[Term]:
        """The terms, in order."""
        return [Term(self._loss(name), weight, name) for name, weight in self.weights.items()]

    @property
    def needs(self) -> frozenset[Signal]:
        """Everything that the active terms need."""
        return frozenset().union(*(term.loss.needs for term in self.active_terms))

    @property
    def active_terms(self) -> list[Term]:
        """The terms whose weight is ever above 0."""
        return [term for term in self.terms if term.is_active]

    @property
    def student_layers(self) -> tuple[str, ...]:
        """Layers of the student that the terms read, each once."""
        return tuple(
            dict.fromkeys(name for t in self.active_terms for name in t.loss.student_layers)
        )

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        """Layers of the teacher that the terms read, each once."""
        return tuple(
            dict.fromkeys(name for t in self.active_terms for name in t.loss.teacher_layers)
        )

    @property
    def needs_teacher(self) -> bool:
        """Whether any active term needs the teacher."""
        return bool(self.needs & TEACHERS)

    def __add__(self, other: object) -> "Objective":
        """All terms of both."""
        return Objective([*self.terms, *objective_of(other).terms])

    def __radd__(self, other: object) -> "Objective":
        """All terms of both; for `sum`, which starts with 0."""
        return self if isinstance(other, Real) and other == 0 else objective_of(other) + self

    def __mul__(self, weight: object) -> "Objective":
        """The same terms, each weight times a number."""
        return self.times(weight)

    def __rmul__(self, weight: object) -> "Objective":
        """The same terms, each weight times a number."""
        return self.times(weight)

    def times(self, weight: object) -> "Objective":
        """The same terms, each weight times a number.

        Raises:
            ConfigError: It is no number, or two ramps meet.
        """
        return Objective(replace(term, weight=_product(term.weight, weight)) for term in self.terms)

    @property
    def progress(self) -> float:
        """Share of the training that is done, for scheduled weights and settings."""
        return next(term.loss.progress for term in self.terms)

    @progress.setter
    def progress(self, value: float) -> None:
        for term in self.terms:
            term.loss.progress = value

    def forward(
        self,
        student: Outputs,
        teacher: Outputs | None,
        batch: Batch,
        *,
        whole: LossInputs | None = None,
        share: float = 1.0,
        label_share: float | None = None,
    ) -> LossReport:
        """The weighted sum and its terms; inactive terms are not computed.

        Of a student that gives hidden states, losses that judge each item by itself are computed
        together in chunks of items; `LossReport.task` then has no gradient of theirs.

        Args:
            student: What the student gives for the batch.
            teacher: What the teacher gives for it.
            batch: Labels and mask.
            whole: Where several processes share a batch: all of it, for the terms that relate
                its samples; without inputs.
            share: This process's counted rows, as a multiple of the processes' mean. The mean
                over the processes is then the objective of the whole batch, gradient and all.
            label_share: The same of its labelled rows, for terms that leave out the others; None
                where every row has a label.
        """
        parts: dict[str, Tensor] = {}
        weighted, of_task = [], []
        chunked = self._chunked(student)
        if chunked:
            total, parts = _in_chunks(chunked, student, teacher, batch)
            parts = {name: _times(share, value) for name, value in parts.items()}
            weighted.append(_times(share, total))
            of_task = [t.weight_now * parts[t.name] for t in chunked if not t.needs_teacher]
        untouched = Untouched(student, teacher, batch)
        for term in self.active_terms:
            if term in chunked:
                continue
            if whole is not None and term.loss.whole_batch:
                value = term.loss(whole.student, whole.teacher, whole.batch)
            else:
                own = (
                    share if label_share is None or not term.loss.skips_unlabelled else label_share
                )
                value = _times(own, term.loss(student, teacher, batch))
            untouched.check(term.name)
            parts[term.name] = value.detach()
            weighted.append(term.weight_now * value)
            if not term.needs_teacher:
                of_task.append(weighted[-1])
        parts = {term.name: parts[term.name] for term in self.active_terms}
        if self.training:
            for term in self.active_terms:
                term.loss.observe(parts[term.name])
        nothing = torch.zeros((), device=student.device)
        return LossReport(_sum(weighted, nothing), parts, _sum(of_task, nothing))

    def _chunked(self, student: Outputs) -> list[Term]:
        if not isinstance(student.scores, HiddenStates):
            return []
        return [term for term in self.active_terms if term.loss.is_by_item]

    def check(self, gives: frozenset[Signal], giver: str, scores: Signal = Signal.LOGITS) -> None:
        """Refuse an objective whose needs are not met, or that does not fit the scores.

        Args:
            gives: What the teacher and the data give.
            giver: Who gives it, for the message.
            scores: What the student gives, as its task says.

        Raises:
            SignalError: A term needs something else.
        """
        for term in self.active_terms:
            if scores not in term.loss.takes:
                raise SignalError(
                    f"Loss {term.name!r} is for {_listed(term.loss.takes)}, but the networks give "
                    f"{scores.value}. Choose one that 'tutelage methods' lists for them."
                )
            missing = term.loss.needs - gives
            if missing:
                raise SignalError(
                    f"Loss {term.name!r} needs {_listed(missing)}, but {giver} gives only "
                    f"{_listed(gives) or 'nothing'}. {_remedy(missing)}"
                )

    def check_all_labelled(self, giver: str) -> None:
        """Refuse losses that need every label, for data that are partly unlabelled.

        Args:
            giver: The data, for the message.

        Raises:
            SignalError: A term needs them all.
        """
        for term in self.active_terms:
            if Signal.LABELS in term.loss.needs and not term.loss.skips_unlabelled:
                raise SignalError(
                    f"Loss {term.name!r} needs a label for every sample, but {giver} has samples "
                    "without one. Leave out data.transfer, or use losses on the teacher's logits "
                    "alone, as kd."
                )

    @property
    def temperature(self) -> float:
        """Temperature of the first term on logits that has one; else 1."""
        on_logits = [term.loss for term in self.terms if Signal.LOGITS in term.loss.needs]
        temperatures = (getattr(loss, "temperature", None) for loss in on_logits)
        found = next((value for value in temperatures if value is not None), 1.0)
        return value_at(found, 1.0)

    def describe(self) -> str:
        """The sum as text, such as `0.1 * cross_entropy + 0.9 * kd(temperature=4.0)`."""
        return " + ".join(f"{term.weight} * {describe_loss(term.loss)}" for term in self.terms)

    def _loss(self, name: str) -> Loss:
        loss = self.losses[name]
        assert isinstance(loss, Loss)
        return loss


def objective_of(given: object) -> Objective:
    """An objective unchanged; a loss as an objective of weight 1.

    Raises:
        ConfigError: It is neither.
    """
    if isinstance(given, Objective):
        return given
    if isinstance(given, Loss):
        return Objective([Term(given, 1.0, given.title)])
    hint = (
        f"Write {given.__name__}()." if isinstance(given, type) else "Weights multiply: 0.9 * KD()."
    )
    raise ConfigError(f"objective: losses and objectives add up, got {given!r}. {hint}")


def _product(one: Scheduled, other: object) -> Scheduled:
    """Product of two weights, of which one may be scheduled."""
    if isinstance(one, Ramp) and isinstance(other, Ramp):
        raise ConfigError(f"objective: {one} times {other} is no straight line. Give one ramp.")
    if isinstance(other, Ramp):
        one, other = other, one
    if not isinstance(other, Real) or isinstance(other, bool):
        raise ConfigError(
            f"objective: a weight is a number or a Ramp, got {other!r}. Losses add: "
            "0.1 * CrossEntropy() + 0.9 * KD()."
        )
    factor = float(other)
    if isinstance(one, Ramp):
        return one if factor == 1 else replace(one, start=factor * one.start, end=factor * one.end)
    return factor * one


def _each_loss_once(terms: Iterable[Term]) -> list[Term]:
    """Terms with duplicates of one loss object merged, because it has one state."""
    found: dict[int, Term] = {}
    for term in terms:
        first = found.get(id(term.loss))
        found[id(term.loss)] = term if first is None else replace(first, weight=_total(first, term))
    return list(found.values())


def _total(first: Term, second: Term) -> Scheduled:
    weights = (first.weight, second.weight)
    if any(isinstance(weight, Ramp) for weight in weights):
        raise ConfigError(
            f"objective: one {first.name!r} stands in two terms, of weights {weights[0]} and "
            f"{weights[1]}. Make two losses, or give it one weight."
        )
    return value_at(first.weight, 1.0) + value_at(second.weight, 1.0)


def _in_chunks(
    terms: list[Term], student: Outputs, teacher: Outputs | None, batch: Batch
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum with gradient, and each term, from chunks of the valid items."""
    hidden = student.scores
    assert isinstance(hidden, HiddenStates)
    if batch.mask is not None:
        counted = batch.mask.nonzero().squeeze(dim=1)
        hidden, batch = hidden.pick(counted), batch.pick(counted)
        teacher = None if teacher is None else teacher.pick(counted)
    if teacher is not None and teacher.shape[0] != len(hidden):
        raise ShapeError(
            f"The student has {len(hidden)} items, the teacher {teacher.shape[0]}. Both need the "
            "same samples, split into the same items."
        )

    def value_of(logits: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        rows = slice(start, stop)
        said = None if teacher is None else _dense_once(teacher.pick(rows))
        part = batch.pick(rows)
        values = [term.loss(Outputs(logits), said, part) for term in terms]
        share = (stop - start) / max(1, len(hidden))
        weighted = [t.weight_now * v for t, v in zip(terms, values, strict=True)]
        total = _sum(weighted, logits.new_zeros(()))
        return share * total, share * torch.stack([value.detach() for value in values])

    total, told = sum_of_chunks(hidden, value_of)
    return total, {term.name: value for term, value in zip(terms, told.unbind(), strict=True)}


def _dense_once(teacher: Outputs) -> Outputs:
    """The same with the product with the head computed once for all uses of its logits."""
    return Outputs(teacher.logits) if isinstance(teacher.scores, HiddenStates) else teacher


def _times(share: float, value: Tensor) -> Tensor:
    """A share of a value; unchanged for a share of 1."""
    return value if share == 1 else share * value


def _sum(values: list[Tensor], nothing: Tensor) -> Tensor:
    """The sum of all, in as few autograd steps as possible."""
    return functools.reduce(operator.add, values) if values else nothing


def describe_loss(loss: Loss) -> str:
    """A loss with its settings, such as `kd(temperature=4.0)`."""
    names = sorted(inspect.signature(type(loss)).parameters)
    settings = {name: getattr(loss, name) for name in names if hasattr(loss, name)}
    if loss.form > 1:
        settings = {"form": loss.form, **settings}
    inside = ", ".join(f"{name}={_text(value)}" for name, value in settings.items())
    return f"{loss.title}({inside})" if inside else loss.title


def _text(value: object) -> str:
    return describe_loss(value) if isinstance(value, Loss) else str(value)


def _plain(weight: Scheduled) -> Scheduled:
    return weight if isinstance(weight, Ramp) else float(weight)


def _check_weight(term: Term) -> None:
    ends = (term.weight.start, term.weight.end) if isinstance(term.weight, Ramp) else (term.weight,)
    if not all(math.isfinite(end) and end >= 0 for end in ends):
        raise ConfigError(
            f"objective: the weight of {term.name!r} must be 0 or more and finite, "
            f"got {term.weight}."
        )


def _listed(signals: frozenset[Signal]) -> str:
    return ", ".join(sorted(signal.value for signal in signals))


def _remedy(missing: frozenset[Signal]) -> str:
    if missing == {Signal.FEATURES}:
        return "Teach live (cache: null): a cache holds logits alone."
    if Signal.EMBEDDINGS in missing:
        return "Choose task: embedding, or another loss."
    return "Give a teacher or labels, or set its weight to 0."


def _with_distinct_names(terms: Iterable[Term]) -> list[Term]:
    named: list[Term] = []
    for term in terms:
        base = term.loss.title
        taken = {other.name for other in named}
        names = (term.name if n == 1 else f"{base}_{n}" for n in range(1, len(taken) + 3))
        named.append(replace(term, name=next(name for name in names if name not in taken)))
    return named
