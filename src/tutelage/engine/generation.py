"""Generation by a language model: on-policy training text, and samples to read."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage.errors import ConfigError, DataError
from tutelage.losses.divergences import soften
from tutelage.models.calling import call_checked
from tutelage.models.modes import preserve_mode
from tutelage.models.readout import (
    continues_with_cache,
    is_language_model,
    last_logits_only,
    next_logits,
    without_cache,
)
from tutelage.types import Batch, by_name

WRITERS = ("student", "teacher")


@dataclass(frozen=True, slots=True)
class WritingSettings:
    """Share of the training text that a network generates.

    Attributes:
        share: Share of batches whose text is generated, above 0 and at most 1; GKD calls it lambda.
        writer: "student" (on-policy), or "teacher" (sequence-level distillation).
        prompt_tokens: Tokens of each block that are read; the rest is written, and alone counts.
        sampling_temperature: Sampling temperature of the generation, above 0; not that of any loss.

    Source:
        Agarwal et al. 2023, "On-Policy Distillation of Language Models: Learning from
        Self-Generated Mistakes", arXiv:2306.13649, algorithm 1; sequence-level: Kim & Rush 2016,
        "Sequence-Level Knowledge Distillation", arXiv:1606.07947.
    """

    share: float = 0.5
    writer: str = "student"
    prompt_tokens: int = 32
    sampling_temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse invalid settings.

        Raises:
            ConfigError: A setting is out of its range.
        """
        if not 0 < self.share <= 1:
            raise ConfigError(f"share must be above 0 and at most 1, got {self.share}.")
        if self.writer not in WRITERS:
            raise ConfigError(f"writer must be {' or '.join(WRITERS)}, got {self.writer!r}.")
        if self.prompt_tokens < 1 or self.sampling_temperature <= 0:
            raise ConfigError(
                "prompt_tokens must be 1 or more and sampling_temperature above 0, got "
                f"{self.prompt_tokens} and {self.sampling_temperature}."
            )


def maybe_generate(
    batch: Batch,
    writer: nn.Module,
    settings: WritingSettings,
    *,
    vocab_size: int,
    seed: int,
    rank: int = 0,
) -> Batch:
    """The batch itself, or one that the writer generates from its beginnings.

    Args:
        batch: Blocks of tokens, all of which count.
        writer: The network that writes; its mode and weights stay as they are.
        settings: How often, and how.
        vocab_size: Vocabulary size of the tokenizer; a filled-up vocabulary is not written from.
        seed: Seed of this batch; the same seed writes the same text.
        rank: Rank of the process, where several share a batch; each writes its own.
    """
    generator = torch.Generator(batch.device).manual_seed(seed)
    drawn = torch.rand((), generator=generator, device=batch.device)
    if float(drawn) >= settings.share:
        return batch
    generator.manual_seed(seed + 7919 * rank)
    inputs, labels = by_name(batch.inputs), batch.labels
    if "input_ids" not in inputs or labels is None or "attention_mask" in inputs:
        raise DataError("Text can be written in place of packed blocks alone (is_packed: true).")
    read, length = settings.prompt_tokens, labels.shape[1]
    tokens = generate(
        writer,
        inputs["input_ids"][:, :read],
        length + 1 - read,
        lambda logits: _drawn(logits[:, :vocab_size], settings.sampling_temperature, generator),
    )
    counted = torch.zeros_like(tokens[:, 1:], dtype=torch.bool)
    counted[:, read - 1 :] = True
    written = {**inputs, "input_ids": tokens[:, :-1], "counted": counted}
    return replace(batch, inputs=written, labels=tokens[:, 1:])


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Int[Tensor, "texts read"],
    num_tokens: int,
    choose: Callable[[Tensor], Tensor],
) -> Int[Tensor, "texts all"]:
    """Texts continued by a model, prompts included.

    Args:
        model: A causal language model.
        prompts: Beginnings, all of one length.
        num_tokens: That are written.
        choose: Picks a token for each row of logits.
    """
    tokens = fresh = prompts
    has_cache = is_language_model(model) and continues_with_cache(model)
    kept = last_logits_only(model) if has_cache else {}
    with preserve_mode(model):
        model.eval()
        for _ in range(num_tokens):
            if has_cache:
                logits, kept = next_logits(model, fresh, kept)
            else:
                logits = call_checked(model, {"input_ids": tokens}, **without_cache(model))
            fresh = choose(logits[:, -1])[:, None]
            tokens = torch.cat([tokens, fresh], dim=1)
    return tokens


def greedy(logits: Float[Tensor, "texts words"]) -> Int[Tensor, " texts"]:
    """Greedy choice: the most likely token."""
    return logits.argmax(dim=-1)


def _drawn(logits: Tensor, sampling_temperature: float, generator: torch.Generator) -> Tensor:
    chances = soften(logits, sampling_temperature)
    return torch.multinomial(chances, num_samples=1, generator=generator).squeeze(dim=1)
