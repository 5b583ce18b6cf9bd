"""Small networks for texts, down to microcontroller size."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage.errors import ConfigError
from tutelage.models.hf import input_embeddings
from tutelage.models.sizes import check_shares, check_sizes

_HASH = 1_000_003


def token_vectors(rows: int, width: int, embeddings: str | None) -> nn.Embedding:
    """Token vectors: random, or those of a `transformers` network reduced to the width."""
    words = nn.Embedding(rows, width)
    with torch.no_grad():
        words.weight.normal_(std=0.1)
        if embeddings is not None:
            vectors = input_embeddings(embeddings, width)[:rows]
            words.weight[: len(vectors)] = vectors / vectors.std()
    return words


class BagOfWords(nn.Module):
    """The mean of token vectors and of hashed bigram vectors, then a classifier.

    Args:
        num_classes: Width of the logits.
        vocab_size: Vocabulary size of the tokenizer.
        width: Width of the vectors.
        buckets: Rows that pairs of neighbouring tokens share; 0 leaves pairs out.
        hidden: Width of a layer before the logits; 0 for none.
        dropout: Share of the mean's entries dropped while training.
        embeddings: A network of `transformers` whose token embeddings, brought to the width, are
            the first vectors of the tokens; None draws them.
        max_tokens: Rows for tokens; larger token numbers share them. None gives each its own.

    Source:
        Joulin, Grave, Bojanowski & Mikolov 2016, "Bag of Tricks for Efficient Text Classification",
        arXiv:1607.01759.
    """

    def __init__(
        self,
        num_classes: int,
        vocab_size: int,
        width: int = 64,
        *,
        buckets: int = 0,
        hidden: int = 0,
        dropout: float = 0.0,
        embeddings: str | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Initialise the vectors, or take the teacher's."""
        super().__init__()
        facts = {"num_classes": num_classes, "vocab_size": vocab_size}
        check_sizes("bag_of_words", **facts, width=width, max_tokens=max_tokens)
        check_sizes("bag_of_words", least=0, buckets=buckets, hidden=hidden)
        check_shares("bag_of_words", dropout=dropout)
        self.rows = min(vocab_size, max_tokens or vocab_size)
        self.buckets = buckets
        if embeddings is not None and self.rows < vocab_size:
            raise ConfigError(
                "settings: embeddings need a row for each token; leave max_tokens out."
            )
        self.words = token_vectors(self.rows, width, embeddings)
        self.pairs = nn.Embedding(buckets, width) if buckets else None
        if self.pairs is not None:
            nn.init.zeros_(self.pairs.weight)
        self.dropout = nn.Dropout(dropout)
        self.hidden = (
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU()) if hidden else nn.Identity()
        )
        self.head = nn.Linear(hidden or width, num_classes)

    def forward(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits."""
        mask = attention_mask.to(self.words.weight.dtype)
        total = (self.words(input_ids % self.rows) * mask.unsqueeze(dim=-1)).sum(dim=1)
        count = mask.sum(dim=1, keepdim=True)
        if self.pairs is not None:
            pairs = (input_ids[:, :-1] * _HASH + input_ids[:, 1:]) % self.buckets
            both = (mask[:, :-1] * mask[:, 1:]).unsqueeze(dim=-1)
            total = total + (self.pairs(pairs) * both).sum(dim=1)
        mean = total / count.clamp(min=1)
        logits: Tensor = self.head(self.hidden(self.dropout(mean)))
        return logits


class TextCNN(nn.Module):
    """Convolutions over token vectors, max pooling per filter, then a classifier.

    Args:
        num_classes: Width of the logits.
        vocab_size: Vocabulary size of the tokenizer.
        width: Width of the vectors.
        filters: Number of filters of each size.
        sizes: Tokens that a filter sees.
        dropout: Share of the answers dropped while training.
        embeddings: See `BagOfWords`.

    Source:
        Kim 2014, "Convolutional Neural Networks for Sentence Classification", arXiv:1408.5882.
    """

    def __init__(
        self,
        num_classes: int,
        vocab_size: int,
        width: int = 64,
        *,
        filters: int = 64,
        sizes: Sequence[int] = (1, 2, 3),
        dropout: float = 0.0,
        embeddings: str | None = None,
    ) -> None:
        """Initialise the weights; the token vectors may be the teacher's."""
        super().__init__()
        facts = {"num_classes": num_classes, "vocab_size": vocab_size}
        check_sizes("text_cnn", **facts, width=width, filters=filters, sizes=sizes)
        check_shares("text_cnn", dropout=dropout)
        self.words = token_vectors(vocab_size, width, embeddings)
        self.sizes = tuple(sizes)
        self.filters = nn.ModuleList(
            nn.Conv1d(width, filters, size, padding=size - 1) for size in sizes
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(filters * len(sizes), num_classes)

    def forward(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits."""
        mask = attention_mask.to(self.words.weight.dtype).unsqueeze(dim=-1)
        vectors = (self.words(input_ids) * mask).transpose(1, 2)
        row = mask.transpose(1, 2)
        answers = [
            _largest(convolution(vectors), row, size)
            for size, convolution in zip(self.sizes, self.filters, strict=True)
        ]
        logits: Tensor = self.head(self.dropout(torch.cat(answers, dim=1)))
        return logits


def _largest(
    answers: Float[Tensor, "batch filters places"], mask: Float[Tensor, "batch 1 length"], size: int
) -> Float[Tensor, "batch filters"]:
    """Each filter's largest response, above 0, over positions with a token."""
    # Windows one by one: pooling would fix the length of texts in an exported file.
    padded, places = F.pad(mask, (size - 1, size - 1)), answers.shape[-1]
    windows = [padded[..., first : first + places] for first in range(size)]
    sees = torch.stack(windows).amax(dim=0)
    return (answers.relu() * sees).amax(dim=-1)
