"""File formats of a language model beside its folder, one entry each."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage.deploy.causal import OnnxText, check_causal, export_causal
from tutelage.deploy.gguf import check_gguf, write_gguf
from tutelage.deploy.logs import suppress_logs
from tutelage.errors import ExportError, require
from tutelage.models.causal import load_gguf

ONNX_BYTES = 2**31
Model = nn.Module
Tokenizer = Any


@runtime_checkable
class TextReader(Protocol):
    """An exported language model, opened in its runtime."""

    runtime: str

    def logits(self, tokens: Int[Tensor, "texts length"]) -> Float[Tensor, "texts length words"]:
        """Logits after every token."""
        ...


@dataclass(frozen=True, slots=True)
class TextTarget:
    """A file format of language models.

    Attributes:
        file: Its name in the student's folder.
        most_kl: Largest mean KL(PyTorch || file) in nats a token, above which it is no student.
        check: Refuses what cannot be written, before training.
        write: Writes model and tokenizer to a path.
        open: Opens what was written.
    """

    file: str
    most_kl: float
    check: Callable[[Model, Tokenizer], None]
    write: Callable[[Model, Tokenizer, Path], None]
    open: Callable[[Path], TextReader]


class GgufText:
    """A GGUF file, read back by transformers.

    Args:
        path: Path of the file.
    """

    def __init__(self, path: Path) -> None:
        """Load the file."""
        with suppress_logs():
            self.model = load_gguf(path)
        version = require("transformers", "text", "Reading GGUF").__version__
        self.runtime = f"read by transformers {version}"

    @torch.no_grad()
    def logits(self, tokens: Int[Tensor, "texts length"]) -> Tensor:
        """Logits after every token."""
        logits: Tensor = self.model(input_ids=tokens).logits
        return logits


def _check_onnx(model: Model, tokenizer: Tokenizer) -> None:  # noqa: ARG001
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "onnx", "Exporting a language model to ONNX")
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    if size >= ONNX_BYTES:
        raise ExportError(
            f"export.targets: onnx: one file holds 2 GiB, the student's weights take "
            f"{size / 2**30:.1f}. Use gguf, or make it smaller."
        )
    check_causal(model)


def _write_gguf(weights: str, model: Model, tokenizer: Tokenizer, path: Path) -> None:
    write_gguf(model, tokenizer, path, weights)


TEXT_TARGETS = {
    "onnx": TextTarget(
        "model.onnx",
        1e-3,
        _check_onnx,
        lambda model, tokenizer, path: export_causal(model, path),  # noqa: ARG005
        OnnxText,
    ),
    "gguf": TextTarget(
        "model-float16.gguf", 1e-3, check_gguf, partial(_write_gguf, "float16"), GgufText
    ),
    "gguf_q8_0": TextTarget(
        "model-q8_0.gguf", 0.05, check_gguf, partial(_write_gguf, "q8_0"), GgufText
    ),
}
