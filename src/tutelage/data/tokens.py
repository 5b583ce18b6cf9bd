"""Texts as tokens in memory, padded to the longest of each batch."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from tutelage.data.sources import Samples, Source
from tutelage.inputs.text import TextInputs
from tutelage.types import UNLABELLED, VALID_MASK, tensor_bytes


class TokenSource(Source):
    """Texts that are tokenised once.

    Args:
        ids: Tokens of each text.
        labels: One row a text, or for each text a class number a token; `UNLABELLED` where there is
            none. None for texts without labels.
        counted: For tasks of tokens, which tokens of each text count.
        pad_id: The token that fills a text up.
        pads_left: Whether it does so in front.
        texts: The texts themselves, for the report.
        facts: What networks may want to know: vocab_size, pad_id, max_length, ...
    """

    in_memory = True
    lengths: Int[Tensor, " n"]

    def __init__(
        self,
        ids: Sequence[Sequence[int]],
        labels: Shaped[Tensor, "n ..."] | Sequence[int] | Sequence[Sequence[int]] | None = None,
        *,
        counted: Sequence[Sequence[bool]] | None = None,
        pad_id: int = 0,
        pads_left: bool = False,
        texts: Sequence[str] = (),
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """Concatenate all tokens, and fingerprint them."""
        lengths = torch.tensor([len(tokens) for tokens in ids], dtype=torch.long)
        self.ends = lengths.cumsum(dim=0)
        self.lengths = lengths
        self.tokens = _flat(ids, torch.int32)
        self.counted = None if counted is None else _flat(counted, torch.bool)
        self.of_tokens = counted is not None
        self.labels = None if labels is None else _labels(labels, self.of_tokens)
        self.pad_id = pad_id
        self.pads_left = pads_left
        self.texts = texts
        self.input_kind = TextInputs(facts, has_words=counted is not None)
        if not self.of_tokens and self.labels is not None:
            self.labelled_share = float((self.labels != UNLABELLED).double().mean())
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        return self._hash(self.tokens, self.lengths, self.labels, self.counted)

    def _hash(self, *parts: Tensor | None) -> str:
        digest = hashlib.sha256(repr((self.pad_id, self.pads_left)).encode())
        for part in parts:
            if part is not None:
                digest.update(tensor_bytes(part))
        return digest.hexdigest()[:16]

    def part_fingerprint(self, samples: range) -> str:
        """Fingerprint of these texts' tokens, independent of labels and of other texts."""
        own = slice(samples.start, samples.stop)
        first, last = int(self.ends[own][0] - self.lengths[own][0]), int(self.ends[own][-1])
        counted = None if self.counted is None else self.counted[first:last]
        return self._hash(self.tokens[first:last], self.lengths[own], counted)

    def text(self, number: int) -> str | None:
        """The text that the tokens were made of, where it is known."""
        found = self.texts[number] if len(self.texts) else None
        return found if isinstance(found, str) else None

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.lengths)

    def fetch(self, ids: Int[Tensor, " batch"]) -> Samples:
        """Texts with these numbers: `input_ids`, `attention_mask`, and the mask of valid tokens."""
        lengths = self.lengths[ids]
        longest = int(lengths.max())
        places = torch.arange(longest).expand(len(ids), longest)
        if self.pads_left:
            places = places - (longest - lengths)[:, None]
        is_token = (places >= 0) & (places < lengths[:, None])
        where = ((self.ends[ids] - lengths)[:, None] + places).where(is_token, 0)

        def filled(values: Tensor, filler: int) -> Tensor:
            return values[where].where(is_token, filler)

        inputs = {
            "input_ids": filled(self.tokens, self.pad_id).long(),
            "attention_mask": is_token.long(),
        }
        if self.counted is not None:
            inputs[VALID_MASK] = filled(self.counted, 0)
        if self.labels is None:
            return inputs, None
        return inputs, filled(self.labels, UNLABELLED) if self.of_tokens else self.labels[ids]


def _flat(values: Sequence[Sequence[int]] | Sequence[Sequence[bool]], dtype: torch.dtype) -> Tensor:
    count, name = sum(map(len, values)), str(dtype).removeprefix("torch.")
    return torch.from_numpy(np.fromiter(chain.from_iterable(values), dtype=name, count=count))


def _labels(labels: Tensor | Sequence[int] | Sequence[Sequence[int]], of_tokens: bool) -> Tensor:
    if isinstance(labels, Tensor):
        return labels
    flat = [label for row in labels for label in row] if of_tokens else labels  # type: ignore[union-attr]
    return torch.tensor(flat, dtype=torch.long)
