"""An exported network with int8 weights and activations."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.deploy.export import strip
from tutelage.deploy.logs import suppress_logs
from tutelage.deploy.runtime import as_arrays
from tutelage.errors import ExportError, find, one_line, require
from tutelage.files import write_bytes
from tutelage.types import Inputs

OUTLIERS = 1e-4  # share of values beyond the range, at each end, that a percentile leaves out
SCHEMES: Mapping[str, str] = {
    "minmax": "static: activations scaled by the smallest and largest value seen",
    "percentile": "static: activations scaled without the rarest values",
    "dynamic": "activations scaled anew in each call; for transformers and MLPs",
}


def quantise_onnx(source: Path, target: Path, calibration: Iterable[Inputs], scheme: str) -> None:
    """Quantise an ONNX file to int8 weights and activations.

    Weights are signed, per output channel, and use seven of their eight bits: x86 processors
    without VNNI add products in 16 bits, which overflow without a word where weights use all
    eight. Activations are unsigned.

    Args:
        source: A float file.
        target: Where the other shall lie; written whole or not at all.
        calibration: Real samples as the network takes them; a dynamic one needs none.
        scheme: `minmax`, `percentile` or `dynamic`.

    Raises:
        UnknownNameError: There is no such way.
        ExportError: ONNX Runtime's quantiser failed.
        MissingExtraError: ONNX or ONNX Runtime is not installed.
    """
    find("measure.int8", scheme, SCHEMES)
    with suppress_logs(), tempfile.TemporaryDirectory() as folder:
        require("onnx", "onnx", "Quantising")
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "made.onnx"
        try:
            _prepare(source, prepared)
            _quantise(prepared, made, calibration, scheme)
            content = _stripped(made)
        except Exception as error:  # whatever the quantiser meets inside
            raise ExportError(
                f"{source}: cannot be quantised ({type(error).__name__}: {one_line(error)}). "
                f"Try another of {', '.join(SCHEMES)}, or measure.int8: null."
            ) from error
    write_bytes(target, content)


def _prepare(source: Path, prepared: Path) -> None:
    """Fold constants, so that the quantiser sees batch norm inside its convolution."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(source, prepared, skip_symbolic_shape=True)


def _quantise(prepared: Path, made: Path, calibration: Iterable[Inputs], scheme: str) -> None:
    from onnxruntime import quantization

    weights = quantization.QuantType.QInt8
    if scheme == "dynamic":
        quantization.quantize_dynamic(
            prepared, made, per_channel=True, reduce_range=True, weight_type=weights
        )
        return
    methods = quantization.CalibrationMethod
    method = methods.MinMax if scheme == "minmax" else methods.Percentile
    quantization.quantize_static(
        prepared,
        made,
        _Samples(calibration),
        per_channel=True,
        reduce_range=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=weights,
        calibrate_method=method,
        extra_options={"CalibPercentile": 100 * (1 - 2 * OUTLIERS)},
    )


class _Samples:
    """Batches in the form that ONNX Runtime's quantiser reads."""

    def __init__(self, batches: Iterable[Inputs]) -> None:
        self.batches: Iterator[Inputs] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        if batch is None:
            return None
        arrays = as_arrays(batch)
        return {"inputs": arrays} if isinstance(arrays, np.ndarray) else dict(arrays)


def _stripped(made: Path) -> bytes:
    """Content of the file without debugging information."""
    import onnx

    proto = onnx.load(made)
    strip(proto)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content
