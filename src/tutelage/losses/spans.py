"""Likelihoods of text spans, for a teacher with another tokenizer."""

from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tutelage.chunks import rows_at_once
from tutelage.errors import SignalError
from tutelage.losses.divergences import (
    check_scheduled_temperature,
    log_of_labels,
    log_soften,
    not_below_zero,
)
from tutelage.losses.per_sample import checked_labels, mean_of_rows
from tutelage.objective import Loss, Scheduled, value_at
from tutelage.types import Batch, HiddenStates, Outputs, Signal

NEAREST_TO_SURE = -1e-5


@final
class SpanLikelihood(Loss):
    """Likelihood of text spans, for a teacher with another tokenizer.

    A span runs from one place where both tokenizers end a token to the next. Both networks say how
    likely its text is, each as the product of its own tokens' probabilities, and the loss is the
    KL divergence of "this text" against "any other". So the student learns of what to be sure, in
    whatever tokens the teacher speaks.

    Args:
        temperature: The likelihoods' logarithms are divided by it, above 0; higher weighs unlikely
            spans more. 1 is usual. A ramp moves it.

    Usual weight: 1 beside a task loss of weight 1.

    Source:
        Minixhofer, Vulić & Ponti 2025, "Universal Cross-Tokenizer Distillation via Approximate
        Likelihood Matching", arXiv:2503.20083, with KL as the divergence.

    Differs from the paper:
        Spans end wherever both tokenizers end a token, with no correction of tokens that would
        have gone on; times the temperature, so that the gradient keeps its size.
    """

    needs = frozenset({Signal.LABELS, Signal.LOGITS})
    title = "span_likelihood"

    def __init__(self, temperature: Scheduled = 1.0) -> None:
        """Hold the temperature."""
        super().__init__()
        self.temperature = check_scheduled_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The divergence in nats times the temperature, a mean over spans; 0 if there are none.

        Args:
            student: With gradient; of hidden states no more logits are there than of a chunk.
            teacher: One number an item, the log-likelihood of its text up to there as the teacher
                reads it, and not a number where no token of the teacher ends.
            batch: Labels; items of one text follow one another.
        """
        if teacher is None or batch.labels is None or teacher.shape != (len(batch.labels), 1):
            raise SignalError(
                "Loss 'span_likelihood' needs labels, and a teacher that tells how likely the text "
                "is up to each token. Use it in a recipe of task language_modeling."
            )
        labels = checked_labels(self, batch, student.shape[1], batch.mask)
        texts = batch.sample_ids
        if batch.mask is not None:
            counted = batch.mask.nonzero().squeeze(dim=1)
            student, teacher = student.pick(counted), teacher.pick(counted)
            labels, texts = labels[counted], texts[counted]
        temperature = value_at(self.temperature, self.progress)
        own = _label_logs(student, labels).double()
        so_far = own.cumsum(dim=0) - own
        told = teacher.logits[:, 0].detach().double()
        ends = (~told.isnan()).nonzero().squeeze(dim=1)
        of_one_text = texts[ends].diff() == 0
        student_spans, teacher_spans = (
            (values[ends].diff()[of_one_text] / temperature).clamp(max=NEAREST_TO_SURE)
            for values in (so_far, told)
        )
        return temperature * mean_of_rows(_either_or(student_spans, teacher_spans)).float()


def _either_or(
    student: Float[Tensor, " spans"], teacher: Float[Tensor, " spans"]
) -> Float[Tensor, " spans"]:
    """KL(teacher || student) of two outcomes, from the log-probability of the first."""
    student_rest, teacher_rest = (torch.log(-torch.expm1(one)) for one in (student, teacher))
    first = teacher.exp() * (teacher - student)
    return not_below_zero(first + teacher_rest.exp() * (teacher_rest - student_rest))


def _label_logs(student: Outputs, labels: Int[Tensor, " items"]) -> Float[Tensor, " items"]:
    """Log-probability of each label, with gradient; hidden states are processed in chunks."""
    scores = student.scores
    if not isinstance(scores, HiddenStates):
        return log_of_labels(log_soften(student.logits), labels)
    parts = [
        checkpoint(
            _of_chunk,
            scores.values[rows],
            scores.weight,
            scores.bias,
            scores.cap,
            labels[rows],
            use_reentrant=False,
        )
        for rows in _chunks(len(scores), scores.num_classes)
    ]
    return torch.cat(parts)


def _of_chunk(
    values: Tensor, weight: Tensor, bias: Tensor | None, cap: float | None, labels: Tensor
) -> Tensor:
    return log_of_labels(log_soften(HiddenStates(values, weight, bias, cap).dense()), labels)


def _chunks(count: int, num_classes: int) -> Iterator[slice]:
    step = rows_at_once(num_classes)
    return (slice(start, start + step) for start in range(0, max(1, count), step))
