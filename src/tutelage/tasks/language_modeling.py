"""Language modelling: the next token, for every token of a text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from tutelage.chunks import rows_at_once
from tutelage.data.pairs import OTHER
from tutelage.errors import DataError, ModelError, ShapeError
from tutelage.losses import CrossEntropy
from tutelage.losses.divergences import kl_of_logs, log_of_labels, log_soften
from tutelage.models.calling import call_checked, own_copies
from tutelage.models.modes import preserve_mode
from tutelage.models.readout import parts_of, without_cache
from tutelage.models.served import ServedModel
from tutelage.models.taps import tapped
from tutelage.records import Evaluation, Metric
from tutelage.tasks.base import Predictions, Task
from tutelage.tasks.numbers import held_impossible
from tutelage.tasks.tokens import network_inputs as all_inputs
from tutelage.tasks.tokens import score_by_sample, token_items, valid_tokens
from tutelage.types import Batch, HiddenStates, Outputs, SparseLogits, describe_inputs

NLL = "nll"

HIGHEST_NLL = 300.0  # of which the square of the perplexity is still a number

PERPLEXITY = Metric(
    name="perplexity",
    title="perplexity",
    is_share=False,
    is_higher_better=False,
    unit="nats a token",
    meaning="The exponential of the mean negative log-likelihood of a token: how many equally "
    "likely tokens the network hesitates between. Differences are of the log-likelihood.",
)


@dataclass(frozen=True, slots=True)
class LanguageModeling(Task):
    """How a language model is run and evaluated.

    An item is a token that counts, judged by what the network says before it. Of a Hugging Face
    model the task takes hidden states and head, so that nobody needs to hold all logits at once.

    Attributes:
        num_classes: Words of the tokenizer; a vocabulary that is filled up to a round number is
            cut to it.
        block_size: Valid tokens of each sample, where all samples have as many; None where they
            differ.
    """

    num_classes: int
    block_size: int | None = None

    @property
    def width(self) -> int:
        """Logits per token: one per entry of the vocabulary."""
        return self.num_classes

    @property
    def metric(self) -> Metric:
        """Perplexity."""
        return PERPLEXITY

    @property
    def metrics(self) -> list[Metric]:
        """Perplexity."""
        return [PERPLEXITY]

    @property
    def items_per_sample(self) -> int | None:
        """Tokens per block."""
        return self.block_size

    def run(self, model: nn.Module, batch: Batch, layers: Sequence[str] = ()) -> Outputs:
        """Call a network on a batch.

        Args:
            model: The network.
            batch: Its inputs, with the tokens that count.
            layers: Parts whose features are wanted too; one row a sample.

        Raises:
            ModelError: Its forward failed, or a layer cannot be read.
            ShapeError: It does not speak of this vocabulary.
        """
        counted = valid_tokens(batch)
        with tapped(model, layers) as features:
            scores = self._scores(model, batch, counted)
        return Outputs(scores, features)

    def _scores(
        self, model: nn.Module, batch: Batch, counted: Tensor
    ) -> Tensor | HiddenStates | SparseLogits:
        if isinstance(model, ServedModel):
            said = model.sparse_logits(network_inputs(batch)["input_ids"])
            return said.pick(counted.flatten().nonzero().squeeze(dim=1))
        parts = parts_of(model)
        if parts is None:
            logits = call_checked(model, network_inputs(batch), **without_cache(model))
            self._check_width(model, logits.shape[-1])
            return logits[counted][:, : self.num_classes]
        self._check_width(model, len(parts.head.weight))
        hidden = _hidden_states(parts.body, batch)[counted]
        return parts.scores(hidden, self.num_classes)

    def _check_width(self, model: nn.Module, width: int) -> None:
        if width < self.num_classes:
            raise ShapeError(
                f"{type(model).__name__} scores {width} words, the tokenizer has "
                f"{self.num_classes}. Teacher, student and data must share one tokenizer: make the "
                "student from the teacher (keep_layers), or use span_likelihood or "
                "universal_logit_distance."
            )

    def items(self, batch: Batch) -> Batch:
        """One row per valid token."""
        return token_items(batch)

    def task_loss(self) -> CrossEntropy:
        """The loss on labels, a mean over tokens."""
        return CrossEntropy()

    @torch.inference_mode()
    def predict(
        self, model: nn.Module, batches: Iterable[Batch], device: torch.device
    ) -> Predictions:
        """Outputs for all tokens, on the CPU; hidden states rather than logits.

        Raises:
            DataError: There are no samples, or no labels.
            ModelError: A likelihood is not a number; the message names the sample.
        """
        said = []
        with preserve_mode(model):
            model.eval()
            for batch in batches:
                items = self.items(batch)
                if items.labels is None:
                    raise DataError("Evaluation needs text whose next tokens are known.")
                outputs = _on_cpu(self.run(model, batch.to(device)))
                said.append(Predictions(outputs, items.labels, items.sample_ids))
        if not said:
            raise DataError("Evaluation needs samples, but the data set is empty.")
        found = _joined(said)
        _check_numbers(model, found)
        return found

    def validate(self, said: Predictions) -> tuple[float, float]:
        """Perplexity, and the negative log-likelihood per token."""
        mean = _nll(said).double().mean()
        return perplexity(mean), float(mean)

    def chance(self, labels: Shaped[Tensor, "items ..."]) -> float:  # noqa: ARG002 - as for any
        """Perplexity of a uniform prediction."""
        return float(self.num_classes)

    def scores(self, said: Predictions) -> Float[Tensor, " samples"]:
        """Mean log-likelihood of each sample's tokens, weighted by their number."""
        return score_by_sample(said, -_nll(said))

    @torch.inference_mode()
    def evaluate(self, said: Predictions, teacher: Predictions | None = None) -> Evaluation:
        """Perplexity, accuracy per token, and similarity to the teacher."""
        perplexity, nll = self.validate(said)
        if teacher is not None and teacher.outputs.shape != said.outputs.shape:
            teacher = None  # it speaks of other tokens
        correct = agreed = divergence = 0.0
        for rows in _spans(said.outputs):
            logits = said.outputs.pick(rows).logits
            picked = logits.argmax(dim=-1)
            correct += float((picked == said.labels[rows]).sum())
            if teacher is not None:
                wanted = teacher.outputs.pick(rows).logits
                agreed += float((picked == wanted.argmax(dim=-1)).sum())
                divergence += float(kl_of_logs(log_soften(logits), log_soften(wanted)).sum())
        count = len(said.labels)
        return Evaluation(
            accuracy=correct / count,
            nll=nll,
            ece=None,
            agreement=None if teacher is None else agreed / count,
            kl_to_teacher=None if teacher is None else divergence / count,
            per_class_accuracy=[],
            calibration=[],
            count=count,
            others={"perplexity": perplexity},
        )


def perplexity(nll: Float[Tensor, ""]) -> float:
    """Perplexity: exp of the mean negative log-likelihood.

    Args:
        nll: Mean negative log-likelihood of a token, in nats. Above 300 it counts as 300: what is
            larger says no more, and could not be averaged or written down.
    """
    return float(nll.double().clamp(max=HIGHEST_NLL).exp())


def network_inputs(batch: Batch) -> dict[str, Tensor]:
    """A network's own inputs, without those for another tokenizer."""
    return {n: value for n, value in all_inputs(batch).items() if not n.startswith(OTHER)}


def _hidden_states(body: nn.Module, batch: Batch) -> Float[Tensor, "samples length width"]:
    inputs = network_inputs(batch)
    try:
        given = body(**own_copies(inputs), use_cache=False)
    except (torch.cuda.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # the network is the user's own: anything can happen
        raise ModelError(
            f"{type(body).__name__} failed on inputs of {describe_inputs(inputs)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    hidden: Tensor = given[0]
    return hidden


def _on_cpu(outputs: Outputs) -> Outputs:
    scores = outputs.scores
    if isinstance(scores, HiddenStates):
        scores = replace(scores, weight=scores.weight.detach())
    if isinstance(scores, HiddenStates | SparseLogits):
        return Outputs(scores.to(torch.device("cpu")))
    return Outputs(held_impossible(outputs.logits.float().cpu()))


def _joined(said: Sequence[Predictions]) -> Predictions:
    outputs = Outputs.join([one.outputs for one in said])
    labels = torch.cat([one.labels for one in said])
    sample_ids = torch.cat([one.sample_ids for one in said])
    nll = -log_likelihoods(outputs, labels)
    return Predictions(Outputs(outputs.scores, {NLL: nll}), labels, sample_ids)


def log_likelihoods(outputs: Outputs, labels: Int[Tensor, " items"]) -> Float[Tensor, " items"]:
    """Log-likelihood of each label, computed in chunks of logits."""
    chunks = [
        log_of_labels(log_soften(outputs.pick(rows).logits), labels[rows])
        for rows in _spans(outputs)
    ]
    return torch.cat(chunks)


def _spans(outputs: Outputs) -> Iterator[slice]:
    count, num_classes = outputs.shape
    step = rows_at_once(num_classes)
    for start in range(0, count, step):
        yield slice(start, start + step)


def _nll(said: Predictions) -> Float[Tensor, " items"]:
    return said.outputs.features[NLL]


def _check_numbers(model: nn.Module, said: Predictions) -> None:
    wrong = _nll(said).isnan().nonzero().squeeze(1)
    if len(wrong):
        raise ModelError(
            f"{type(model).__name__} gives NaN for sample {int(said.sample_ids[wrong[0]])} of the "
            "validation or test data. Look for NaN in the network's weights."
        )
