"""Losses on relations between a transformer's tokens: attention scores, relations per head."""

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tutelage.errors import ConfigError
from tutelage.losses.divergences import kl_of_logs, log_soften
from tutelage.losses.features import (
    Features,
    LayerLoss,
    Layers,
    dry_features,
    layer_names,
)
from tutelage.losses.tokens import check_tokens, over_tokens
from tutelage.objective import DryRun, Loss
from tutelage.types import Batch, Outputs, Signal


@final
class TinyBERTAttention(Loss):
    """Attention scores of the student, before softmax, match the teacher's.

    The scores are computed from queries and keys, so that fast attention need not be switched off.

    Args:
        student_layers: Attention parts, as `bert.encoder.layer.0.attention.self`; one or several.
        teacher_layers: The teacher's layers, as many; None takes the student's names.
        heads: Attention heads, the same number in both networks; 12 in BERT and MiniLM.
        parts: What queries and keys are called within them: `[q_lin, k_lin]` in DistilBERT.

    Usual weight: 1.

    Source:
        Jiao et al. 2019, "TinyBERT: Distilling BERT for Natural Language Understanding",
        arXiv:1909.10351, equation 7.

    Differs from the paper:
        The mean is over pairs of tokens that count; the authors' code counts pairs with padding,
        as 0. Scores are those before any rotation of positions.
    """

    needs = frozenset({Signal.FEATURES})
    title = "tinybert_attention"

    def __init__(
        self,
        student_layers: Layers,
        teacher_layers: Layers | None = None,
        heads: int = 12,
        parts: Sequence[str] = ("query", "key"),
    ) -> None:
        """Keep the settings."""
        super().__init__()
        ours = layer_names(self.title, student_layers)
        theirs = layer_names(self.title, teacher_layers or ours, ours)
        self.heads = checked_heads(heads, self.title)
        self.parts = checked_parts(parts, 2, self.title)
        self.student_layers = parts_of_layers(ours, self.parts)
        self.teacher_layers = parts_of_layers(theirs, self.parts)

    def setup(self, dry: DryRun) -> None:
        """Refuse widths that this number of heads does not divide."""
        check_widths(self, dry, self.heads)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The sum of the layers' mean squared differences of scores."""
        return over_tokens(self, student, teacher, batch, self._by_token)

    def _by_token(self, student: Features, teacher: Features, mask: Tensor) -> Tensor:
        ours, theirs = self._scores(student), self._scores(teacher)
        pairs = zip(ours, theirs, strict=True)
        return torch.stack([scores_distances(s, t, mask) for s, t in pairs]).sum(dim=0)

    def _scores(self, features: Features) -> list[Tensor]:
        """Attention scores of each layer, from its queries and keys."""
        return [
            scores(queries, keys, self.heads)
            for queries, keys in zip(features[::2], features[1::2], strict=True)
        ]


@final
class MiniLMv2(LayerLoss):
    """Relations between tokens by queries, keys and values match the teacher's.

    Of one layer alone, so that depth and width of the student are free; in the paper the last
    layer of the student, and of the teacher the last one, or of a large one some way before it.

    Args:
        student_layer: An attention part, as `bert.encoder.layer.1.attention.self`.
        teacher_layer: The teacher's; None takes the student's name.
        heads: Relation heads, which need not be the networks' own; it must divide both widths. 48
            in the paper for a width of 768; fewer are coarser and cheaper.
        parts: What queries, keys and values are called within: `[q_lin, k_lin, v_lin]` in
            DistilBERT, `[q_proj, k_proj, v_proj]` in Llama.

    Usual weight: 1.

    Source:
        Wang et al. 2020, "MiniLMv2: Multi-Head Self-Attention Relation Distillation for
        Compressing Pretrained Transformers", arXiv:2012.15828, equations 5 to 9.

    Differs from the paper:
        A text's tokens are averaged, then texts; padding is no token to be related to.
    """

    needs = frozenset({Signal.FEATURES})
    title = "minilm_v2"

    def __init__(
        self,
        student_layer: str,
        teacher_layer: str | None = None,
        heads: int = 12,
        parts: Sequence[str] = ("query", "key", "value"),
    ) -> None:
        """Keep the settings."""
        super().__init__(student_layer, teacher_layer)
        self.heads = checked_heads(heads, self.title)
        self.parts = checked_parts(parts, 3, self.title)
        self.student_layers = parts_of_layers(self.student_layers, self.parts)
        self.teacher_layers = parts_of_layers(self.teacher_layers, self.parts)

    def setup(self, dry: DryRun) -> None:
        """Refuse widths that this number of heads does not divide."""
        check_widths(self, dry, self.heads)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Float[Tensor, ""]:
        """The sum of the three relations' mean divergences, in nats."""
        return over_tokens(self, student, teacher, batch, self._by_token)

    def _by_token(self, student: Features, teacher: Features, mask: Tensor) -> Tensor:
        pairs = zip(student, teacher, strict=True)
        return torch.stack([self._relation(s, t, mask) for s, t in pairs]).sum(dim=0)

    def _relation(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        ours, theirs = (log_relations(values, self.heads, mask) for values in (student, teacher))
        return kl_of_logs(ours, theirs).mean(dim=1)


def scores(
    queries: Float[Tensor, "rows length width"],
    keys: Float[Tensor, "rows length width"],
    heads: int,
) -> Float[Tensor, "rows heads length length"]:
    """Scaled products of each head's queries and keys: attention before softmax."""
    ours, theirs = (values.unflatten(-1, (heads, -1)).transpose(1, 2) for values in (queries, keys))
    products: Tensor = ours @ theirs.transpose(-1, -2)
    return products / math.sqrt(ours.shape[-1])


def scores_distances(
    student: Float[Tensor, "rows heads length length"],
    teacher: Float[Tensor, "rows heads length length"],
    mask: Bool[Tensor, "rows length"],
) -> Float[Tensor, "rows length"]:
    """Each token's mean squared difference of scores, over heads and valid tokens."""
    gaps = (student - teacher).square().mean(dim=1)
    counted = torch.where(mask[:, None, :], gaps, 0.0)
    return counted.sum(dim=-1) / mask.sum(dim=-1, keepdim=True)


def log_relations(
    values: Float[Tensor, "rows length width"], heads: int, mask: Bool[Tensor, "rows length"]
) -> Float[Tensor, "rows heads length length"]:
    """Log-distribution of each token's relation to the other valid tokens, per head."""
    related = scores(values, values, heads).masked_fill(~mask[:, None, None, :], -torch.inf)
    return log_soften(related)


def parts_of_layers(layers: Sequence[str], parts: Sequence[str]) -> tuple[str, ...]:
    """The parts of each layer, layer by layer."""
    return tuple(f"{layer}.{part}" for layer in layers for part in parts)


def checked_parts(parts: Sequence[str], count: int, title: str) -> tuple[str, ...]:
    """Names of an attention's parts, checked for their number.

    Raises:
        ConfigError: There are more or fewer.
    """
    names = (parts,) if isinstance(parts, str) else tuple(parts)
    if len(names) != count:
        wanted = "[query, key]" if count == 2 else "[query, key, value]"
        raise ConfigError(f"{title}: parts must be {count} names, as {wanted}; got {list(names)}.")
    return names


def checked_heads(heads: int, title: str) -> int:
    """A number of heads, checked to be one.

    Raises:
        ConfigError: It is below 1 or no whole number.
    """
    if not isinstance(heads, int) or heads < 1:
        raise ConfigError(f"{title}: heads must be a whole number of 1 or more, got {heads!r}.")
    return heads


def check_widths(loss: Loss, dry: DryRun, heads: int) -> None:
    """Refuse widths that this number of heads does not divide.

    Raises:
        ConfigError: A layer's width is no multiple of the heads.
        ShapeError: A layer gives no tokens.
    """
    ours, theirs = dry_features(loss, dry)
    check_tokens(loss, ours, theirs)
    named = zip((*loss.student_layers, *loss.teacher_layers), (*ours, *theirs), strict=True)
    for layer, feature in named:
        if feature.shape[-1] % heads:
            raise ConfigError(
                f"{loss.title}: layer {layer} is {feature.shape[-1]} wide, which {heads} heads "
                "cannot share evenly. Choose heads that divide the widths of both networks."
            )
