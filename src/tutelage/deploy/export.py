"""A network as one ONNX file."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.deploy.logs import suppress_logs
from tutelage.errors import ExportError, one_line, require
from tutelage.files import write_bytes
from tutelage.inputs import InputKind, kind_of
from tutelage.inputs.base import Axes
from tutelage.models.calling import called
from tutelage.models.cost import frozen_copy
from tutelage.types import Inputs, describe_inputs, first_tensor, map_tensors


def export_onnx(
    model: nn.Module, example: Inputs, path: Path, inputs: InputKind | None = None
) -> None:
    """Write a network as one ONNX file: input "inputs", output "logits", any batch size.

    Inputs that have names keep them, and may be of any length: texts as tokens.

    The network itself is left as it is, on whatever device. Equal networks give equal bytes, and
    no path of this machine gets into the file.

    Args:
        model: A network that takes one tensor, or named ones, and gives logits.
        example: A batch as the network takes it; only its first sample is used.
        path: Where the file shall lie; written whole or not at all.
        inputs: What samples are, which says which sizes may change; what `example` looks like if
            not given.

    Raises:
        ExportError: The network cannot be expressed in ONNX, or gives no logits.
        RunFolderError: The place cannot be written.
    """
    content = _onnx_bytes(frozen_copy(model), example, inputs or kind_of(example))
    write_bytes(path, content)


def _onnx_bytes(network: nn.Module, example: Inputs, kind: InputKind) -> bytes:
    kind.check_export(type(network).__name__, example)
    if not len(first_tensor(example)):
        raise ExportError(
            f"example: holds no sample ({describe_inputs(example)}); the export needs one."
        )
    pair = map_tensors(example, _pair)
    checked_logits(network, pair)
    axes = kind.axes(pair)
    counts = {count for sizes in axes.values() for count in sizes.values()}
    dims = {count: torch.export.Dim(count) for count in sorted(counts)}
    shapes = {name: {a: dims[count] for a, count in sizes.items()} for name, sizes in axes.items()}
    names: dict[str, Any] = {"input_names": [*axes], "output_names": ["logits"]}
    if isinstance(pair, Tensor):
        proto = trace(network, (pair,), dynamic_shapes=(*shapes.values(),), **names)
    else:
        proto = trace(network, (), kwargs=dict(pair), dynamic_shapes=shapes, **names)
    _check_batch_is_dynamic(type(network).__name__, proto.graph)
    _check_sizes_are_dynamic(type(network).__name__, proto.graph, axes)
    return serialised(network, proto)


def _pair(tensor: Tensor) -> Tensor:
    """The first sample twice, because torch.export would fix a batch size of 1."""
    first = tensor[:1].detach().cpu()
    return first.expand(2, *first.shape[1:]).contiguous()


def serialised(network: nn.Module, proto: Any) -> bytes:
    """Content of a file; equal networks give equal bytes, and it contains no path.

    Raises:
        ExportError: It is too large for one file.
    """
    strip(proto)
    try:
        content: bytes = proto.SerializeToString(deterministic=True)
    except Exception as error:
        raise _failed(network, error) from error
    return content


def trace(network: nn.Module, arguments: tuple[Any, ...], **named: Any) -> Any:
    """Trace a network as ONNX.

    Args:
        network: In eval mode, on the CPU.
        arguments: Arguments of its forward.
        **named: Names of inputs and outputs, and which sizes may change, as `torch.onnx.export` has
            them.

    Raises:
        ExportError: The network cannot be expressed in ONNX.
    """
    with suppress_logs():
        for module in ("onnx", "onnxscript"):
            require(module, "onnx", "Exporting to ONNX")
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                program: Any = torch.onnx.export(
                    network, arguments, dynamo=True, verbose=False, **named
                )
                return program.model_proto
        except Exception as error:
            raise _failed(network, error) from error


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


def _check_sizes_are_dynamic(name: str, graph: Any, axes: Axes) -> None:
    for value in graph.input:
        sizes = value.type.tensor_type.shape.dim
        for axis, counted in axes[value.name].items():
            if not sizes[axis].dim_param:
                raise ExportError(
                    f"{name}: forward fixes the {counted}, so {value.name!r} of the file would "
                    f"take only samples of {counted} {sizes[axis].dim_value}. Use "
                    f"inputs.shape[{axis}] or -1 instead of a number, and no pooling to a fixed "
                    "size."
                )


def strip(message: Any) -> None:
    """Remove debugging information from an ONNX message."""
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


def checked_logits(network: nn.Module, inputs: Inputs) -> Float[Tensor, "_ ..."]:
    """A network's logits, checked.

    Raises:
        ExportError: Its forward fails, or gives no logits.
    """
    name = type(network).__name__
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = called(network, inputs)
    except Exception as error:
        raise ExportError(
            f"{name}: forward fails on {first_tensor(inputs).dtype} inputs of "
            f"{describe_inputs(inputs)} ({type(error).__name__}: {one_line(error)})."
        ) from error
    if not isinstance(outputs, Tensor):
        raise ExportError(
            f"{name}: forward gives a {type(outputs).__name__}, not one tensor of logits. Wrap "
            "the network in a module that returns the logits alone."
        )
    count = len(first_tensor(inputs))
    if outputs.ndim < 2 or len(outputs) != count or not outputs.is_floating_point():
        raise ExportError(
            f"{name}: forward gives {outputs.dtype} of shape {tuple(outputs.shape)} for "
            f"{count} samples. Logits are floating point, one row a sample."
        )
    return outputs
