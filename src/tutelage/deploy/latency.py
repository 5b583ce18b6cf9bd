"""Latency of exported networks, measured in alternation so that they compare."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.deploy import standalone
from tutelage.deploy.runtime import as_arrays, open_session, run_session
from tutelage.errors import ConfigError, require
from tutelage.records import LatencyRow
from tutelage.types import Inputs, first_tensor, rows_of


def measure_latency(
    files: Mapping[str, Path],
    sample: Inputs,
    *,
    batch_sizes: Sequence[int] = (1, 32),
    threads: int = 1,
    calls: int = 200,
    seconds: float = 10.0,
) -> list[LatencyRow]:
    """Time exported networks in ONNX Runtime on the CPU, one call of each in turn.

    Taking turns spreads a noisy machine's noise over all of them: read the times as ratios.

    Args:
        files: Network name to ONNX file, in the order of the turns.
        sample: Real samples; rows are repeated to fill a batch.
        batch_sizes: Samples in one call.
        threads: Threads of ONNX Runtime inside one operator.
        calls: Timed calls of each network at each batch size, as far as the time reaches.
        seconds: Time for everything; a slow network still gets at least 5 calls.

    Returns:
        One row for each batch size and network, with the calls that were really made.

    Raises:
        ConfigError: Nothing to measure, or a number below 1.
        ExportError: A file cannot be loaded, or does not take such samples.
    """
    _check(files, sample, batch_sizes, threads=threads, calls=calls)
    sessions = {name: open_session(path, threads=threads) for name, path in files.items()}
    version = require("onnxruntime", "onnx", "Measuring latency").__version__
    rows: list[LatencyRow] = []
    for size in batch_sizes:
        inputs = as_arrays(rows_of(sample, torch.arange(size) % len(first_tensor(sample))))
        turns = [partial(run_session, session, inputs) for session in sessions.values()]
        times = standalone.take_turns(turns, calls, seconds / len(batch_sizes))
        rows += [
            _row(name, f"ONNX Runtime {version}, CPU", size, threads, times[:, turn])
            for turn, name in enumerate(sessions)
        ]
    return rows


def _check(
    files: Mapping[str, Path],
    sample: Inputs,
    batch_sizes: Sequence[int],
    *,
    threads: int,
    calls: int,
) -> None:
    count = len(first_tensor(sample))
    if not (files and batch_sizes and count):
        raise ConfigError(
            f"Measuring latency needs at least one file, one batch size and one sample, got "
            f"{len(files)}, {len(batch_sizes)} and {count}."
        )
    numbers = {"batch_sizes": min(batch_sizes), "threads": threads, "calls": calls}
    for name, number in numbers.items():
        if number < 1:
            raise ConfigError(f"{name} must be at least 1, got {number}.")


def _row(
    name: str, runtime: str, size: int, threads: int, times: NDArray[np.float64]
) -> LatencyRow:
    return LatencyRow(
        name=name,
        runtime=runtime,
        batch_size=size,
        threads=threads,
        **standalone.latency(times, size),
    )
