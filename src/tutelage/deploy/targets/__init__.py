"""Targets of an export by name: a file format and its runtime."""

from collections.abc import Mapping
from pathlib import Path

from tutelage.deploy.targets.base import Port, Ports, Runner, Target
from tutelage.deploy.targets.executorch import ExecuTorch
from tutelage.deploy.targets.litert import LiteRt
from tutelage.deploy.targets.onnx import Onnx
from tutelage.deploy.targets.openvino import OpenVino
from tutelage.deploy.targets.torch_export import TorchExport
from tutelage.errors import find

TARGETS: Mapping[str, Target] = {
    "onnx": Onnx(),
    "executorch": ExecuTorch(),
    "litert": LiteRt(),
    "openvino": OpenVino(),
    "torch_export": TorchExport(),
}

__all__ = ["TARGETS", "Port", "Ports", "Runner", "Target", "open_file", "target_of"]


def target_of(path: Path) -> Target:
    """The target with this file suffix.

    Raises:
        UnknownNameError: No target has such files.
    """
    by_suffix = {target.suffix: target for target in TARGETS.values()}
    return find("kind of exported file", path.suffix, by_suffix)


def open_file(path: Path, *, threads: int = 1) -> Runner:
    """Load an exported file of any target into its own runtime.

    Args:
        path: The file.
        threads: Number of threads of the runtime, inside one operator.

    Raises:
        UnknownNameError: No target has such files.
        ExportError: The runtime cannot load it.
        MissingExtraError: The target's extra is not installed.
    """
    return target_of(path).open(path, threads=threads)
