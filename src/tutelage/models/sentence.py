"""Sentence encoders: texts to vectors, through a transformer or a table of token vectors."""

import copy
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage.errors import ConfigError, ModelError, require
from tutelage.models.axes import principal_axes
from tutelage.models.hf import check_vocabulary, suppress_logs
from tutelage.models.shrink import shrink
from tutelage.paths import NO_CODE, path_or_hub_name

SENTENCE, STATIC = "sentence:", "static:"
PURPOSE = "Sentence embeddings"
TOKENS_AT_ONCE = 512


class SentenceEncoder(nn.Module):
    """A model of `sentence-transformers`, called with token numbers.

    Args:
        encoder: Transformer, pooling and whatever follows.
    """

    def __init__(self, encoder: Any) -> None:
        """Store the model."""
        super().__init__()
        self.encoder = encoder

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch tokens"],
    ) -> Float[Tensor, "batch width"]:
        """One vector per text."""
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        vectors: Tensor = self.encoder(features)["sentence_embedding"]
        return vectors

    def save_folder(self, folder: Path) -> None:
        """Write a folder that `SentenceTransformer(folder)` loads."""
        self.encoder.save(str(folder), create_model_card=False)


class StaticEncoder(nn.Module):
    """The weighted mean of one vector per token, at unit length: a lookup without a network.

    Trained are the tokens' vectors, a weight of each token, and one map of all vectors to the
    width. The map and the weights learn from every text, so that rare tokens move along with the
    others. What is written is one table: both are multiplied in.

    Args:
        vectors: One row a token of the vocabulary.
        ignored: Numbers of the tokens that do not count, such as those at the ends of a text.
        axes: What the map is at first; None begins with the vectors as they are.
        weights: Weights of the tokens at first, above 0; None weighs all alike.
        tokenizer: Goes into the folder that is written.
        dropout: Share of the vectors' numbers dropped while training.
    """

    def __init__(
        self,
        vectors: Float[Tensor, "tokens width"],
        ignored: Sequence[int],
        axes: Float[Tensor, "width width2"] | None = None,
        weights: Float[Tensor, " tokens"] | None = None,
        tokenizer: Any = None,
        dropout: float = 0.0,
    ) -> None:
        """Store vectors, weights and map."""
        super().__init__()
        tokens, width = vectors.shape
        axes = torch.eye(width) if axes is None else axes
        weights = torch.ones(tokens) if weights is None else weights
        self.table = nn.Embedding.from_pretrained(vectors.clone(), freeze=False)
        self.heights = nn.Embedding.from_pretrained(weights.log()[:, None], freeze=False)
        self.turn = nn.Linear(width, axes.shape[1], bias=False)
        self.turn.weight.data = axes.T.contiguous()
        self.ignored: Tensor
        self.register_buffer("ignored", torch.tensor(sorted(set(ignored)), dtype=torch.long))
        self.tokenizer = tokenizer
        self.dropout = nn.Dropout(dropout)

    @property
    def folded(self) -> Float[Tensor, "tokens width2"]:
        """The equivalent single table."""
        whole: Tensor = self.turn(self.table.weight * self.heights.weight.exp())
        return whole.detach().cpu().contiguous()

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch tokens"],
    ) -> Float[Tensor, "batch width2"]:
        """One vector of unit length per text; zeros for a text without valid tokens."""
        is_ignored = (input_ids[..., None] == self.ignored).any(dim=-1)
        counts = (attention_mask.bool() & ~is_ignored).to(self.table.weight.dtype)
        shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
        weights = self.heights(input_ids).exp() * shares[..., None]
        mean = (self.dropout(self.table(input_ids)) * weights).sum(dim=1)
        return F.normalize(self.turn(mean), dim=1)

    def save_folder(self, folder: Path) -> None:
        """Write a folder that `SentenceTransformer(folder)` loads."""
        library = _library()
        modules = library.sentence_transformer.modules
        fast = copy.deepcopy(getattr(self.tokenizer, "_tokenizer", self.tokenizer))
        fast.no_truncation()
        table = modules.StaticEmbedding(fast, self.folded)
        whole = library.SentenceTransformer(modules=[table, modules.Normalize()], device="cpu")
        whole.save(str(folder), create_model_card=False)


def sentence(  # noqa: PLR0913 - the settings of a recipe's model
    path: str,
    vocab_size: int | None = None,
    tokenizer: str | None = None,
    max_length: int | None = None,
    keep_layers: Sequence[int] | None = None,
    num_layers: int | None = None,
    mlp_width: int | None = None,
    freeze_embeddings: bool = False,
    dropout: float | None = None,
) -> SentenceEncoder:
    """A sentence encoder from a folder or by its hub name, whole or with some of its layers.

    Args:
        path: A folder of `sentence-transformers`, or a hub name.
        vocab_size: Vocabulary size of the data's tokenizer, to be checked.
        tokenizer: The data's, to be checked.
        max_length: Tokens of the data's longest text, to be checked.
        keep_layers: Numbers of the transformer's layers that stay, in order, from 0; null keeps
            all. Layers kept from the teacher are the strongest cheap start of a student.
        num_layers: How many stay, evenly spread, first and last among them.
        mlp_width: Units that stay in each MLP, those whose weights are largest; null keeps all.
        freeze_embeddings: Whether the token vectors stay as they are.
        dropout: Dropout probability of the whole transformer in training; null keeps its own.

    Raises:
        ModelError: It cannot be loaded, or its layers are not found.
        ConfigError: A layer or width that it has not was asked for, or the data's tokens are not
            its own.
    """
    encoder = _load(path)
    network = encoder[0].auto_model
    _check_length(network, path, max_length)
    check_vocabulary(network, path, vocab_size, tokenizer, SENTENCE)
    shrink(network, keep_layers, num_layers, mlp_width)
    if freeze_embeddings:
        network.get_input_embeddings().requires_grad_(False)
    if dropout is not None:
        _set_dropout(encoder, dropout)
    return SentenceEncoder(encoder).eval()


def static(
    path: str,
    vocab_size: int | None = None,
    tokenizer: str | None = None,
    width: int | None = 256,
    rarity: float | None = 1e-4,
    freeze_embeddings: bool = False,
    dropout: float = 0.0,
) -> StaticEncoder:
    """A table of token vectors extracted from a sentence encoder.

    Every token of the vocabulary goes through the encoder alone; at first the vectors are taken
    along their principal axes and weighed by how rare the token is.

    Args:
        path: Path of the encoder, as in `sentence`.
        vocab_size: Vocabulary size of the data's tokenizer, to be checked.
        tokenizer: The data's, to be checked.
        width: Width of the vectors; null keeps the encoder's.
        rarity: a in the weight a / (a + p), where p is a token's share of all text by Zipf's law
            from its place in the vocabulary; null weighs all alike.
        freeze_embeddings: Whether the vectors stay as they are, and weights and map alone are
            trained: seconds instead of minutes.
        dropout: Share of the vectors' numbers dropped while training.

    Raises:
        ModelError: The encoder cannot be loaded.
        ConfigError: A setting is out of its range, or the data's tokens are not its own.

    Source:
        Tulkens & van Dongen 2024, "Model2Vec"; the weights: Arora, Liang & Ma 2017, "A Simple but
        Tough-to-Beat Baseline for Sentence Embeddings", section 3.
    """
    if rarity is not None and not 0 < rarity < 1:
        raise ConfigError(
            f"static: rarity must lie between 0 and 1, got {rarity}; 0.0001 is usual."
        )
    vectors, ignored, own = _token_vectors(path, vocab_size, tokenizer)
    if width is not None and not 0 < width <= vectors.shape[1]:
        raise ConfigError(
            f"static: width must lie between 1 and the encoder's {vectors.shape[1]}, got {width}."
        )
    centred = vectors - vectors.mean(dim=0)
    axes = principal_axes(vectors, width or vectors.shape[1])
    weights = None if rarity is None else _weights(len(vectors), rarity)
    made = StaticEncoder(centred, ignored, axes, weights, own, dropout)
    made.table.requires_grad_(not freeze_embeddings)
    return made


def save_encoder(model: nn.Module, folder: Path) -> None:
    """Save a student as a folder that `SentenceTransformer(folder)` loads.

    Args:
        model: A sentence encoder or a static one, alone or within what a loss wrapped around it.
        folder: Where it goes.

    Raises:
        ModelError: There is neither in it.
    """
    kinds = (SentenceEncoder, StaticEncoder)
    found = next((part for part in model.modules() if isinstance(part, kinds)), None)
    if found is None:
        raise ModelError(
            f"{type(model).__name__}: only sentence:NAME and static:NAME are written as folders of "
            "sentence-transformers."
        )
    folder.mkdir(parents=True, exist_ok=True)
    found.cpu().eval().save_folder(folder)


def _library() -> Any:
    return require("sentence_transformers", "text", PURPOSE)


def _load(path: str) -> Any:
    library = _library()
    suppress_logs(require("transformers", "text", PURPOSE))
    try:
        found = library.SentenceTransformer(path_or_hub_name(path), device="cpu", **NO_CODE)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise ModelError(
            f"model 'sentence:{path}' cannot be loaded ({type(error).__name__}: {reason}). Give a "
            "folder of sentence-transformers, or the name of one on the hub; scripts/get-data "
            "all-minilm-l6-v2 brings one."
        ) from error
    if not isinstance(getattr(found[0], "auto_model", None), nn.Module):
        raise ModelError(
            f"model 'sentence:{path}': its first part is a {type(found[0]).__name__}, not a "
            "transformer. Give an encoder with one."
        )
    return found.float()


def _check_length(network: Any, path: str, max_length: int | None) -> None:
    places = getattr(network.config, "max_position_embeddings", None)
    if max_length is not None and places is not None and max_length > places:
        raise ConfigError(
            f"data.max_length: {max_length} is more than the {places} tokens that "
            f"'sentence:{path}' can read. Set it to {places} or less."
        )


def _set_dropout(encoder: nn.Module, dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise ConfigError(f"settings.dropout must be 0 or more and below 1, got {dropout}.")
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout


def _weights(rows: int, rarity: float) -> Float[Tensor, " rows"]:
    """Weights of tokens by rank in the vocabulary, the most frequent first."""
    ranks = torch.arange(2, rows + 2, dtype=torch.float64)
    shares = (1 / ranks) / (1 / ranks).sum()
    return (rarity / (rarity + shares)).float()


@lru_cache(maxsize=1)
def _token_vectors(
    path: str, vocab_size: int | None, name: str | None
) -> tuple[Tensor, tuple[int, ...], Any]:
    """An encoder's vector of each token, the special tokens of a text, and the tokenizer.

    Students of several seeds begin with the same table: it is made once.
    """
    encoder = _load(path).eval()
    check_vocabulary(encoder[0].auto_model, path, vocab_size, name, STATIC)
    tokenizer = encoder.tokenizer
    ends = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id]
    ends += [tokenizer.bos_token_id, tokenizer.eos_token_id]
    before, after = _frame(tokenizer)
    rows = []
    with torch.inference_mode():
        for tokens in torch.arange(len(tokenizer)).split(TOKENS_AT_ONCE):
            sides = [torch.tensor(side, dtype=torch.long) for side in (before, after)]
            first, last = (side.expand(len(tokens), -1) for side in sides)
            ids = torch.cat([first, tokens[:, None], last], dim=1)
            said = encoder({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
            rows.append(said["token_embeddings"].mean(dim=1))
    ignored = tuple(sorted({token for token in ends if token is not None}))
    return torch.cat(rows).clone(), ignored, tokenizer


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokens that the tokenizer adds before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    starts = range(len(whole) - len(bare) + 1)
    start = next(n for n in starts if whole[n : n + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]
