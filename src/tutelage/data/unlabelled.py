"""Texts without labels, for students that learn from the teacher alone."""

from collections.abc import Sequence
from pathlib import Path

from tutelage.data.sources import Splits
from tutelage.data.text import (
    Columns,
    checked_texts,
    held_out_parts,
    read_parts,
    transfer_table,
)
from tutelage.data.tokenization import Tokenizing
from tutelage.errors import DataError
from tutelage.inputs.tokenizer import load_tokenizer
from tutelage.wording import quantity

LEAST = 3  # texts of a part that is judged by how each resembles the others


def load_unlabelled(  # noqa: PLR0913 - the keys of data in a recipe
    path: str | Path,
    tokenizer: str,
    text_column: str = "text",
    max_length: int = 128,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    transfer: Sequence[str | Path] = (),
    transfer_column: str = "text",
    seed: int = 0,
) -> Splits:
    """Texts as tokens, without labels.

    Args:
        path: See `load_text`; a file may be .txt too, with one text a line.
        tokenizer: See `load_text`.
        text_column: Column of the texts.
        max_length: Tokens of a text; what is longer is cut, counted and said.
        valid_fraction: Share of the training texts held out where there is no valid part.
        test_fraction: Share held out where there is no test part.
        transfer: More texts to train on.
        transfer_column: Column of their texts.
        seed: Random seed of the held-out parts.

    Raises:
        DataError: A file, a column or a text cannot be used; the message says where.
    """
    parts = held_out_parts(
        read_parts(path), Columns(text_column), valid_fraction, test_fraction, seed
    )
    texts = {part: checked_texts(rows, "data.text_column") for part, rows in parts.items()}
    for file in transfer:
        more = transfer_table(file, transfer_column)
        texts["train"] += checked_texts(more, "data.transfer_column")
    for part in ("valid", "test"):
        if len(texts[part]) < LEAST:
            raise DataError(
                f"{parts[part].table.origin}: the {part} part has "
                f"{quantity(len(texts[part]), 'text')}; at least {LEAST} are compared with one "
                f"another. Give more, or a larger data.{part}_fraction."
            )
    cut = Tokenizing(load_tokenizer(tokenizer), max_length, tokenizer)
    train, valid, test = (cut.source(texts[part], None) for part in ("train", "valid", "test"))
    return Splits(train, valid, test, class_names=(), notes=cut.notes())
