"""How often the verdict's interval misses the truth, by simulation, and how wide it is."""

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.significance import Components, components, half_width

Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]

SEEDS = (2, 3, 5, 10)
RATIOS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
SMALL, LARGE = (50, 1_000), (1_000, 10_000, 100_000)
WIDEST_SHARE = 0.15  # standard deviation of seeds' effects on a share: an effect ends at 1
AT_ONCE = 4_000_000  # entries


def _lognormal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    drawn = np.exp(rng.standard_normal(shape)) - np.exp(0.5)
    return np.asarray(drawn / np.sqrt((np.e - 1) * np.e))


def _rare(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """One in five is far off, all others are alike."""
    return np.asarray(((rng.random(shape) < 0.2) - 0.2) / 0.4)


EFFECTS: Mapping[str, Draw] = {  # mean 0, variance 1
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape) - 1,
    "t, 3 degrees of freedom": lambda rng, shape: rng.standard_t(3, shape) / np.sqrt(3),
    "lognormal": _lognormal,
    "one in five": _rare,
}


@dataclass(frozen=True, slots=True)
class Scores:
    """Differences of scores that are no shares: samples, seeds and residual add up.

    Attributes:
        samples: Distribution of what a sample adds, and of the residual.
        seeds: Distribution of what a seed adds.
        common: Standard deviation of what a sample adds in all seeds, the residual's being 1.
    """

    samples: str
    seeds: str
    common: float = 1.0

    def studies(
        self, rng: np.random.Generator, num_seeds: int, num_samples: int, count: int
    ) -> torch.Tensor:
        """Differences without any effect of a seed."""
        draw = EFFECTS[self.samples]
        drawn = draw(rng, (count, num_seeds, num_samples))
        return torch.from_numpy(drawn + self.common * draw(rng, (count, 1, num_samples)))

    def misses(
        self, rng: np.random.Generator, num_seeds: int, num_samples: int, trials: int
    ) -> Iterator[float]:
        """Share of intervals that miss the truth, for each ratio of seed to sample variance."""
        noise = (1 + self.common**2) / num_samples
        ratios = RATIOS if num_seeds > 1 else (0.0,)
        missed = np.zeros(len(ratios))
        for count in _portions(trials, num_seeds * num_samples):
            drawn = self.studies(rng, num_seeds, num_samples, count)
            plain, rows = components(drawn), drawn.mean(dim=-1)
            ends = drawn.amax(dim=-1), drawn.amin(dim=-1)
            for number, ratio in enumerate(ratios):
                effect = EFFECTS[self.seeds](rng, (count, num_seeds)) * np.sqrt(ratio * noise)
                found = shifted(plain, rows, ends, torch.from_numpy(effect))
                missed[number] += float((found.mean.abs() > half_width(found)).sum())
        yield from missed / trials


def shifted(
    plain: Components,
    rows: torch.Tensor,
    ends: tuple[torch.Tensor, torch.Tensor],
    effect: torch.Tensor,
) -> Components:
    """Components after each seed's row is moved as a whole: the samples' share stays."""
    moved = rows + effect
    spread = moved.var(dim=-1) / plain.num_seeds if plain.num_seeds > 1 else plain.seeds
    largest = torch.maximum((ends[0] + effect).abs(), (ends[1] + effect).abs()).amax(dim=-1)
    return Components(
        num_seeds=plain.num_seeds,
        num_samples=plain.num_samples,
        mean=moved.mean(dim=-1),
        seeds=spread,
        samples=plain.samples,
        residual=plain.residual,
        largest=largest,
    )


@dataclass(frozen=True, slots=True)
class Shares:
    """Right or wrong answers of two arms that disagree on a share of the samples.

    Attributes:
        disagree: That share.
        seeds: Distribution of the seeds' effects.
    """

    disagree: float
    seeds: str

    def studies(
        self,
        rng: np.random.Generator,
        num_seeds: int,
        num_samples: int,
        count: int,
        spread: float,
        effect: float = 0.0,
    ) -> torch.Tensor:
        """Differences of 1, 0 and -1; the seeds' effects vary around the true one."""
        most = 1 - self.disagree
        own = effect + spread * EFFECTS[self.seeds](rng, (count, num_seeds, 1))
        own = own.clip(-most, most)
        drawn = rng.random((count, num_seeds, num_samples), dtype=np.float32)
        better = drawn < self.disagree / 2 + own.clip(min=0)
        worse = drawn > 1 - self.disagree / 2 - (-own).clip(min=0)
        return torch.from_numpy(better.astype(np.float32) - worse)

    def misses(
        self, rng: np.random.Generator, num_seeds: int, num_samples: int, trials: int
    ) -> Iterator[float]:
        """As for scores."""
        for ratio in RATIOS if num_seeds > 1 else (0.0,):
            spread = np.sqrt(ratio * self.disagree / num_samples)
            if spread > WIDEST_SHARE:
                return
            missed = 0.0
            for count in _portions(trials, num_seeds * num_samples):
                found = components(self.studies(rng, num_seeds, num_samples, count, spread))
                missed += float((found.mean.abs() > half_width(found) + 1e-9).sum())
            yield missed / trials


@dataclass(frozen=True, slots=True)
class Rare:
    """A few samples that only one arm puts right, in every seed: shares near 0 or 1."""

    gains: Sequence[float] = (1.0, 2.0, 2.9, 4.5, 7.0, 15.0, 30.0)

    def misses(
        self, rng: np.random.Generator, num_seeds: int, num_samples: int, trials: int
    ) -> Iterator[float]:
        """As for scores, for each number of such samples that is expected."""
        for gain in self.gains:
            if gain > num_samples / 5:
                return
            hits = rng.random((trials, 1, num_samples)) < gain / num_samples
            drawn = torch.from_numpy(np.repeat(hits.astype(np.float64), num_seeds, axis=1))
            found = components(drawn)
            truth = gain / num_samples
            yield float(((found.mean - truth).abs() > half_width(found) + 1e-9).double().mean())


@dataclass(frozen=True, slots=True)
class Many:
    """Many samples, whose means are normal: what the interval is made from is drawn by itself.

    Attributes:
        seeds: Distribution of the seeds' effects.
        common: Standard deviation of what a sample adds in all seeds, the residual's being 1.
    """

    seeds: str
    common: float = 1.0

    def misses(
        self, rng: np.random.Generator, num_seeds: int, num_samples: int, trials: int
    ) -> Iterator[float]:
        """As for scores."""
        of_sample, between = num_samples - 1, num_seeds - 1
        # Sums of squares of a two-way table of normal entries are independent (Cochran).
        explained = (self.common**2 + 1 / num_seeds) * rng.chisquare(of_sample, trials)
        rest = rng.chisquare(max(1, between) * of_sample, trials) if between else np.zeros(trials)
        entries = max(1, between) * of_sample * num_seeds * num_samples
        noise = (1 + self.common**2) / num_samples
        shared = self.common * rng.standard_normal(trials) / np.sqrt(num_samples)
        own = rng.standard_normal((trials, num_seeds)) / np.sqrt(num_samples)
        for ratio in RATIOS if between else (0.0,):
            effects = EFFECTS[self.seeds](rng, (trials, num_seeds)) * np.sqrt(ratio * noise)
            means = torch.from_numpy(effects + own)
            found = Components(
                num_seeds=num_seeds,
                num_samples=num_samples,
                mean=means.mean(dim=1) + torch.from_numpy(shared),
                seeds=means.var(dim=1, correction=min(1, between)) / num_seeds,
                samples=torch.from_numpy(explained / of_sample / num_samples),
                residual=torch.from_numpy(rest / entries),
                largest=torch.ones(trials, dtype=torch.float64),
            )
            yield float((found.mean.abs() > half_width(found)).double().mean())


Case = Scores | Shares | Rare | Many
CASES: Mapping[str, Case] = {
    "shares, arms disagree on 10 %": Shares(0.1, "normal"),
    "shares near 1, arms disagree on 1 %": Shares(0.01, "normal"),
    "shares, seeds exponential": Shares(0.1, "exponential"),
    "shares, few samples change": Rare(),
    "scores, all normal": Scores("normal", "normal"),
    "scores, samples alike in all seeds": Scores("normal", "normal", 10.0),
    "scores, all exponential": Scores("exponential", "exponential"),
    "scores, all heavy-tailed (t, 3)": Scores("t, 3 degrees of freedom", "t, 3 degrees of freedom"),
    "scores, samples lognormal": Scores("lognormal", "normal"),
    "many samples, seeds normal": Many("normal"),
    "many samples, seeds normal, nothing common": Many("normal", 0.0),
    "many samples, seeds exponential": Many("exponential"),
    "many samples, seeds heavy-tailed": Many("t, 3 degrees of freedom"),
    "beyond: seeds lognormal": Many("lognormal"),
    "beyond: one seed in five far off": Many("one in five"),
}


def _portions(trials: int, entries: int) -> Iterator[int]:
    size = max(1, AT_ONCE // entries)
    yield from (min(size, trials - begin) for begin in range(0, trials, size))


def print_coverage(trials: int) -> None:
    """One row a case: the highest share of intervals that miss, over sizes and ratios."""
    rng = np.random.default_rng(0)
    numbers = (1, *SEEDS)
    print("| effects | " + " | ".join(f"{n} seed{'s' * (n > 1)}" for n in numbers) + " |")
    print("|---|" + "---|" * len(numbers), flush=True)
    for name, case in CASES.items():
        sizes = LARGE if isinstance(case, Many) else SMALL
        worst = [
            max(rate for size in sizes for rate in case.misses(rng, n, size, trials))
            for n in numbers
        ]
        print(f"| {name} | {' | '.join(f'{100 * rate:.1f}' for rate in worst)} |", flush=True)


def print_widths(trials: int) -> None:
    """Half the interval's width in points, on tests of 1,000 and 10,000 samples."""
    rng, case = np.random.default_rng(1), Shares(0.1, "normal")
    spreads = (0.0, 0.003, 0.008)
    settings = [*itertools.product((1_000, 10_000), spreads)]
    heads = [f"{size:,} samples, spread {100 * spread:g}" for size, spread in settings]
    print(f"\n| seeds | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for seeds in (1, *SEEDS):
        cells = []
        for size, spread in settings:
            drawn = case.studies(rng, seeds, size, trials // 10, spread)
            cells.append(f"{100 * float(half_width(components(drawn)).median()):.2f}")
        print(f"| {seeds} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print both tables of docs/numbers.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000, help="simulated studies a cell")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print_coverage(chosen.trials)
    print_widths(chosen.trials)


if __name__ == "__main__":
    main()
