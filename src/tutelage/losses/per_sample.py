"""The valid rows of a batch, for losses that treat each sample separately."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from tutelage.errors import DataError, ShapeError, SignalError
from tutelage.losses.divergences import check_same_shape
from tutelage.objective import Loss
from tutelage.types import Batch, Outputs, SparseLogits

Value = TypeVar("Value")


class _once(Generic[Value]):
    """Like `functools.cached_property`, without the lock that torch.compile cannot trace."""

    def __init__(self, compute: Callable[["Rows"], Value]) -> None:
        self.compute, self.name = compute, compute.__name__

    def __get__(self, rows: "Rows", _: type) -> Value:
        if self.name not in rows.__dict__:
            rows.__dict__[self.name] = self.compute(rows)
        return rows.__dict__[self.name]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Rows:
    """Inputs of losses on logits: the valid rows, in float32 or better.

    Attributes:
        loss: The one that looks, for messages.
        student_outputs: With gradient.
        teacher_outputs: None where there is no teacher.
        batch: Its mask chooses the rows.
    """

    loss: Loss
    student_outputs: Outputs
    teacher_outputs: Outputs | None
    batch: Batch

    @_once
    def student(self) -> Float[Tensor, "rows classes"]:
        """The student's logits.

        Raises:
            ShapeError: There are fewer than two classes.
        """
        return self.counted(_precise(class_logits(self.loss, self.student_outputs)))

    @_once
    def teacher(self) -> Float[Tensor, "rows classes"]:
        """The teacher's logits, without gradient.

        Raises:
            SignalError: There is no teacher.
            ShapeError: The class counts differ.
        """
        wanted = teacher_logits(self.loss, self.student_outputs, self.teacher_outputs)
        return self.counted(_precise(wanted)).to(self.student.dtype)

    @_once
    def teacher_of_any_width(self) -> Float[Tensor, "rows words"]:
        """The teacher's logits, for any number of classes.

        Raises:
            SignalError: There is no teacher.
        """
        if self.teacher_outputs is None:
            raise SignalError(_no_teacher(self.loss))
        return self.counted(_precise(self.teacher_outputs.logits.detach()))

    @_once
    def pair(self) -> tuple[Float[Tensor, "rows classes"], Float[Tensor, "rows classes"]]:
        """The student's and the teacher's logits of the classes that the teacher distinguishes.

        Of a teacher that pools its rest (`SparseLogits.is_pooled`) these are the kept classes and
        one for all others; of any other teacher all classes.

        Raises:
            SignalError: There is no teacher.
            ShapeError: The class counts differ.
        """
        scores = None if self.teacher_outputs is None else self.teacher_outputs.scores
        if not (isinstance(scores, SparseLogits) and scores.is_pooled):
            return self.student, self.teacher
        check_same_shape(
            self.student_outputs.logits.shape, (len(scores.filler), scores.num_classes)
        )
        indices, values = self.counted(scores.indices), self.counted(scores.values)
        kept = self.student.gather(dim=-1, index=indices).masked_fill(
            values == -torch.inf, -torch.inf
        )
        rest = self.student.scatter(dim=-1, index=indices, value=-torch.inf).logsumexp(dim=-1)
        student = torch.cat([kept, rest.unsqueeze(dim=-1)], dim=-1)
        teacher = torch.cat([values, self.counted(scores.rest).unsqueeze(dim=-1)], dim=-1)
        return student, teacher.to(student.dtype)

    @_once
    def labels(self) -> Int[Tensor, " rows"]:
        """The labels.

        Raises:
            SignalError: The data has none.
            DataError: One is no class, or they are no whole numbers.
        """
        num_classes = self.student_outputs.shape[1]
        return self.counted(checked_labels(self.loss, self.batch, num_classes, self.batch.mask))

    @_once
    def _index(self) -> Int[Tensor, " rows"] | None:
        return None if self.batch.mask is None else self.batch.mask.nonzero().squeeze(dim=1)

    def counted(self, values: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "rows ..."]:
        """The valid rows of another tensor."""
        return values if self._index is None else values.index_select(dim=0, index=self._index)


@runtime_checkable
class PerRow(Protocol):
    """A loss that is the mean of one number per sample."""

    def per_row(self, rows: Rows) -> Float[Tensor, " rows"]:
        """The loss of each valid row."""
        ...


def mean_per_row(
    loss: Loss, student: Outputs, teacher: Outputs | None, batch: Batch
) -> Float[Tensor, ""]:
    """Mean over the valid rows of a loss that has `per_row`; 0 if there are none."""
    assert isinstance(loss, PerRow)
    return mean_of_rows(loss.per_row(Rows(loss, student, teacher, batch)))


def mean_of_rows(values: Float[Tensor, " rows"]) -> Float[Tensor, ""]:
    """Mean of the rows; 0 if there are none."""
    return values.sum() / max(1, len(values))


def teacher_logits(
    loss: Loss, student: Outputs, teacher: Outputs | None
) -> Float[Tensor, "batch classes"]:
    """The teacher's logits, checked to exist and to fit the student's.

    Raises:
        SignalError: There is no teacher.
        ShapeError: The class counts differ.
    """
    if teacher is None:
        raise SignalError(_no_teacher(loss))
    check_same_shape(student.shape, teacher.shape)
    return teacher.logits.detach()


def class_logits(loss: Loss, student: Outputs) -> Float[Tensor, "batch classes"]:
    """The student's logits, checked to have several classes.

    Raises:
        ShapeError: There are fewer than two classes.
    """
    if student.shape[1] < 2:
        raise ShapeError(
            f"Loss {loss.title!r} compares probabilities of classes, but the networks give "
            f"{student.shape[1]} output a sample, whose probability is always 1. Give them one "
            "output a class, 2 or more: for a question of yes or no, two."
        )
    return student.logits


def checked_labels(
    loss: Loss, batch: Batch, num_classes: int, mask: Bool[Tensor, " batch"] | None
) -> Int[Tensor, " batch"]:
    """The labels of a batch, checked to be classes.

    On an accelerator their values are not looked at, since that would wait for it; the data of a
    recipe are checked when they are read.

    Args:
        loss: Who asks.
        batch: Has the labels.
        num_classes: Number of the student's logits.
        mask: True = counts; None counts all. Labels of other rows may be anything and become 0.

    Raises:
        SignalError: The data has none.
        DataError: One is no class, or they are no whole numbers.
    """
    labels = batch.labels
    if labels is None:
        raise SignalError(
            f"Loss {loss.title!r} needs labels, but this batch has none. Use labelled data, or a "
            "loss that looks at the teacher's logits alone, as kd, with task_weight: 0."
        )
    if labels.ndim != 1 or labels.is_floating_point():
        raise DataError(
            f"Loss {loss.title!r} takes one whole number a sample as label, got {labels.dtype} of "
            f"shape {tuple(labels.shape)}. Give class numbers from 0 to {num_classes - 1}."
        )
    labels = labels.long() if mask is None else torch.where(mask, labels.long(), 0)
    if labels.device.type == "cpu" and len(labels) and not torch.compiler.is_compiling():
        ends = (int(end) for end in labels.aminmax())
        wrong = [end for end in ends if not 0 <= end < num_classes]
        if wrong:
            raise DataError(
                f"Loss {loss.title!r} got the label {wrong[0]}; classes go from 0 to "
                f"{num_classes - 1}. Leave samples without a label out by the batch's mask or "
                "is_labelled."
            )
    return labels


def _precise(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
    return logits if logits.dtype == torch.float64 else logits.float()


def _no_teacher(loss: Loss) -> str:
    return f"Loss {loss.title!r} needs a teacher's logits, but no teacher is given."
