"""Programs of scripts/ and benchmarks/ as modules."""

import importlib.machinery
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest


def load_script(path: Path) -> Any:
    """A script as a module; nothing of its main program is run."""
    name = "script_" + re.sub(r"\W", "_", path.name)
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.syspath_prepend(str(path.parent))
        loader.exec_module(module)
    return module


def run_script(path: Path, *arguments: str) -> int:
    """Run a script's main program in this process; its exit code."""
    module = load_script(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(path), *arguments])
        patch.setitem(sys.modules, module.__name__, module)  # dataclasses look there
        return module.main() or 0
