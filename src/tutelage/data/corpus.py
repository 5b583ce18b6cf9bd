"""Text for language models: documents to tokens, tokens to blocks of equal length."""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tutelage.data.plain import PlainText
from tutelage.data.sources import Samples, Source, Splits
from tutelage.data.tables import Table, read_table
from tutelage.data.text import read_parts
from tutelage.errors import ConfigError, DataError
from tutelage.inputs.text import TextInputs
from tutelage.inputs.tokenizer import load_tokenizer
from tutelage.types import UNLABELLED, tensor_bytes
from tutelage.wording import quantity

LINES = (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv", ".parquet")
SUFFIXES = (".txt", *LINES, *TABLES)
SAVED = ("dataset_info.json", "dataset_dict.json")


class BlockSource(Source):
    """Text as blocks of equal length; every token is predicted from the tokens before it.

    Blocks follow one another in the stream of tokens, so that each token is a label once. What is
    left over at the end is dropped.

    Where texts begin with a token, as Llama's and Gemma's do, every block and every document in it
    begins with it. It is read and never predicted: it stands where the end of the document before
    would be read.

    Args:
        tokens: Tokens of all documents, concatenated.
        block_size: Tokens of a block.
        tokenizer: Fingerprint of what made them.
        begin: The token that every text begins with; None where there is none.
        end: The token that every document ends with.

    Raises:
        DataError: There is not one whole block.
    """

    in_memory = True
    input_kind = TextInputs()

    def __init__(
        self,
        tokens: Int[Tensor, " tokens"],
        block_size: int,
        tokenizer: str = "",
        *,
        begin: int | None = None,
        end: int | None = None,
    ) -> None:
        """Store the tokens, and fingerprint them with their source."""
        self.tokens = tokens.to(torch.int32)
        self.block_size = block_size
        self.begin, self.end = begin, end
        if not len(self):
            raise DataError(
                f"The text has {quantity(len(tokens), 'token')}, a block needs "
                f"{block_size + (begin is None)}. Give more text, or a smaller block."
            )
        begins = "" if begin is None else f"{begin} {end} "
        digest = hashlib.sha256(f"{block_size} {tokenizer} {begins}".encode())
        digest.update(tensor_bytes(self.tokens))
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        """Number of blocks."""
        return (len(self.tokens) - (self.begin is None)) // self.block_size

    def fetch(self, ids: Int[Tensor, " batch"]) -> Samples:
        """Blocks with these numbers, with the next token of each token as label."""
        places = ids[:, None] * self.block_size + torch.arange(self.block_size)
        if self.begin is None:
            tokens, after = self.tokens[places].long(), self.tokens[places + 1].long()
        else:
            after = self.tokens[places].long()
            tokens = after.roll(1, dims=1)
            tokens[tokens == self.end] = self.begin
            tokens[:, 0] = self.begin
        return {"input_ids": tokens, "counted": torch.ones_like(tokens, dtype=torch.bool)}, after


class PaddedSource(Source):
    """Single documents, truncated to a length and padded to the longest of the batch.

    They are filled up on the right, whatever side a tokenizer prefers: what stands there is seen by
    no token before it, and every token keeps its place, which some networks learn.

    Args:
        documents: Token numbers of each.
        length: Largest number of tokens.
        pad: The number that fills up; it is masked, whatever it is.
        tokenizer: Fingerprint of what made them.
    """

    in_memory = True
    input_kind = TextInputs()

    def __init__(
        self,
        documents: Sequence[Sequence[int]],
        length: int,
        pad: int,
        tokenizer: str = "",
    ) -> None:
        """Store the documents that have a token to predict."""
        self.documents = [list(d[: length + 1]) for d in documents if len(d) > 1]
        self.num_cut = sum(len(d) > length + 1 for d in documents)
        if not self.documents:
            raise DataError("No document has two tokens or more: there is nothing to predict.")
        self.pad = pad
        facts = json.dumps([self.documents, length, pad, tokenizer])
        self.fingerprint = hashlib.sha256(facts.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.documents)

    def fetch(self, ids: Int[Tensor, " batch"]) -> Samples:
        """Documents with these numbers."""
        chosen = [self.documents[number] for number in ids.tolist()]
        longest = max(len(document) - 1 for document in chosen)
        tokens = torch.full((len(chosen), longest), self.pad)
        labels = torch.full((len(chosen), longest), UNLABELLED)
        counted = torch.zeros(len(chosen), longest, dtype=torch.bool)
        for row, document in enumerate(chosen):
            place = slice(0, len(document) - 1)
            tokens[row, place] = torch.tensor(document[:-1])
            labels[row, place] = torch.tensor(document[1:])
            counted[row, place] = True
        inputs = {"input_ids": tokens, "attention_mask": counted.long(), "counted": counted}
        return inputs, labels


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus that is ready for a run.

    Attributes:
        splits: Train, validation and test text; whole documents go to one of them.
        vocab_size: Words of the tokenizer.
        block_size: Tokens of a sample; None where documents stay apart.
        tokenizer: The tokenizer itself.
        notes: What a reader must know.
    """

    splits: Splits
    vocab_size: int
    block_size: int | None
    tokenizer: Any
    notes: tuple[str, ...]


def load_corpus(  # noqa: PLR0913 - independent settings of a recipe
    path: Path,
    tokenizer: str,
    *,
    block_size: int = 128,
    train_tokens: int | None = None,
    valid_tokens: int = 4096,
    test_tokens: int = 16384,
    is_packed: bool = True,
    text: str = "text",
    seed: int = 0,
) -> Corpus:
    """Read documents, split them at random, and turn them into samples.

    Args:
        path: A file or a folder of files: .txt (documents between blank lines), .jsonl, .csv, .tsv
            or .parquet; a folder that `datasets` saved, or a name on its hub.
        tokenizer: A Hugging Face folder or name.
        block_size: Tokens of a sample.
        train_tokens: Tokens of the training data; all that are left if not given.
        valid_tokens: Tokens of the validation data.
        test_tokens: Tokens of the test data.
        is_packed: Whether documents follow one another in blocks, with an end sign between; else
            each is a sample of its own, cut to the block's length.
        text: Field or column that holds the document.
        seed: Random seed of the order of documents.

    Raises:
        DataError: There is no text, or too little of it.
        ConfigError: There is no such tokenizer.
    """
    words = load_tokenizer(tokenizer)
    plain = PlainText(words, tokenizer)
    documents = list(read_documents(path, text))
    random.Random(seed).shuffle(documents)
    begin, end = plain.begin, _end_of(words)
    stream = _tokens(plain, documents, end)
    made = tokenizer_fingerprint(words)

    def take(wanted: int | None) -> BlockSource | PaddedSource:
        taken: list[list[int]] = []
        count = 0
        for tokens in stream:
            taken.append(tokens)
            count += len(tokens)
            if wanted is not None and count > wanted:
                break
        if not is_packed:
            pad = end if words.pad_token_id is None else words.pad_token_id
            first = [] if begin is None else [begin]
            return PaddedSource([[*first, *tokens] for tokens in taken], block_size, pad, made)
        joined = torch.tensor([token for tokens in taken for token in tokens], dtype=torch.int32)
        if wanted is not None:
            if len(joined) <= wanted:
                raise DataError(
                    f"{path}: {quantity(wanted, 'token')} asked for, but only {len(joined):,} "
                    "left. Give more text, or ask for fewer."
                )
            joined = joined[: wanted + (begin is None)]
        return BlockSource(joined, block_size, made, begin=begin, end=end)

    test, valid, train = take(test_tokens), take(valid_tokens), take(train_tokens)
    notes = (
        f"Text: {path.name}, {quantity(len(documents), 'document')}; tokenizer {made}; whole "
        "documents are in one split.",
        *_cuts(block_size, test, valid, train),
        *plain.notes(),
    )
    splits = Splits(train, valid, test, class_names=())
    return Corpus(splits, len(words), block_size if is_packed else None, words, notes)


def _cuts(block_size: int, *sources: BlockSource | PaddedSource) -> Iterator[str]:
    """Notes on truncated documents."""
    apart = [source for source in sources if isinstance(source, PaddedSource)]
    count = sum(source.num_cut for source in apart)
    if count:
        yield (
            f"Documents truncated to {block_size} tokens (data.block_size): {count:,} of "
            f"{sum(map(len, apart)):,}."
        )


def _end_of(tokenizer: Any) -> int:
    end: int | None = tokenizer.eos_token_id
    if end is None:
        raise ConfigError(
            "data: the tokenizer has no end sign (eos_token), which parts documents. Set one in "
            "its tokenizer_config.json."
        )
    return end


def _tokens(plain: PlainText, documents: Iterable[str], end: int) -> Iterator[list[int]]:
    """Token numbers of each document, with the end token."""
    for document in documents:
        (tokens,) = plain.tokens([document])
        yield [*tokens, end]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Fingerprint of a tokenizer, which changes when a text would get other tokens."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = vocabulary if backend is None else backend.to_str()
    facts = json.dumps([vocabulary, rules, tokenizer.eos_token_id])
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def read_documents(path: Path, text: str = "text") -> Iterator[str]:
    """Documents of a file, of all files of a folder in order of name, or of a data set.

    Empty ones are left out.

    Args:
        path: See `load_corpus`.
        text: Field or column that holds the document.

    Raises:
        DataError: There is no text; the message names the place.
        UnknownNameError: A table has no such column.
    """
    found = False
    for document in _all_documents(path, text):
        if document.strip():
            found = True
            yield document.strip()
    if not found:
        raise DataError(f"data.path: {path}: all documents are empty.")


def _all_documents(path: Path, text: str) -> Iterator[str]:
    if not path.exists() or any((path / name).is_file() for name in SAVED):
        for table in read_parts(path).values():
            yield from _of_table(table, text)
        return
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in SUFFIXES)
    if not files:
        raise DataError(
            f"data.path: {path}: no text in it. Allowed: {', '.join(SUFFIXES)}, or a folder of "
            "them."
        )
    for file in files:
        if file.suffix in TABLES:
            yield from _of_table(read_table(file), text)
        else:
            yield from _of_lines(file, text)


def _of_table(table: Table, text: str) -> Iterator[str]:
    for row, document in enumerate(table.column(text, "data.text")):
        if not isinstance(document, str):
            raise DataError(f"{table.place(row)}: {text!r} holds no text but {document!r}.")
        yield document


def _of_lines(file: Path, text: str) -> Iterator[str]:
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text ({error}).") from error
    if file.suffix not in LINES:
        yield from content.split("\n\n")
        return
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)[text]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{file}: line {number} is no JSON object with the field {text!r}. Name the field: "
                "data.text."
            ) from error
        if not isinstance(document, str):
            raise DataError(f"{file}: line {number}: {text!r} holds no text.")
        yield document
