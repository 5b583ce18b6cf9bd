"""Choice of PyTorch's attention implementation for training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

SHORT = 128  # tokens; beyond, what plain products keep for the backward outweighs what they save


@contextmanager
def fastest_attention(
    model: nn.Module, device: torch.device, precision: str, longest: int | None
) -> Iterator[None]:
    """Use plain matrix products in the `transformers` networks of a model where they are faster.

    On CPUs the backward of PyTorch's fused attention in bfloat16 is a third of a training step
    while texts are short (`benchmarks/texts.py`); in float32 it is not, nor on other devices.

    Args:
        model: Whatever is trained; what is no network of `transformers` stays as it is.
        device: Where.
        precision: Precision of its forward.
        longest: Tokens of its longest text; None for data that are no texts.
    """
    is_slow = device.type == "cpu" and precision == "bf16"
    if not is_slow or longest is None or longest > SHORT:
        yield
        return
    networks: list[Any] = [
        part for part in model.modules() if hasattr(part, "set_attn_implementation")
    ]
    before = [(network, network.config._attn_implementation) for network in networks]
    try:
        for network in networks:
            network.set_attn_implementation("eager")
        yield
    finally:
        for network, implementation in before:
            network.set_attn_implementation(implementation)
