"""A causal language model as one ONNX file with a key-value cache."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.deploy.export import serialised, trace
from tutelage.deploy.runtime import open_session
from tutelage.errors import ExportError, one_line, require
from tutelage.files import write_bytes
from tutelage.models.causal import filled_cache, merged

Past = Mapping[str, NDArray[np.float32]]
ONE_BY_ONE = 8
CHECKED = 24  # tokens
READ = ("input_ids", "attention_mask", "position_ids")


class _Step(nn.Module):
    """One step: logits of new tokens, and keys and values of all tokens so far."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past: list[Tensor],
    ) -> tuple[Tensor, ...]:
        given, present = _called(self.model, past, input_ids, attention_mask, position_ids)
        return (given.logits, *present)


def _called(model: Any, past: list[Tensor], *read: Tensor) -> tuple[Any, list[Tensor]]:
    named = filled_cache(model, past)
    given = model(**dict(zip(READ, read, strict=True)), use_cache=True, **named)
    (cache,) = named.values()
    return given, [t for layer in cache.layers for t in (layer.keys, layer.values)]


def export_causal(model: nn.Module, path: Path) -> None:
    """Write a model as ONNX with a key-value cache, for any number of texts and tokens.

    Inputs are `input_ids` and `position_ids` (texts, tokens), `attention_mask` (texts, tokens so
    far and these; 0 where a shorter text is filled up on the left), and
    `past_key_values.LAYER.key` and `.value` (texts, heads, tokens so far, width), none so far
    included. Outputs are `logits` and `present.LAYER.key` and `.value`, which are the next call's
    past. These are the names that Optimum and transformers.js know.

    Args:
        model: A Hugging Face causal language model; adapters are folded into its weights.
        path: Where the file shall lie; written whole or not at all.

    Raises:
        ExportError: The model cannot be expressed in ONNX.
    """
    step = _Step(merged(model).cpu().float().eval()).requires_grad_(requires_grad=False)
    shapes = _past_shapes(step.model)
    example = (
        torch.zeros(2, 3, dtype=torch.long),
        torch.ones(2, 7, dtype=torch.long),
        torch.arange(4, 7).repeat(2, 1),
        [torch.zeros(2, heads, 4, width) for heads, width in shapes],
    )
    texts, tokens, past, both = map(
        torch.export.Dim, ("texts", "tokens", "past", "past_and_tokens")
    )
    proto = trace(
        step,
        example,
        input_names=[*READ, *_names("past_key_values", len(shapes))],
        output_names=["logits", *_names("present", len(shapes))],
        dynamic_shapes=(
            {0: texts, 1: tokens},
            {0: texts, 1: both},
            {0: texts, 1: tokens},
            [{0: texts, 2: past}] * len(shapes),
        ),
    )
    write_bytes(path, serialised(step, proto))


def check_causal(model: nn.Module) -> None:
    """Refuse a model whose cache is not keys and values alone, before anything is trained.

    Args:
        model: A Hugging Face causal language model, with or without adapters; left as it is.

    Raises:
        ExportError: Token by token it does not say what it says of the whole text.
    """
    plain = merged(model).cpu().float().eval().requires_grad_(requires_grad=False)
    _past_shapes(plain)
    words = plain.get_input_embeddings().num_embeddings  # type: ignore[operator]
    ids = (7 * torch.arange(1, CHECKED + 1) % words)[None]
    whole = plain(input_ids=ids, use_cache=False).logits
    past: list[Tensor] = []
    steps = []
    for place in range(CHECKED):
        mask = torch.ones(1, place + 1, dtype=torch.long)
        given, past = _called(plain, past, ids[:, [place]], mask, torch.tensor([[place]]))
        steps.append(given.logits)
    if not torch.allclose(torch.cat(steps, dim=1), whole, rtol=1e-2, atol=1e-3):
        raise ExportError(
            f"{type(model).__name__}: with cached keys and values it gives other logits than "
            "for the whole text (it keeps another state, or looks back less far). The ONNX file "
            "needs this cache: leave onnx out of export.targets."
        )


def _past_shapes(model: nn.Module) -> list[tuple[int, int]]:
    """Number of heads and width of each layer's keys and values, in order."""
    one = torch.ones(1, 1, dtype=torch.long)
    try:
        _, both = _called(model, [], one, one, torch.zeros_like(one))
    except Exception as error:
        raise ExportError(
            f"{type(model).__name__}: it keeps no keys and values from call to call "
            f"({type(error).__name__}: {one_line(error)}), which the ONNX file is made of."
        ) from error
    if not both or any(t.ndim != 4 for t in both):
        raise ExportError(
            f"{type(model).__name__}: it keeps another state than keys and values of every layer, "
            "which the ONNX file is made of. Leave onnx out of export.targets."
        )
    return [(t.shape[1], t.shape[3]) for t in both]


def _names(kind: str, count: int) -> list[str]:
    return [f"{kind}.{n // 2}.{('key', 'value')[n % 2]}" for n in range(count)]


class OnnxText:
    """An opened ONNX file with a key-value cache.

    Args:
        path: Path of the file.
        threads: Number of threads of ONNX Runtime.

    Raises:
        ExportError: It cannot be opened, or is another kind of file.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Open it."""
        self.session = open_session(path, threads=threads)
        self.runtime = f"ONNX Runtime {require('onnxruntime', 'onnx', 'Running it').__version__}"
        self._kept = {one.name: one.shape for one in self.session.get_inputs()[len(READ) :]}
        if [one.name for one in self.session.get_inputs()][: len(READ)] != list(READ):
            raise ExportError(f"{path}: is no language model with a key-value cache.")

    def empty_past(self, num_texts: int) -> Past:
        """The empty cache at the beginning of a text."""
        shapes = {name: (num_texts, s[1], 0, s[3]) for name, s in self._kept.items()}
        return {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}

    def step(
        self, tokens: NDArray[np.int64], past: Past, mask: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], Past]:
        """Logits of new tokens, and the cache for the next call.

        Args:
            tokens: One row a text.
            past: What the call before gave, or `empty_past`.
            mask: Mask of the tokens so far and these, 1 where they count; None counts all.

        Raises:
            ExportError: The file does not take them.
        """
        count, length = tokens.shape
        so_far = next(iter(past.values())).shape[2]
        if mask is None:
            mask = np.ones((count, so_far + length), dtype=np.int64)
        places = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, so_far:]
        try:
            logits, *present = self.session.run(
                None, {**dict(zip(READ, (tokens, mask, places), strict=True)), **past}
            )
        except Exception as error:
            raise ExportError(f"The exported file fails on text ({one_line(error)}).") from error
        return logits, dict(zip(self._kept, present, strict=True))

    def logits(self, tokens: Int[Tensor, "texts length"]) -> Tensor:
        """Logits after every token, in a single call."""
        return torch.from_numpy(self.step(tokens.numpy(), self.empty_past(len(tokens)))[0])

    def logits_in_pieces(self, tokens: Int[Tensor, "texts length"]) -> Tensor:
        """The same logits in several calls: half of each text, some single tokens, and the rest."""
        half = tokens.shape[1] // 2
        cuts = [0, *range(half, half + ONE_BY_ONE), tokens.shape[1]]
        past, found = self.empty_past(len(tokens)), []
        for start, stop in itertools.pairwise(sorted({min(c, tokens.shape[1]) for c in cuts})):
            logits, past = self.step(tokens[:, start:stop].numpy(), past)
            found.append(logits)
        return torch.from_numpy(np.concatenate(found, axis=1))

    def write(self, prompts: Int[Tensor, "texts read"], count: int) -> Tensor:
        """Generate `count` tokens greedily after each prompt, prompts included."""
        tokens = fresh = prompts.numpy()
        past = self.empty_past(len(prompts))
        for _ in range(count):
            logits, past = self.step(fresh, past)
            fresh = logits[:, -1:].argmax(axis=-1)
            tokens = np.concatenate([tokens, fresh], axis=1)
        return torch.from_numpy(tokens)
