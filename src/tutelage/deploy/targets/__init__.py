"""Where an exported network can run: a kind of file and its runtime, by name."""

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
    """The target whose kind of file this is, by its suffix.

    Raises:
        UnknownNameError: No target has such files.
    """
    by_suffix = {target.suffix: target for target in TARGETS.values()}
    return find("kind of exported file", path.suffix, by_suffix)


def open_file(path: Path, *, threads: int = 1) -> Runner:
    """Load an exported file of any target into its own runtime.

    Args:
        path: The file.
        threads: Of the runtime, inside one operator.

    Raises:
        UnknownNameError: No target has such files.
        ExportError: The runtime cannot load it.
        MissingExtraError: The target's extra is not installed.
    """
    return target_of(path).open(path, threads=threads)
