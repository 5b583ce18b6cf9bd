"""Targets of an export by name: a file format and its runtime."""

from pathlib import Path

from tutelage.deploy.targets.base import Port, Ports, Runner, Target
from tutelage.deploy.targets.executorch import ExecuTorch
from tutelage.deploy.targets.litert import LiteRt
from tutelage.deploy.targets.onnx import Onnx
from tutelage.deploy.targets.openvino import OpenVino
from tutelage.deploy.targets.torch_export import TorchExport
from tutelage.errors import ConfigError, find

TARGETS: dict[str, Target] = {
    "onnx": Onnx(),
    "executorch": ExecuTorch(),
    "litert": LiteRt(),
    "openvino": OpenVino(),
    "torch_export": TorchExport(),
}

__all__ = [
    "TARGETS",
    "Port",
    "Ports",
    "Runner",
    "Target",
    "open_file",
    "register_target",
    "target_of",
]


def register_target(target: object, what: str = "target") -> str:
    """Make a target of one's own known by its name and suffix.

    Args:
        target: Of a class derived from `Target`.
        what: The key or argument that gives it, for messages.

    Returns:
        Its name.

    Raises:
        ConfigError: It is no target, or has the name or the suffix of another.
    """
    if not isinstance(target, Target):
        raise ConfigError(
            f"{what}: {type(target).__name__} is no target. Derive it from "
            "tutelage.deploy.targets.Target."
        )
    for known in TARGETS.values():
        is_same = type(known).__qualname__ == type(target).__qualname__
        if not is_same and (known.name == target.name or known.suffix == target.suffix):
            raise ConfigError(
                f"{what}: its name {target.name!r} or suffix {target.suffix!r} is that of the "
                f"target {known.name!r}. Give it others."
            )
    TARGETS[target.name] = target
    return target.name


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
