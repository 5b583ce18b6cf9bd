"""Tokenisation of plain text: the spelling of a control token stays ordinary text."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tutelage.errors import DataError

PROBES = 64  # ordinary tokens that are tried to see what a tokenizer sets around a text


class PlainText:
    """A tokenizer that reads all characters of a text as plain text.

    Whoever writes `[SEP]` or `<|endoftext|>` into a text would else end it there for a network that
    was trained with these tokens.

    Args:
        tokenizer: A tokenizer of `transformers`.
        name: Name of the tokenizer, for messages.

    Attributes:
        before: Tokens that the tokenizer itself sets before a text, such as `[CLS]` or `<s>`.
        after: Those that it sets after it.
        num_spelt: Texts so far that spell a control token.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        """Find out which tokens the tokenizer adds, and its control tokens."""
        self.tokenizer = tokenizer
        self.name = name
        self.num_spelt = 0
        self._letters = {token: _letters(tokenizer, token) for token in control_tokens(tokenizer)}
        spellings = tokenizer.convert_ids_to_tokens(sorted(self._letters))
        self._spelling = re.compile("|".join(map(re.escape, spellings))) if spellings else None
        self.before, self.after = self._frame()

    @property
    def control(self) -> list[int]:
        """All control tokens."""
        return sorted(self._letters)

    @property
    def begin(self) -> int | None:
        """The token before every text, if there is one.

        Raises:
            DataError: There are several.
        """
        if len(self.before) > 1:
            raise DataError(
                f"data.tokenizer: {self.name} sets {len(self.before)} tokens before a text. Text "
                "for language models can begin with one at most."
            )
        return self.before[0] if self.before else None

    def read(self, texts: Sequence[Any], **options: object) -> Any:
        """Raw tokens of texts, which may still contain control tokens."""
        for text in texts:
            whole = text if isinstance(text, str) else " ".join(text)
            self.num_spelt += bool(self._spelling and self._spelling.search(whole))
        return self.tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True, **options
        )

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text, without added ones."""
        return [self._spelt(ids) for ids in self.read(texts)["input_ids"]]

    def letters(self, token: int) -> Sequence[int]:
        """The token itself; for a control token, the tokens that spell it."""
        return self._letters.get(token, (token,))

    def notes(self) -> tuple[str, ...]:
        """Notes for the reader of the results."""
        if not self.num_spelt:
            return ()
        return (
            f"Texts that spell a control token of the tokenizer: {self.num_spelt:,} (such as "
            f"{self.tokenizer.convert_ids_to_tokens(min(self._letters))}), which is read as plain "
            "text.",
        )

    def _spelt(self, ids: list[int]) -> list[int]:
        if self._letters.keys().isdisjoint(ids):
            return ids
        return [letter for token in ids for letter in self.letters(token)]

    def _frame(self) -> tuple[list[int], list[int]]:
        for probe in self._probes():
            bare = self.tokenizer(probe, add_special_tokens=False)["input_ids"]
            whole = self.tokenizer(probe)["input_ids"]
            if not bare or not self._letters.keys().isdisjoint(bare):
                continue
            starts = range(len(whole) - len(bare) + 1)
            found = [n for n in starts if whole[n : n + len(bare)] == bare]
            if len(found) == 1:
                return list(whole[: found[0]]), list(whole[found[0] + len(bare) :])
        raise DataError(
            f"data.tokenizer: {self.name} does not say what it adds to a text: its own tokens of a "
            "text are not found among those with its additions. Give another tokenizer."
        )

    def _probes(self) -> Iterator[str]:
        yield "a"
        ordinary = (t for t in range(len(self.tokenizer)) if t not in self._letters)
        for token in itertools.islice(ordinary, PROBES):
            yield self.tokenizer.decode([token])


def control_tokens(tokenizer: Any) -> set[int]:
    """Tokens that control a network and represent no text, without the unknown token."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {number for number, token in added.items() if token.special}
    return {*special, *tokenizer.all_special_ids} - {tokenizer.unk_token_id}


def _letters(tokenizer: Any, token: int) -> tuple[int, ...]:
    """Ordinary tokens that spell a control token; one unknown token if all are unknown.

    The vocabulary of some tokenizers (Unigram, whole words) holds control tokens among the
    ordinary ones, where they are found in a text even when they are not looked for as such.
    """
    unknown = tokenizer.unk_token_id
    found = tokenizer.convert_tokens_to_ids(list(tokenizer.convert_ids_to_tokens(token)))
    known = [n for n in found if n is not None and n != unknown and n != token]
    if known and len(known) == len(found):
        return tuple(known)
    return () if unknown is None else (int(unknown),)
