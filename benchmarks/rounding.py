"""How far a result moves when the same numbers are added up in another order.

A GPU's kernels may add in no fixed order. Here the samples of each batch are shuffled, anew for
each order: loss and gradients are the same sums, rounded otherwise. The same trainings with other
seeds say how far a result moves anyway.

    python benchmarks/rounding.py [RECIPE] [key=value ...] [--orders 5]
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timing import machine

from tutelage.config import build_job, read_recipe
from tutelage.data.loading import SampleIndex, training_requests
from tutelage.pipeline import run_job
from tutelage.records import RunRecord


def main() -> None:
    """Run a recipe in several orders and print what moved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="digits")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print(machine(chosen.threads))
    with tempfile.TemporaryDirectory() as temporary:
        outs = [Path(temporary) / str(order) for order in range(chosen.orders)]
        records = [run(chosen, out, order) for order, out in enumerate(outs)]
        for arm in ("baseline", "distilled"):
            tell(arm, records, outs)
    gains = [record.verdicts["last"].difference for record in records]
    print(f"verdict, points: {', '.join(f'{100 * gain:+.2f}' for gain in gains)}")
    print(f"verdicts: {', '.join(record.verdicts['last'].word for record in records)}")


def run(chosen: argparse.Namespace, out: Path, order: int) -> RunRecord:
    """One run; teacher and cache are those of the first."""
    overrides = [*chosen.overrides, "measure=null", f"output={out}"]
    first = out.parent / "0"
    if order:
        for part in ("teacher", "cache"):
            shutil.copytree(first / part, out / part)
    shuffle(order)
    return run_job(build_job(read_recipe(chosen.recipe, overrides))).record


def shuffle(order: int) -> None:
    """Let trainings see the samples of each batch in another order."""
    generator = torch.Generator().manual_seed(order)

    def shuffled(*given: Any, **settings: Any) -> Iterator[SampleIndex]:
        for ids, views in training_requests(*given, **settings):
            rows = torch.randperm(len(ids), generator=generator) if order else slice(None)
            yield ids[rows], views[rows]

    sys.modules["tutelage.engine.fit"].training_requests = shuffled  # type: ignore[attr-defined]


def tell(arm: str, records: list[RunRecord], outs: list[Path]) -> None:
    """What moved with the order, and what with the seed."""
    scores = [[row.last.accuracy for row in record.arms if row.arm == arm] for record in records]
    by_order = [statistics.stdev(seed) for seed in zip(*scores, strict=True)]
    by_seed = [statistics.stdev(order) for order in scores]
    apart = [distance(outs[0], out, arm) for out in outs[1:]]
    print(
        f"{arm}: accuracy moves by {100 * statistics.mean(by_order):.2f} points with the order, "
        f"by {100 * statistics.mean(by_seed):.2f} with the seed (standard deviations, "
        f"{len(records)} orders, {len(scores[0])} seeds); weights end "
        f"{min(apart):.1e} to {max(apart):.1e} of their norm apart"
    )


def distance(one: Path, other: Path, arm: str) -> float:
    """Norm of the difference of two students' weights over the norm of one."""
    file = f"arms/{arm}/seed-0/last.safetensors"
    first, second = load_file(one / file), load_file(other / file)
    gap = sum(
        float((value - second[name]).double().square().sum()) for name, value in first.items()
    )
    norm = sum(float(value.double().square().sum()) for value in first.values())
    return float((gap / norm) ** 0.5)


if __name__ == "__main__":
    main()
