"""A teacher that reads the text with another tokenizer than the student."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.data.pairs import NOWHERE, OTHER
from tutelage.errors import DataError
from tutelage.losses import CrossEntropy
from tutelage.models.calling import call_checked
from tutelage.models.causal import parts_of
from tutelage.records import Evaluation, Metric
from tutelage.tasks.base import Predictions
from tutelage.tasks.language_modeling import PERPLEXITY, LanguageModeling
from tutelage.tasks.tokens import counted_tokens, token_items
from tutelage.types import UNLABELLED, Batch, HiddenStates, Outputs, Signal


@dataclass(frozen=True, slots=True)
class OtherTokenizer:
    """How the teacher is run and judged: on its own tokens, told at the student's.

    Items are the student's tokens. Where no token of the teacher ends with one of the student's,
    its row is not a number, and `universal_logit_distance` leaves it out.

    Attributes:
        num_classes: Words of the teacher's tokenizer.
    """

    num_classes: int
    metric: ClassVar[Metric] = PERPLEXITY
    gives: ClassVar[Signal] = Signal.LOGITS
    items_per_sample: ClassVar[None] = None

    @property
    def own(self) -> LanguageModeling:
        """The task in the teacher's own tokens."""
        return LanguageModeling(self.num_classes)

    def run(self, model: nn.Module, batch: Batch, layers: Sequence[str] = ()) -> Outputs:
        """What the teacher says after the student's tokens.

        Raises:
            DataError: Its features are asked for, or the text was not read by both.
        """
        if layers:
            raise DataError("A teacher of another tokenizer gives logits alone, no layers.")
        inputs = _inputs(batch)
        counted = counted_tokens(batch)
        rows = inputs[f"{OTHER}rows"][counted]
        texts = torch.arange(len(counted), device=counted.device)[:, None].expand_as(counted)
        places = (texts[counted], rows.clamp(min=0))
        is_there = (rows != NOWHERE)[:, None]
        named = {"input_ids": inputs[f"{OTHER}ids"], "attention_mask": inputs[f"{OTHER}mask"]}
        parts = parts_of(model)
        if parts is None:
            said = call_checked(model, named)[places][:, : self.num_classes]
            return Outputs(torch.where(is_there, said, torch.nan))
        hidden = parts.body(**named, use_cache=False)[0][places]
        weight = parts.head.weight[: self.num_classes]
        bias = None if parts.head.bias is None else parts.head.bias[: self.num_classes]
        return Outputs(HiddenStates(torch.where(is_there, hidden, torch.nan), weight, bias))

    def items(self, batch: Batch) -> Batch:
        """One row a token of the student's that counts."""
        return token_items(batch)

    def task_loss(self) -> CrossEntropy:
        """The loss on labels, a mean over tokens."""
        return CrossEntropy()

    def predict(
        self, model: nn.Module, batches: Iterable[Batch], device: torch.device
    ) -> Predictions:
        """What the teacher says of its own tokens."""
        return self.own.predict(model, _own_batches(batches), device)

    def validate(self, said: Predictions) -> tuple[float, float]:
        """Perplexity, and the negative log-likelihood of one of its tokens."""
        return self.own.validate(said)

    def scores(self, said: Predictions) -> Float[Tensor, " samples"]:
        """Log-likelihood of each sample's tokens, a mean weighed by their number."""
        return self.own.scores(said)

    def evaluate(self, said: Predictions, teacher: Predictions | None = None) -> Evaluation:
        """Perplexity and share of tokens that are picked."""
        return self.own.evaluate(said, teacher)


def _inputs(batch: Batch) -> dict[str, Tensor]:
    if isinstance(batch.inputs, Tensor) or f"{OTHER}ids" not in batch.inputs:
        raise DataError("The text was not read in the teacher's tokenizer too.")
    return dict(batch.inputs)


def _own_batches(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same texts as samples of the teacher's tokens."""
    for batch in batches:
        inputs = _inputs(batch)
        ids, mask = inputs[f"{OTHER}ids"], inputs[f"{OTHER}mask"]
        counted = mask[:, 1:].bool()
        named = {"input_ids": ids[:, :-1], "attention_mask": mask[:, :-1], "counted": counted}
        labels = ids[:, 1:].masked_fill(~counted, UNLABELLED)
        yield replace(batch, inputs=named, labels=labels)
