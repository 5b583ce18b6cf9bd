"""The same text in two tokenizers, with the positions where both have read the same."""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from tutelage.data.corpus import (
    Corpus,
    read_documents,
    tokenizer_fingerprint,
)
from tutelage.data.plain import PlainText
from tutelage.data.sources import Samples, Source, Splits
from tutelage.errors import ConfigError, DataError
from tutelage.inputs.text import TextInputs
from tutelage.inputs.tokenizer import load_tokenizer
from tutelage.types import UNLABELLED
from tutelage.wording import quantity

OTHER = "teacher_"
NOWHERE = -1


@dataclass(frozen=True, slots=True)
class Pair:
    """One document in both tokenizers.

    Attributes:
        own: The student's tokens.
        other: The teacher's tokens.
        rows: For each of the student's tokens the teacher's that ends at the same character, and
            `NOWHERE` where none does.
    """

    own: list[int]
    other: list[int]
    rows: list[int]


def pair_up(document: str, own: PlainText, other: PlainText, length: int) -> Pair:
    """A document's tokens in both tokenizers, and the positions where both end a token.

    A token that a tokenizer begins every text with ends before the first character.

    Args:
        document: Text.
        own: The student's tokenizer.
        other: The teacher's.
        length: Largest number of tokens of either; the text is cut to what fits.
    """
    ids, ends = _with_ends(document, own, length)
    text = document[: ends[-1]] if ends else ""
    other_ids, other_ends = _with_ends(text, other, length)
    places = {end: place for place, end in enumerate(other_ends)}
    return Pair(ids, other_ids, [places.get(end, NOWHERE) for end in ends])


def _with_ends(text: str, plain: PlainText, length: int) -> tuple[list[int], list[int]]:
    """Tokens of a text, and the character position where each ends."""
    said = plain.read([text], return_offsets_mapping=True)
    found = [] if plain.begin is None else [(plain.begin, 0)]
    for token, (_, end) in zip(said["input_ids"][0], said["offset_mapping"][0], strict=True):
        found += [(letter, end) for letter in plain.letters(token)]
    found = found[:length]
    return [token for token, _ in found], [end for _, end in found]


class PairedSource(Source):
    """Documents in two tokenizers, padded to the longest of the batch.

    Beside the student's inputs there are the teacher's, under names that begin with `OTHER`.

    Args:
        pairs: Documents of two tokens or more in the student's tokenizer.
        facts: What made them, for the fingerprint.

    Raises:
        DataError: No document is left, or the two never end together.
    """

    in_memory = True
    input_kind = TextInputs()

    def __init__(self, pairs: Sequence[Pair], facts: str) -> None:
        """Store the documents that have a token to predict."""
        self.pairs = [pair for pair in pairs if len(pair.own) > 1 and pair.other]
        if not self.pairs:
            raise DataError("No document has two tokens or more: there is nothing to predict.")
        if all(row == NOWHERE for pair in self.pairs for row in pair.rows):
            raise DataError("The two tokenizers never end a token at the same place.")
        content = json.dumps([[p.own, p.other, p.rows] for p in self.pairs])
        self.fingerprint = hashlib.sha256(f"{facts} {content}".encode()).hexdigest()[:16]

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.pairs)

    def fetch(self, ids: Int[Tensor, " batch"]) -> Samples:
        """Documents with these numbers; labels are the student's next tokens."""
        chosen = [self.pairs[number] for number in ids.tolist()]
        tokens = _filled([pair.own[:-1] for pair in chosen], 0)
        other = _filled([pair.other for pair in chosen], 0)
        lengths = torch.tensor([len(pair.own) - 1 for pair in chosen])
        counted = torch.arange(tokens.shape[1]) < lengths[:, None]
        other_lengths = torch.tensor([len(pair.other) for pair in chosen])
        inputs = {
            "input_ids": tokens,
            "attention_mask": counted.long(),
            "counted": counted,
            f"{OTHER}ids": other,
            f"{OTHER}mask": (torch.arange(other.shape[1]) < other_lengths[:, None]).long(),
            f"{OTHER}rows": _filled([pair.rows[:-1] for pair in chosen], NOWHERE),
        }
        return inputs, _filled([pair.own[1:] for pair in chosen], UNLABELLED)


def _filled(rows: Sequence[Sequence[int]], filler: int) -> Int[Tensor, "rows longest"]:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])


def load_pairs(  # noqa: PLR0913 - independent settings of a recipe
    path: Path,
    tokenizer: str,
    other: str,
    *,
    block_size: int,
    train_tokens: int | None,
    valid_tokens: int,
    test_tokens: int,
    text: str,
    seed: int,
) -> tuple[Corpus, int]:
    """Load documents for a student and a teacher tokenizer; see `load_corpus` for the settings.

    Args:
        path: Path of the text.
        tokenizer: The student's.
        other: The teacher's.
        block_size: Largest number of tokens of a document.
        train_tokens: Tokens of the training data, in the student's tokens.
        valid_tokens: Tokens of the validation data.
        test_tokens: Tokens of the test data.
        text: Field of a .jsonl line.
        seed: Random seed of the order of documents.

    Returns:
        The corpus in the student's tokens, and the number of the teacher's words.

    Raises:
        DataError: There is too little text.
        ConfigError: A tokenizer is missing, or cannot say where its tokens end.
    """
    own, theirs = load_tokenizer(tokenizer), load_tokenizer(other)
    for name, one in ((tokenizer, own), (other, theirs)):
        if not one.is_fast:
            raise ConfigError(f"data: the tokenizer {name} cannot say where its tokens end.")
    documents = list(read_documents(path, text))
    random.Random(seed).shuffle(documents)
    plain, others = PlainText(own, tokenizer), PlainText(theirs, other)
    stream = (pair_up(document, plain, others, block_size + 1) for document in documents)
    facts = f"{block_size} {tokenizer_fingerprint(own)} {tokenizer_fingerprint(theirs)}"
    test, valid = (_take(stream, n, path, facts) for n in (test_tokens, valid_tokens))
    train = _take(stream, train_tokens, path, facts)
    together = sum(row != NOWHERE for pair in train.pairs for row in pair.rows)
    share = together / sum(len(pair.rows) for pair in train.pairs)
    notes = (
        f"Text: {path.name}, {quantity(len(documents), 'document')}, each a sample. Teacher and "
        f"student have different tokenizers, which end together at {share:.0%} of the student's "
        "tokens; their perplexities are of different tokens and cannot be compared.",
        *plain.notes(),
    )
    corpus = Corpus(Splits(train, valid, test, class_names=()), len(own), None, own, notes)
    return corpus, len(theirs)


def _take(stream: Iterator[Pair], wanted: int | None, path: Path, facts: str) -> PairedSource:
    taken: list[Pair] = []
    count = 0
    for pair in stream:
        taken.append(pair)
        count += len(pair.own) - 1
        if wanted is not None and count >= wanted:
            break
    if wanted is not None and count < wanted:
        raise DataError(
            f"{path}: {quantity(wanted, 'token')} asked for, but only {count:,} left. Give more "
            "text, or ask for fewer."
        )
    return PairedSource(taken, facts)
