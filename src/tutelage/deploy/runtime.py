"""ONNX Runtime on the CPU: the only module that opens and runs ONNX files."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tutelage.errors import ExportError, one_line, require
from tutelage.files import check_regular
from tutelage.types import Inputs, on_cpu

LARGEST_ONNX = 2**31  # protobuf's own limit
Arrays = NDArray[Any] | Mapping[str, NDArray[Any]]


def as_arrays(inputs: Inputs) -> Arrays:
    """Inputs as NumPy: one array, or arrays by input name."""
    plain = on_cpu(inputs)
    if isinstance(plain, Tensor):
        return plain.numpy()
    return {name: tensor.numpy() for name, tensor in plain.items()}


def describe_arrays(arrays: Arrays) -> str:
    """Types and shapes of inputs, for messages."""
    if isinstance(arrays, np.ndarray):
        return f"{arrays.dtype} inputs of shape {arrays.shape}"
    return ", ".join(f"{name}: {value.dtype} {value.shape}" for name, value in arrays.items())


def open_session(source: Path | bytes, *, threads: int) -> Any:
    """Open an ONNX file for running on the CPU.

    Args:
        source: The file, or its content.
        threads: Threads inside one operator.

    Raises:
        ExportError: ONNX Runtime cannot load the file, or its weights lie in other files.
        MissingExtraError: ONNX Runtime is not installed.
    """
    runtime = require("onnxruntime", "onnx", "Running an ONNX file")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # A pool that spins on after its call would slow the next session's call.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if isinstance(source, Path):
        check_whole(source)
    model = source if isinstance(source, bytes) else str(source)
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        label = "The exported network" if isinstance(source, bytes) else source
        raise ExportError(
            f"{label}: ONNX Runtime {runtime.__version__} cannot load it ({one_line(error)}). "
            "It takes whole .onnx files; export the network again."
        ) from error


def check_whole(path: Path) -> None:
    """Refuse an ONNX file that reads weights from other files.

    Raises:
        ExportError: It does, or it is no ONNX file.
        MissingExtraError: ONNX is not installed.
    """
    onnx = require("onnx", "onnx", "Running an ONNX file")
    try:
        check_regular(path, largest=LARGEST_ONNX)
        model = onnx.load_model(path, load_external_data=False)
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except Exception as error:
        raise _no_onnx(path, error) from error
    for tensor in _tensors(model):
        if tensor.external_data:
            named = {entry.key: entry.value for entry in tensor.external_data}
            raise ExportError(
                f"{path}: {tensor.name or 'a tensor'} lies in another file "
                f"({named.get('location', '')}). A run's files hold their own weights; export the "
                "network again."
            )


def _tensors(message: Any) -> Iterator[Any]:
    """Every tensor of an ONNX message, nested ones included."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if hasattr(value, "__len__") else [value]:
                yield from _tensors(part)


def _no_onnx(label: object, error: Exception) -> ExportError:
    return ExportError(
        f"{label}: ONNX Runtime cannot load it ({one_line(error)}). It takes whole .onnx files; "
        "export the network again."
    )


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
