"""A network as one ONNX file, and the proof that the file computes what the network computes."""

import io
import itertools
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from tutelage.deploy.runtime import one_line, open_session, run_session
from tutelage.errors import ExportError, require
from tutelage.files import write_whole
from tutelage.models.cost import frozen_copy
from tutelage.records import ParityRow


def export_onnx(model: nn.Module, example: Shaped[Tensor, "batch ..."], path: Path) -> None:
    """Write a network as one ONNX file: input "inputs", output "logits", any batch size.

    The network itself is left as it is, on whatever device. Equal networks give equal bytes, and
    no path of this machine gets into the file.

    Args:
        model: A network that takes one tensor and gives logits.
        example: A batch as the network takes it; only its first sample is used.
        path: Where the file shall lie; written whole or not at all.

    Raises:
        ExportError: The network cannot be expressed in ONNX, or gives no logits.
        RunFolderError: The place cannot be written.
    """
    content = _onnx_bytes(frozen_copy(model), example)
    write_whole(path, lambda temporary: write_bytes(temporary, content))


def export_checked(
    model: nn.Module,
    batches: Iterable[Shaped[Tensor, "_ ..."]],
    path: Path,
    *,
    name: str,
    tolerance: float = 1e-3,
) -> ParityRow:
    """Export a network and compare it with PyTorch; the file appears only when both agree.

    Args:
        model: A network that takes one tensor and gives logits.
        batches: Real samples, as the network takes them; read once.
        path: Where the file shall lie.
        name: The network's name in the run's records.
        tolerance: As in `check_parity`.

    Raises:
        ExportError: The export failed, or the result computes something else; no file is left.
        RunFolderError: The place cannot be written.
    """
    rest = (inputs for inputs in batches if len(inputs))
    first = next(rest, None)
    if first is None:
        raise _no_samples(name)
    network = frozen_copy(model)
    content = _onnx_bytes(network, first)
    row = _compare(
        network, content, itertools.chain([first], rest), name, path.name, tolerance=tolerance
    )
    write_whole(path, lambda temporary: write_bytes(temporary, content))
    return row


def check_parity(
    model: nn.Module,
    path: Path,
    batches: Iterable[Shaped[Tensor, "_ ..."]],
    *,
    name: str,
    tolerance: float = 1e-3,
) -> ParityRow:
    """Run an exported file in ONNX Runtime and the network in PyTorch on the same samples.

    Args:
        model: The network that was exported.
        path: The file.
        batches: Real samples, as the network takes them.
        name: The network's name in the run's records.
        tolerance: Largest difference of two logits, relative to 1 + the largest logit.

    Returns:
        The largest absolute difference of logits and the share of equal predictions.

    Raises:
        ExportError: The two differ by more than the tolerance, or some logit is not finite.
    """
    return _compare(frozen_copy(model), path, batches, name, path.name, tolerance=tolerance)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file."""
    path.write_bytes(content)


def _onnx_bytes(network: nn.Module, example: Tensor) -> bytes:
    if not len(example):
        raise ExportError(
            f"example: holds no sample (shape {tuple(example.shape)}); the export needs one."
        )
    # One sample alone would be taken for a fixed batch size: torch.export specialises on 1.
    pair = example[:1].detach().cpu().expand(2, *example.shape[1:]).contiguous()
    _logits(network, pair)
    proto = _trace(network, pair)
    _check_batch_is_dynamic(type(network).__name__, proto.graph)
    strip(proto)
    try:
        content: bytes = proto.SerializeToString(deterministic=True)
    except Exception as error:
        raise _failed(network, error) from error
    return content


def _trace(network: nn.Module, pair: Tensor) -> Any:
    with quiet():
        for module in ("onnx", "onnxscript"):
            require(module, "onnx", "Exporting to ONNX")
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                program: Any = torch.onnx.export(
                    network,
                    (pair,),
                    dynamo=True,
                    verbose=False,
                    input_names=["inputs"],
                    output_names=["logits"],
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                )
                return program.model_proto
        except Exception as error:
            raise _failed(network, error) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Let no library print, log or warn."""
    # The exporter prints, logs and warns about its own inside; what matters comes as an error.
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            warnings.catch_warnings(action="ignore"),
        ):
            yield
    finally:
        logging.disable(before)


def _failed(network: nn.Module, error: BaseException) -> ExportError:
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    return ExportError(
        f"{type(network).__name__}: cannot be exported to ONNX ({type(root).__name__}: "
        f"{one_line(root)}). Its forward must be tensor operations that ONNX has, without "
        "branches on the values of tensors."
    )


def _check_batch_is_dynamic(name: str, graph: Any) -> None:
    for value in (*graph.input, *graph.output):
        sizes = value.type.tensor_type.shape.dim
        if not (sizes and sizes[0].dim_param):
            raise ExportError(
                f"{name}: forward fixes the batch size, so {value.name!r} of the file would not "
                "take batches of any size. Use inputs.shape[0] or -1 instead of a number."
            )


def strip(message: Any) -> None:
    """Take out of an ONNX message what is for debugging alone."""
    # Stack traces hold paths of this machine; the rest is for debugging the exporter.
    fields = message.DESCRIPTOR.fields_by_name
    for name in ("metadata_props", "doc_string"):
        if name in fields:
            message.ClearField(name)
    if message.DESCRIPTOR.name == "TensorProto":
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if hasattr(value, "__len__") else [value]:
                strip(part)


def _logits(network: nn.Module, inputs: Tensor) -> Float[Tensor, "batch ..."]:
    name = type(network).__name__
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = network(inputs)
    except Exception as error:
        raise ExportError(
            f"{name}: forward fails on {inputs.dtype} inputs of shape {tuple(inputs.shape)} "
            f"({type(error).__name__}: {one_line(error)})."
        ) from error
    if not isinstance(outputs, Tensor):
        raise ExportError(
            f"{name}: forward gives a {type(outputs).__name__}, not one tensor of logits. Wrap "
            "the network in a module that returns the logits alone."
        )
    if outputs.ndim < 2 or len(outputs) != len(inputs) or not outputs.is_floating_point():
        raise ExportError(
            f"{name}: forward gives {outputs.dtype} of shape {tuple(outputs.shape)} for "
            f"{len(inputs)} samples. Logits are floating point, one row a sample."
        )
    return outputs


@dataclass(frozen=True, slots=True)
class _Tally:
    difference: float
    largest: float
    equal: int
    predictions: int
    count: int


def _compare(
    network: nn.Module,
    source: Path | bytes,
    batches: Iterable[Tensor],
    name: str,
    file: str,
    *,
    tolerance: float,
) -> ParityRow:
    session = open_session(source, threads=torch.get_num_threads())
    tallies = [_compare_batch(network, session, inputs, file) for inputs in batches if len(inputs)]
    if not tallies:
        raise _no_samples(name)
    row = ParityRow(
        name=name,
        file=file,
        max_abs_difference=max(t.difference for t in tallies),
        agreement=sum(t.equal for t in tallies) / sum(t.predictions for t in tallies),
        count=sum(t.count for t in tallies),
    )
    allowed = tolerance * (1 + max(t.largest for t in tallies))
    if row.max_abs_difference > allowed:
        raise ExportError(
            f"{file}: the exported network differs from PyTorch by {row.max_abs_difference:.3g} "
            f"over {row.count} samples, {allowed:.3g} is allowed; {row.agreement:.1%} of the "
            "predictions are equal. Random or data-dependent steps in forward are the usual reason."
        )
    return row


def _compare_batch(network: nn.Module, session: Any, inputs: Tensor, file: str) -> _Tally:
    inputs = inputs.detach().cpu()
    expected = _logits(network, inputs).float()
    given = torch.from_numpy(run_session(session, inputs.numpy())).float()
    if given.shape != expected.shape:
        raise ExportError(
            f"{file}: gives logits of shape {tuple(given.shape)}, PyTorch of "
            f"{tuple(expected.shape)}. It was exported from another network."
        )
    for origin, logits in (("PyTorch", expected), (file, given)):
        if not torch.isfinite(logits).all():
            raise ExportError(f"{file}: some logits of {origin} are not finite on real samples.")
    same = expected.argmax(dim=-1) == given.argmax(dim=-1)
    return _Tally(
        difference=(given - expected).abs().max().item(),
        largest=expected.abs().max().item(),
        equal=int(same.sum()),
        predictions=same.numel(),
        count=len(inputs),
    )


def _no_samples(name: str) -> ExportError:
    return ExportError(
        f"{name}: no samples to compare the exported file with. Give at least one batch."
    )
