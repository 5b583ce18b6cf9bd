"""Timing alternatives side by side: in short turns, in a mixed order, compared as ratios.

On a shared machine a number of seconds says little, and a ratio of two that were taken within the
same second says much. Each turn gives one ratio; what is reported is their median, with the
quartiles as the spread: of processor time, which other processes hardly disturb and which decides
whether a goal is reached, and of wall time.
"""

import os
import platform
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

Tick = Callable[[], None]
Loop = Callable[[Tick], None]


@dataclass(frozen=True, slots=True)
class Seconds:
    """A moment or a span on both clocks."""

    cpu: float
    wall: float

    @classmethod
    def now(cls) -> "Seconds":
        """Processor time of all threads of this process, and wall time."""
        return cls(time.process_time(), time.perf_counter())

    def __add__(self, other: "Seconds") -> "Seconds":
        """One after the other."""
        return Seconds(self.cpu + other.cpu, self.wall + other.wall)

    def __sub__(self, other: "Seconds") -> "Seconds":
        """What lies between."""
        return Seconds(self.cpu - other.cpu, self.wall - other.wall)

    def __truediv__(self, count: int) -> "Seconds":
        """The share of one of several calls."""
        return Seconds(self.cpu / count, self.wall / count)


Turns = dict[str, list[Seconds]]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """As `1.012 (1.003 to 1.021)`."""
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True)
class Ratio:
    """How two sides compare, turn by turn."""

    cpu: Spread
    wall: Spread

    def __str__(self) -> str:
        """Both clocks."""
        return f"cpu {self.cpu}   wall {self.wall}"

    def against(self, limit: float) -> str:
        """The ratio beside what it may be."""
        word = "reached" if self.cpu.median <= limit else "MISSED"
        return f"{self}   goal {limit:.3f} {word}"


def spread(values: Iterable[float]) -> Spread:
    """Median and quartiles of some numbers."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratio(above: Sequence[Seconds], below: Sequence[Seconds]) -> Ratio:
    """One side over another."""
    pairs = list(zip(above, below, strict=True))
    return Ratio(
        cpu=spread(a.cpu / b.cpu for a, b in pairs),
        wall=spread(a.wall / b.wall for a, b in pairs),
    )


def pooled(repeats: Iterable[Turns]) -> Turns:
    """The turns of several repeats, each on networks made anew.

    Where its weights happen to lie in memory makes a network up to a tenth slower or faster for
    as long as it lives; only new networks even that out.
    """
    first, *others = repeats
    return {name: sum((other[name] for other in others), turns) for name, turns in first.items()}


def median_ms(seconds: Iterable[Seconds]) -> str:
    """Median processor time in milliseconds, for the reader's orientation."""
    return f"{1e3 * statistics.median(span.cpu for span in seconds):9.3f} ms cpu"


def alternate(sides: Mapping[str, Callable[[], object]], *, turns: int, calls: int) -> Turns:
    """Time several functions by turns.

    Args:
        sides: The functions, by name; each is called twice before the clock starts.
        turns: How many times each side's clock runs.
        calls: Calls in one turn.

    Returns:
        Time per call for each turn of each side.
    """
    for function in sides.values():
        function()
        function()
    seconds: dict[str, list[Seconds]] = {name: [] for name in sides}
    for name in mixed(list(sides), turns):
        begun = Seconds.now()
        for _ in range(calls):
            sides[name]()
        seconds[name].append((Seconds.now() - begun) / calls)
    return seconds


def mixed(names: list[str], turns: int) -> Iterable[str]:
    """Each name once a turn, in another order every turn."""
    shuffle = random.Random(0).shuffle
    for _ in range(turns):
        shuffle(names)
        yield from names


def take_turns(loops: Mapping[str, Loop], *, steps: int, threads: int) -> Turns:
    """Run whole training loops side by side, a few steps of each at a time.

    Each loop has a thread of its own, and only the one whose turn it is runs.

    Args:
        loops: Called with a function that they call after every step.
        steps: Steps in one turn.
        threads: Of PyTorch, in every loop.

    Returns:
        Time of each turn of each loop; the last one has whatever the loop does at its end.
    """
    players = {name: _Player(loop, steps, threads) for name, loop in loops.items()}
    for player in players.values():
        player.thread.start()
    for name in mixed(list(players), turns=10**9):
        if not players[name].is_done:
            players[name].play()
        if all(player.is_done for player in players.values()):
            break
    for name, player in players.items():
        if player.error is not None:
            raise RuntimeError(f"The loop {name!r} failed.") from player.error
    return {name: player.seconds for name, player in players.items()}


class _Player:
    """One loop in its thread."""

    def __init__(self, loop: Loop, steps: int, threads: int) -> None:
        self.loop, self.steps, self.threads = loop, steps, threads
        self.go, self.back = threading.Event(), threading.Event()
        self.seconds: list[Seconds] = []
        self.ticks = 0
        self.is_done = False
        self.error: BaseException | None = None
        self.begun = Seconds(0, 0)
        self.thread = threading.Thread(target=self._run, daemon=True)

    def play(self) -> None:
        """Let the loop go on until its turn is over."""
        self.go.set()
        self.back.wait()
        self.back.clear()

    def _run(self) -> None:
        torch.set_num_threads(self.threads)
        self._wait()
        try:
            self.loop(self._tick)
        except BaseException as error:  # raised again where the loops were started
            self.error = error
        self.seconds.append(Seconds.now() - self.begun)
        self.is_done = True
        self.back.set()

    def _tick(self) -> None:
        self.ticks += 1
        if self.ticks % self.steps == 0:
            self.seconds.append(Seconds.now() - self.begun)
            self.back.set()
            self._wait()

    def _wait(self) -> None:
        self.go.wait()
        self.go.clear()
        self.begun = Seconds.now()


def machine(threads: int) -> str:
    """What this was measured on, in one line."""
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {threads} PyTorch thread(s), torch "
        f"{torch.__version__}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    )
