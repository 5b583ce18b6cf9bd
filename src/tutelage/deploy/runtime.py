"""ONNX Runtime on the CPU: the one place where a file is opened and run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tutelage.errors import ExportError, one_line, require
from tutelage.types import Inputs, on_cpu

Arrays = NDArray[Any] | Mapping[str, NDArray[Any]]


def as_arrays(inputs: Inputs) -> Arrays:
    """Inputs as a runtime takes them: an array, or arrays by the name of the input."""
    plain = on_cpu(inputs)
    if isinstance(plain, Tensor):
        return plain.numpy()
    return {name: tensor.numpy() for name, tensor in plain.items()}


def describe_arrays(arrays: Arrays) -> str:
    """Kinds and shapes of inputs in words, for messages."""
    if isinstance(arrays, np.ndarray):
        return f"{arrays.dtype} inputs of shape {arrays.shape}"
    return ", ".join(f"{name}: {value.dtype} {value.shape}" for name, value in arrays.items())


def open_session(source: Path | bytes, *, threads: int) -> Any:
    """Open an ONNX file for running on the CPU.

    Args:
        source: The file, or its content.
        threads: Threads inside one operator.

    Raises:
        ExportError: ONNX Runtime cannot load the file.
        MissingExtraError: ONNX Runtime is not installed.
    """
    runtime = require("onnxruntime", "onnx", "Running an ONNX file")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # A pool that spins on after its call would slow the next session's call.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    model = source if isinstance(source, bytes) else str(source)
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        label = "The exported network" if isinstance(source, bytes) else source
        raise ExportError(
            f"{label}: ONNX Runtime {runtime.__version__} cannot load it ({one_line(error)}). "
            "It takes whole .onnx files; export the network again."
        ) from error


def run_session(session: Any, inputs: Arrays) -> NDArray[np.float32]:
    """Logits of one batch.

    Raises:
        ExportError: The file does not take such a batch.
    """
    taken = session.get_inputs()
    named = {taken[0].name: inputs} if isinstance(inputs, np.ndarray) else inputs
    try:
        logits: NDArray[np.float32] = session.run(None, named)[0]
    except Exception as error:
        raise ExportError(
            f"The exported file fails on {describe_arrays(inputs)}; it takes "
            f"{', '.join(f'{one.type} of shape {tuple(one.shape)}' for one in taken)} "
            f"({one_line(error)})."
        ) from error
    return logits
