"""Programs of the package in isolated child processes."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def run_isolated(script: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    """Run a Python file of the package in a child process and wait for it.

    It finds the packages that this process finds. Neither the folder it is started in nor one that
    it is told to work on is searched for modules: a `numpy.py` that lies there is not imported.

    Args:
        script: The file.
        arguments: Arguments of its command line; paths among them are absolute.

    Returns:
        What it printed, and its exit status.
    """
    # -I would leave out packages of the user and of PYTHONPATH, which this process has.
    command = [sys.executable, "-P", str(script.resolve()), *arguments]
    here = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(search_path())}
    return subprocess.run(
        command, capture_output=True, check=False, env=here, cwd=script.resolve().parent
    )


def search_path() -> list[str]:
    """This process's module search path, without the current folder."""
    start = os.path.realpath(os.getcwd())
    return [
        place for place in sys.path if os.path.isabs(place) and os.path.realpath(place) != start
    ]
