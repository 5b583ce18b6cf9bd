"""How long each stage of a run takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        """Nothing has been timed yet."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Time what is done within, under a stage's name."""
        begun = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begun, 3)
