"""Intervals of a leaderboard that was written with the first method, by the method of today.

The answers sample by sample are not kept. The accuracies of each seed and the older interval leave
one number free, the share of the variance that is the samples'; of all values that agree with both
the one with the widest interval is taken. The older method added both shares less the residual,
with Satterthwaite's degrees of freedom.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from scipy.stats import t as student_t

from tutelage.bench.leaderboard import Interval, Leaderboard, Standing
from tutelage.records import load_record
from tutelage.significance import Components, half_width

SMALLEST, LARGEST = 1e-9, 1e-3  # variances of the samples' means that are tried
MOST_RESIDUAL = 1.04  # of the samples' variance: it is a part of it, but for rounding


def main() -> None:
    """Print each difference with its older and its present interval, in points."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("leaderboard", type=Path, help="results.json of the older method")
    parser.add_argument("--steps", type=int, default=4000, help="variances tried of each")
    chosen = parser.parse_args()
    board = load_record(chosen.leaderboard, Leaderboard)
    by_method = {standing.method: standing for standing in board.standings}
    print("| method | over | older | today |\n|---|---|---|---|")
    for standing in board.standings:
        pairs = (("cross_entropy", standing.over_baseline), ("kd", standing.over_kd))
        for other, interval in pairs:
            if interval is not None:
                widths = list(
                    agreeing(standing, by_method[other], interval, board.num_test, chosen.steps)
                )
                text = "none agrees" if not widths else f"± {100 * max(widths):.2f}"
                half = 50 * (interval[2] - interval[1])
                print(
                    f"| {standing.method} | {other} | {100 * interval[0]:+.2f} ± {half:.2f} "
                    f"| {text} |"
                )


def agreeing(
    own: Standing, other: Standing, older: Interval, num_samples: int, steps: int
) -> Iterator[float]:
    """Half widths by today's method that agree with the seeds' accuracies and an older interval."""
    gaps = torch.tensor(
        [a.accuracy - b.accuracy for a, b in zip(own.last, other.last, strict=True)]
    ).double()
    count = len(gaps)
    seeds = float(gaps.var() / count)
    half = (older[2] - older[1]) / 2
    for step in range(steps + 1):
        samples = SMALLEST * math.exp(math.log(LARGEST / SMALLEST) * step / steps)
        freedom = (seeds + samples) ** 2 / (seeds**2 / (count - 1) + samples**2 / (num_samples - 1))
        variance = (half / float(student_t.ppf(0.975, freedom))) ** 2
        residual = seeds + samples - variance
        if variance < max(seeds, samples) * 0.999 or not 0 <= residual <= MOST_RESIDUAL * samples:
            continue
        numbers = (float(gaps.mean()), seeds, samples, residual, 1.0)
        parts = (torch.tensor(number, dtype=torch.float64) for number in numbers)
        yield float(half_width(Components(count, num_samples, *parts)))


if __name__ == "__main__":
    main()
