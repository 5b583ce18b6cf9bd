"""A teacher with another tokenizer than the student's."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from tutelage.data.pairs import NOWHERE, OTHER
from tutelage.errors import DataError
from tutelage.losses import CrossEntropy
from tutelage.models.calling import call_checked
from tutelage.models.readout import parts_of, without_cache
from tutelage.records import Evaluation, Metric
from tutelage.tasks.base import Predictions, Task
from tutelage.tasks.language_modeling import PERPLEXITY, LanguageModeling, log_likelihoods
from tutelage.tasks.tokens import token_items, valid_tokens
from tutelage.types import UNLABELLED, VALID_MASK, Batch, Outputs, by_name


@dataclass(frozen=True, slots=True)
class OtherTokenizer(Task):
    """Runs and evaluates the teacher on its own tokens, aligned with the student's.

    Items are the student's tokens. Where no token of the teacher ends with one of the student's,
    its row is not a number, and `universal_logit_distance` leaves it out.

    Attributes:
        num_classes: Words of the teacher's tokenizer.
        tells_likelihood: Whether it tells, in place of logits, how likely the text is up to each
            token of the student's: one number, for `span_likelihood`.
    """

    num_classes: int
    tells_likelihood: bool = False

    @property
    def width(self) -> int:
        """Logits per token: one per entry of the teacher's vocabulary."""
        return self.num_classes

    @property
    def items_per_sample(self) -> None:
        """None, because texts differ in their number of tokens."""
        return

    @property
    def metric(self) -> Metric:
        """Perplexity."""
        return PERPLEXITY

    @property
    def metrics(self) -> list[Metric]:
        """Perplexity."""
        return [PERPLEXITY]

    @property
    def own(self) -> LanguageModeling:
        """The task on the teacher's own tokens."""
        return LanguageModeling(self.num_classes)

    def run(self, model: nn.Module, batch: Batch, layers: Sequence[str] = ()) -> Outputs:
        """The teacher's outputs after the student's tokens.

        Raises:
            DataError: Its features are asked for, or the text was not read by both.
        """
        if layers:
            raise DataError("A teacher of another tokenizer gives logits alone, no layers.")
        inputs = _inputs(batch)
        counted = valid_tokens(batch)
        rows = inputs[f"{OTHER}rows"][counted]
        texts = torch.arange(len(counted), device=counted.device)[:, None].expand_as(counted)
        places = (texts[counted], rows.clamp(min=0))
        is_there = (rows != NOWHERE)[:, None]
        named = {"input_ids": inputs[f"{OTHER}ids"], "attention_mask": inputs[f"{OTHER}mask"]}
        parts = parts_of(model)
        if self.tells_likelihood:
            so_far = self._so_far(model, named)[places]
            return Outputs(torch.where(is_there, so_far[:, None], torch.nan))
        if parts is None:
            said = call_checked(model, named, **without_cache(model))[places]
            return Outputs(torch.where(is_there, said[:, : self.num_classes], torch.nan))
        hidden = parts.body(**named, use_cache=False)[0][places]
        scores = parts.scores(hidden, self.num_classes)
        return Outputs(replace(scores, values=torch.where(is_there, scores.values, torch.nan)))

    def _so_far(self, model: nn.Module, named: dict[str, Tensor]) -> Float[Tensor, "texts length"]:
        """Log-likelihood of a text up to each of the teacher's tokens, after the first one."""
        ids, mask = named["input_ids"], named["attention_mask"]
        alone = Batch(_own_inputs(ids, mask), None, ids[:, 0], ids[:, 0])
        counted = mask[:, 1:].bool()
        found = torch.zeros(counted.shape, dtype=torch.float32, device=ids.device)
        found[counted] = log_likelihoods(self.own.run(model, alone), ids[:, 1:][counted]).float()
        return torch.nn.functional.pad(found.double().cumsum(dim=1), (1, 0))

    def items(self, batch: Batch) -> Batch:
        """One row per valid token of the student."""
        return token_items(batch)

    def task_loss(self) -> CrossEntropy:
        """The loss on labels, a mean over tokens."""
        return CrossEntropy()

    def predict(
        self, model: nn.Module, batches: Iterable[Batch], device: torch.device
    ) -> Predictions:
        """The teacher's outputs on its own tokens."""
        return self.own.predict(model, _own_batches(batches), device)

    def validate(self, said: Predictions) -> tuple[float, float]:
        """Perplexity, and the negative log-likelihood per own token."""
        return self.own.validate(said)

    def chance(self, labels: Shaped[Tensor, "items ..."]) -> float:
        """Perplexity of a uniform prediction."""
        return self.own.chance(labels)

    def scores(self, said: Predictions) -> Float[Tensor, " samples"]:
        """Mean log-likelihood of each sample's tokens, weighted by their number."""
        return self.own.scores(said)

    def evaluate(self, said: Predictions, teacher: Predictions | None = None) -> Evaluation:
        """Perplexity and accuracy per token."""
        return self.own.evaluate(said, teacher)


def _inputs(batch: Batch) -> dict[str, Tensor]:
    inputs = dict(by_name(batch.inputs))
    if f"{OTHER}ids" not in inputs:
        raise DataError("The text was not read in the teacher's tokenizer too.")
    return inputs


def _own_inputs(ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Tokens that have a next one, and the mask of valid ones."""
    counted = mask[:, 1:].bool()
    return {"input_ids": ids[:, :-1], "attention_mask": mask[:, :-1], VALID_MASK: counted}


def _own_batches(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same texts as samples of the teacher's tokens."""
    for batch in batches:
        inputs = _inputs(batch)
        ids, mask = inputs[f"{OTHER}ids"], inputs[f"{OTHER}mask"]
        named = _own_inputs(ids, mask)
        labels = ids[:, 1:].masked_fill(~named[VALID_MASK], UNLABELLED)
        yield replace(batch, inputs=named, labels=labels)
