"""How long `tutelage --help` takes, beside a Python that does nothing."""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

GOAL_S = 0.5


def seconds(command: list[str]) -> tuple[float, float]:
    """Wall time and processor time of one command."""
    before, begun = _children(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun, _children() - before


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def describe(values: Iterable[float]) -> str:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.3f} s ({low:.3f} to {high:.3f})"


def main() -> None:
    """Time both by turns and print medians and quartiles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    commands = {
        "tutelage --help": [str(Path(sys.executable).with_name("tutelage")), "--help"],
        "python -c pass": [sys.executable, "-c", "pass"],
    }
    for command in commands.values():
        seconds(command)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(options.runs):
        for name, command in commands.items():
            found[name].append(seconds(command))
    print(f"Python {sys.version.split()[0]}, {options.runs} runs of each, by turns")
    for name, values in found.items():
        wall, cpu = zip(*values, strict=True)
        print(f"  {name:<16}wall {describe(wall)}   cpu {describe(cpu)}")
    median = statistics.median(wall for wall, _ in found["tutelage --help"])
    print(f"goal: under {GOAL_S} s of wall time, {'reached' if median < GOAL_S else 'MISSED'}")


if __name__ == "__main__":
    main()
