"""Texts with one label per word; the class belongs to the first token of each word."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.labels import class_name, class_names, is_saved_list, some_names
from tutelage.data.sources import Splits
from tutelage.data.text import (
    Columns,
    Examples,
    held_out_parts,
    read_parts,
)
from tutelage.data.tokenization import Tokenizing
from tutelage.data.tokens import TokenSource
from tutelage.errors import DataError
from tutelage.inputs.tokenizer import load_tokenizer
from tutelage.types import UNLABELLED
from tutelage.wording import quantity

NO_BREAK = "\N{NO-BREAK SPACE}"  # within a word, so that a space parts words


def load_words(
    path: str | Path,
    tokenizer: str,
    text_column: str = "words",
    label_column: str = "labels",
    max_length: int = 128,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> Splits:
    """Texts with labelled words as tokens.

    Args:
        path: See `load_text`.
        tokenizer: See `load_text`.
        text_column: Column of the words: lists, or words with spaces between them.
        label_column: Column of the words' classes, likewise.
        max_length: Tokens of a text; what is longer is cut, counted and said.
        valid_fraction: Share of the training texts held out where there is no valid part.
        test_fraction: Share held out where there is no test part.
        seed: Random seed of the held-out parts.

    Raises:
        DataError: Words and labels differ in number, or a label is unknown; the message says where.
    """
    columns = Columns(text_column, label_column)
    parts = held_out_parts(read_parts(path), columns, valid_fraction, test_fraction, seed)
    cut = Tokenizing(load_tokenizer(tokenizer), max_length, tokenizer)
    if not cut.tokenizer.is_fast:
        raise DataError(
            f"data.tokenizer: {cut.name} cannot say which word a token belongs to. Give one with a "
            "tokenizer.json."
        )
    tagged = {part: _tagged(examples) for part, examples in parts.items()}
    names = class_names(
        (label for _, labels in tagged["train"] for label in labels), "data.label_column"
    )
    numbers = {name: number for number, name in enumerate(names)}
    train, valid, test = (
        _source(parts[part], tagged[part], numbers, cut) for part in ("train", "valid", "test")
    )
    return Splits(train, valid, test, tuple(names), notes=cut.notes())


Tagged = list[tuple[list[str], list[str]]]


def _tagged(examples: Examples) -> Tagged:
    rows = []
    for row, (text, label) in enumerate(zip(examples.texts, examples.labels, strict=True)):
        place = examples.place(row)
        words = [_word(word, place) for word in _listed(text, place)]
        labels = [class_name(entry, place) for entry in _listed(label, place)]
        if not words:
            raise DataError(f"{place}: it has no words. Remove the row.")
        if len(words) != len(labels):
            raise DataError(
                f"{place}: {quantity(len(words), 'word')}, but {quantity(len(labels), 'label')}. "
                "Give each word one label, in lists or with spaces between them."
            )
        rows.append((words, labels))
    return rows


def _listed(value: Any, place: str) -> list[Any]:
    if isinstance(value, str) and is_saved_list(value):
        raise DataError(
            f"{place}: {value!r:.80} is a list that was written as text. Write the words with "
            "spaces between them, or lists in a .jsonl or .parquet file."
        )
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, Sequence | np.ndarray):
        raise DataError(
            f"{place}: a {type(value).__name__} stands where words or their labels should. Give "
            "lists, or text with spaces between the words."
        )
    return list(value)


def _word(word: Any, place: str) -> str:
    if not isinstance(word, str):
        raise DataError(f"{place}: {word!r:.80} is a {type(word).__name__}, not a word.")
    return word


def _source(
    examples: Examples, tagged: Tagged, numbers: Mapping[str, int], cut: Tokenizing
) -> TokenSource:
    encoded = cut.plain.read([words for words, _ in tagged], is_split_into_words=True)
    before, after = ([UNLABELLED] * len(side) for side in (cut.plain.before, cut.plain.after))
    ids, classes, counted = [], [], []
    for row, (_, labels) in enumerate(tagged):
        tokens = [
            (letter, word)
            for token, word in zip(encoded["input_ids"][row], encoded.word_ids(row), strict=True)
            for letter in cut.plain.letters(token)
        ]
        words = [word for _, word in tokens]
        of_tokens = _of_tokens(examples, row, labels, words, numbers)
        kept = cut.shortened(list(zip([token for token, _ in tokens], of_tokens, strict=True)))
        ids.append([*cut.plain.before, *(token for token, _ in kept), *cut.plain.after])
        classes.append([*before, *(label for _, label in kept), *after])
        counted.append([label != UNLABELLED for label in classes[-1]])
    texts = [" ".join(word.replace(" ", NO_BREAK) for word in words) for words, _ in tagged]
    return cut.token_source(ids, classes, counted, texts)


def _of_tokens(
    examples: Examples,
    row: int,
    labels: Sequence[str],
    words: Sequence[int | None],
    numbers: Mapping[str, int],
) -> list[int]:
    """The class of each word's first token; `UNLABELLED` for all other tokens."""
    before = [None, *words[:-1]]
    starts = zip(words, before, strict=True)
    of_tokens = [UNLABELLED if w is None or w == b else w for w, b in starts]
    for label in labels:
        if label not in numbers:
            raise DataError(
                f"{examples.place(row)}: the label {label!r} does not occur in the training texts. "
                f"Known: {some_names(list(numbers))}."
            )
    return [UNLABELLED if word == UNLABELLED else numbers[labels[word]] for word in of_tokens]
