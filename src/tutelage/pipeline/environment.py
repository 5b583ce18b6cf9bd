"""What repeating a run bit for bit requires, as far as a program can detect it."""

import os
import platform
import re
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from tutelage import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "accelerate",
    "numpy",
    "safetensors",
    "scipy",
    "scikit-learn",
    "pillow",
    "timm",
    "transformers",
    "onnx",
    "onnxscript",
    "onnxruntime",
)
VARIABLES = re.compile(r"(OMP|MKL|KMP|GOMP|ATEN|OPENBLAS|CUBLAS|CUDA|NVIDIA_TF32|TORCH|DNNL|NCCL)_")


def environment() -> dict[str, object]:
    """Versions, machine and settings that affect the last bits of a run's weights."""
    return {
        "tutelage": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": platform.machine(),
        "processor_name": _processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "threads_between_operators": torch.get_num_interop_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "arithmetic": _arithmetic(),
        "variables": {k: v for k, v in sorted(os.environ.items()) if VARIABLES.match(k)},
    }


def say_machine(found: Mapping[str, object]) -> str:
    """The part of an environment that affects the last digits most, in a line.

    Args:
        found: What `environment` gave, perhaps long ago and read from a file.
    """
    packages, threads = found.get("packages"), found.get("threads")
    version_of_torch = packages.get("torch") if isinstance(packages, Mapping) else None
    on_cores = f"{threads} thread{'s' * (threads != 1)} on {found.get('cores')} cores"
    return f"PyTorch {version_of_torch}, {found.get('gpu') or on_cores}"


def _arithmetic() -> dict[str, object]:
    """Compute kernels, which differ in the order of additions."""
    return {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkl": torch.backends.mkl.is_available(),
        "onednn": torch.backends.mkldnn.enabled,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor_name() -> str | None:
    """Processor name from the operating system; None if unavailable."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or None
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else None
