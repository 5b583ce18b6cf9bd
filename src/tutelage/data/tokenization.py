"""Tokenisation of texts, and counts of what was truncated."""

from array import array
from collections.abc import Sequence
from typing import Any, TypeVar

from jaxtyping import Shaped
from torch import Tensor

from tutelage.data.plain import PlainText
from tutelage.data.tokens import TokenSource
from tutelage.errors import DataError

T = TypeVar("T")
AT_ONCE = 10_000  # texts: beside its tokens a tokenizer says kilobytes of each


class Tokenizing:
    """Tokenises texts, and counts those that were truncated.

    Args:
        tokenizer: A tokenizer of `transformers`.
        max_length: Tokens of a text, those that the tokenizer adds included.
        name: Name of the tokenizer, for messages.
    """

    def __init__(self, tokenizer: Any, max_length: int, name: str) -> None:
        """Hold the tokenizer and its facts."""
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.name = name
        self.num_texts = 0
        self.num_cut = 0
        self.plain = PlainText(tokenizer, name)
        self.pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)
        added = len(self.plain.before) + len(self.plain.after)
        self.room = max_length - added
        if self.room < 1:
            raise DataError(
                f"data.max_length: {max_length} leaves no room for a text: the tokenizer {name} "
                f"adds {added} tokens of its own. Usual: 64 to 512."
            )

    @property
    def facts(self) -> dict[str, object]:
        """Facts about the tokens that networks may need."""
        return {
            "vocab_size": len(self.tokenizer),
            "max_length": self.max_length,
            "pad_id": self.pad_id,
            "tokenizer": self.name,
        }

    def source(self, texts: Sequence[str], labels: Shaped[Tensor, "n ..."] | None) -> TokenSource:
        """Texts as a source.

        Raises:
            DataError: A text has no token.
        """
        return self.token_source(self.tokenize(texts), labels, None, texts)

    def tokenize(self, texts: Sequence[str]) -> list[Sequence[int]]:
        """Tokens of each text, truncated.

        Raises:
            DataError: A text has no token.
        """
        return [
            tokens
            for first in range(0, len(texts), AT_ONCE)
            for tokens in self._cut(texts[first : first + AT_ONCE])
        ]

    def _cut(self, texts: Sequence[str]) -> list[Sequence[int]]:
        ids = [self.framed(tokens) for tokens in self.plain.tokens(texts)]
        empty = next((n for n, tokens in enumerate(ids) if not tokens), None)
        if empty is not None:
            raise DataError(
                f"The tokenizer {self.name} finds no token in the text {texts[empty]!r}. Remove it."
            )
        return [array("i", tokens) for tokens in ids]

    def token_source(
        self,
        ids: Sequence[Sequence[int]],
        labels: Shaped[Tensor, "n ..."] | Sequence[Sequence[int]] | None,
        counted: Sequence[Sequence[bool]] | None,
        texts: Sequence[str],
    ) -> TokenSource:
        """A source of texts that were tokenised here."""
        return TokenSource(
            ids,
            labels,
            counted=counted,
            pad_id=self.pad_id,
            pads_left=self.tokenizer.padding_side == "left",
            texts=texts,
            facts=self.facts,
        )

    def framed(self, tokens: Sequence[int]) -> list[int]:
        """Truncated tokens of a text, with the special tokens that the tokenizer adds around it."""
        return [*self.plain.before, *self.shortened(tokens), *self.plain.after]

    def shortened(self, values: Sequence[T]) -> Sequence[T]:
        """A text's tokens, truncated on the side that the tokenizer prefers.

        Args:
            values: One a token of the text, without what the tokenizer adds.
        """
        self.num_texts += 1
        if len(values) <= self.room:
            return values
        self.num_cut += 1
        is_end = self.tokenizer.truncation_side == "left"
        return values[-self.room :] if is_end else values[: self.room]

    def notes(self) -> tuple[str, ...]:
        """Notes for the reader of the results."""
        if not self.num_cut:
            return self.plain.notes()
        return (
            f"Texts truncated to {self.max_length} tokens (data.max_length): {self.num_cut:,} of "
            f"{self.num_texts:,} ({self.num_cut / self.num_texts:.1%}).",
            *self.plain.notes(),
        )
