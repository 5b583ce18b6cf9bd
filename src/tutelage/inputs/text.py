"""Texts as tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from tutelage.files import staged_folder
from tutelage.inputs.base import BATCH, LENGTH, Axes, InputKind, not_exported
from tutelage.inputs.tokenizer import load_tokenizer
from tutelage.models.calling import call
from tutelage.types import VALID_MASK, Inputs, by_name, first_tensor, tensors_of

IDS, MASK = "input_ids", "attention_mask"


@final
class TextInputs(InputKind):
    """Texts as tokens by name: `input_ids`, `attention_mask`, and what the task adds.

    Args:
        facts: What networks may ask for: vocab_size, pad_id, max_length, tokenizer (its name).
        has_words: Whether texts come as words, each with a label of its own.
    """

    name = "text"
    too_long = (
        "it takes no text as long as the longest of the data. Set data.max_length to what it takes"
    )

    def __init__(self, facts: Mapping[str, Any] | None = None, *, has_words: bool = False) -> None:
        """Hold the facts."""
        self.known = dict(facts or {})
        self.has_words = has_words

    def length(self, inputs: Inputs) -> int | None:
        """Tokens of the longest text."""
        ids = by_name(inputs).get(IDS)
        return None if ids is None else ids.shape[1]

    def lengths(self, inputs: Inputs) -> Int[Tensor, " batch"] | None:
        """Tokens of each text that are no padding."""
        mask = by_name(inputs).get(MASK)
        return None if mask is None else mask.bool().sum(dim=1)

    def cut(self, inputs: Inputs, rows: Int[Tensor, " rows"], length: int) -> Inputs:
        """Some texts, padded on the side where the batch is, padding being 0."""
        named = by_name(inputs)
        mask = named[MASK].bool()
        pads_left = bool((~mask[:, 0] & mask[:, -1]).any())
        return {
            name: _columns(torch.where(mask[rows], values[rows], 0), length, pads_left)
            for name, values in named.items()
        }

    def facts(self, inputs: Inputs) -> dict[str, Any]:  # noqa: ARG002 - those of the tokenizer
        """What the tokenizer says."""
        return self.known

    @classmethod
    def fits(cls, inputs: Inputs) -> bool:
        """Named tensors with `input_ids` among them, or rows of whole numbers of one length."""
        return isinstance(inputs, Mapping) and (IDS in inputs or are_tokens(inputs))

    def wrap_for_export(self, model: nn.Module, inputs: Inputs) -> nn.Module:
        """The network called with tokens and their mask, giving its logits alone."""
        self.check_export("export", inputs)
        return TextNetwork(model)

    def check_export(self, who: str, inputs: Inputs) -> None:
        """Refuse other tensors than tokens and their mask."""
        assert isinstance(inputs, Mapping)
        if not are_tokens(inputs) or {*inputs} != {IDS, MASK}:
            raise not_exported(who, inputs)

    def axes(self, inputs: Inputs) -> Axes:
        """Any number of texts, of any length."""
        return {name: {0: BATCH, 1: LENGTH} for name in by_name(inputs)}

    def describe_export(self, inputs: Inputs, raw: Inputs) -> Any:
        """Each input, with what must be known of the tokenizer."""
        return [port | self._of_tokenizer for port in super().describe_export(inputs, raw)]

    def preprocessing(self, raw: Inputs) -> dict[str, Any]:
        """How a text becomes tokens; without a tokenizer nobody knows."""
        if "tokenizer" not in self.known:
            return super().preprocessing(raw)
        return {"kind": "words" if self.has_words else "text"} | self._of_tokenizer

    @property
    def _of_tokenizer(self) -> dict[str, Any]:
        keys = ("tokenizer", "max_length", "pad_id")
        return {key: self.known[key] for key in keys if key in self.known}

    def save_files(self, folder: Path) -> None:
        """The tokenizer, as it was before it read a text."""
        name = self.known.get("tokenizer")
        if name is not None:
            with staged_folder(folder / "tokenizer") as staging:
                load_tokenizer(str(name)).save_pretrained(staging)

    def cost_note(self, inputs: Inputs, data: str) -> str | None:
        """How long the text is."""
        length = first_tensor(inputs).shape[1]
        return (
            f"MACs and latencies are of texts of {length} tokens, the median of the {data} texts."
        )

    def export_inputs(self, inputs: Inputs) -> Inputs:
        """What networks see: all but what the task counts."""
        assert isinstance(inputs, Mapping)
        return {name: value for name, value in inputs.items() if name != VALID_MASK}


def _columns(values: Tensor, length: int, pads_left: bool) -> Tensor:
    """Columns padded or truncated to a number of tokens."""
    missing = length - values.shape[1]
    if missing > 0:
        return F.pad(values, (missing, 0) if pads_left else (0, missing))
    return values[:, -length:] if pads_left else values[:, :length]


class TextNetwork(nn.Module):
    """A network of texts that gives its logits alone.

    Args:
        model: Takes tokens and which of them are padding.
    """

    def __init__(self, model: nn.Module) -> None:
        """Hold the network."""
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Int[Tensor, "batch length"]
    ) -> Tensor:
        """Logits."""
        return call(self.model, {IDS: input_ids, MASK: attention_mask})


def are_tokens(inputs: Inputs) -> bool:
    """Whether named inputs are rows of whole numbers, all of one shape."""
    tensors = tensors_of(inputs)
    is_whole = not any(tensor.is_floating_point() for tensor in tensors)
    return is_whole and len({tuple(t.shape) for t in tensors}) == 1 and tensors[0].ndim == 2
