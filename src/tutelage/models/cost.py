"""Cost of a network: parameters, multiply-accumulates, bytes on disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tutelage.errors import ModelError, RunFolderError
from tutelage.models.calling import called
from tutelage.models.copies import copied
from tutelage.models.modes import frozen
from tutelage.records import SizeRow
from tutelage.types import Inputs, describe_inputs, map_tensors, on_cpu, rows_of


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU, in eval mode and without gradient, to be measured or exported.

    Whatever is done with it leaves the network's mode, buffers and hooks as they were.

    Raises:
        ModelError: The network cannot be copied.
    """
    return frozen(copied(model).cpu().eval())


def count_parameters(model: nn.Module) -> int:
    """Number of weights, trainable or not; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, example: Inputs) -> int:
    """Multiply-accumulates of one forward pass on one sample.

    Matrix products, convolutions and attention are counted, as PyTorch's own counter does;
    additions, activations and normalisations are not. One MAC is two FLOPs.

    Args:
        model: Left as it is: mode, batch-norm statistics and random state do not move.
        example: A batch as the network takes it; its first sample is used.

    Raises:
        ModelError: The network cannot be copied, or its forward fails.
    """
    network = frozen_copy(model)
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _plain_kernels(), counter:
            called(network, on_cpu(rows_of(example, slice(1))))
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__}: forward fails on one sample of "
            f"{describe_inputs(map_tensors(example, lambda batch: batch[0]))} "
            f"({type(error).__name__}: {error})."
        ) from error
    return counter.get_total_flops() // 2


@contextmanager
def _plain_kernels() -> Iterator[None]:
    # The counter does not know all fused kernels of attention and of recurrent layers.
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    onednn: Any = torch.backends.mkldnn  # typed without its setter
    fast_recurrence = onednn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    onednn.enabled = False
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        onednn.enabled = fast_recurrence
        torch.backends.mha.set_fastpath_enabled(fast_attention)


def size_row(name: str, model: nn.Module, example: Inputs, file: Path) -> SizeRow:
    """Size of a network and of its exported file.

    Raises:
        RunFolderError: There is no such file.
        ModelError: The network cannot be run.
    """
    if not file.is_file():
        raise RunFolderError(f"{file}: no such file. Export the network first.")
    return SizeRow(
        name=name,
        parameters=count_parameters(model),
        macs=count_macs(model, example),
        size_bytes=file.stat().st_size,
    )
