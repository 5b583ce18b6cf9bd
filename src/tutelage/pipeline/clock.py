"""How long each stage of a run takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tutelage.engine.memory import told_where


class Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        """Nothing has been timed yet."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Time what is done within, under a stage's name, which is told if memory runs out there.

        Raises:
            OutOfMemoryError: Memory ran out.
        """
        begun = time.perf_counter()
        with told_where(name):
            yield
        self.seconds[name] = round(time.perf_counter() - begun, 3)
