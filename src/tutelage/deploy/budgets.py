"""Limits of a device (size, latency, memory), and what a network needs of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from tutelage.errors import ConfigError

BYTES: Mapping[str, float] = {
    "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
MILLISECONDS: Mapping[str, float] = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
UNITS = f"{', '.join(BYTES)} for the size of the file, the same with 'ram' behind it for memory, "
UNITS += f"{', '.join(MILLISECONDS)} for latency"
FORM = 'Write it as "1 MB, 2 ms, 8 MB ram"'


@dataclass(frozen=True, slots=True)
class Needs:
    """Needs of a network, predicted or measured, at batch 1 on one thread.

    Attributes:
        size_bytes: Size in bytes of its exported file.
        latency_ms: p50 of one call; None if not known.
        memory_bytes: While it runs, over the empty runtime; None if not known.
    """

    size_bytes: float
    latency_ms: float | None = None
    memory_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of a device; None is no limit.

    Attributes:
        size_bytes: Size in bytes of the exported file.
        latency_ms: p50 of one sample.
        memory_bytes: While it runs, over the empty runtime.
    """

    size_bytes: float | None = None
    latency_ms: float | None = None
    memory_bytes: float | None = None

    def excess(self, needs: Needs) -> float:
        """The largest share of a limit that is needed: 1 or less fits."""
        return max(share for _, share in self.shares(needs))

    def shares(self, needs: Needs) -> list[tuple[str, float]]:
        """Each limit's name with the share that is needed, where both are known."""
        pairs = (
            ("size", needs.size_bytes, self.size_bytes),
            ("latency", needs.latency_ms, self.latency_ms),
            ("ram", needs.memory_bytes, self.memory_bytes),
        )
        known = [(n, a / b) for n, a, b in pairs if a is not None and b is not None]
        return known or [("size", 0.0)]

    def __str__(self) -> str:
        """The limits in words, rounded."""
        parts = []
        if self.size_bytes is not None:
            parts.append(bytes_text(self.size_bytes))
        if self.latency_ms is not None:
            parts.append(f"{self.latency_ms:.6g} ms")
        if self.memory_bytes is not None:
            parts.append(f"{bytes_text(self.memory_bytes)} ram")
        return ", ".join(parts)


def parse_budget(text: str) -> Budget:
    """Read a budget such as "1 MB, 2 ms, 8 MB ram".

    Args:
        text: Parts with commas between, each a number above 0 with its unit. kB, MB and GB are
            powers of 1000; KiB, MiB and GiB of 1024.

    Raises:
        ConfigError: A part cannot be read, stands twice, or allows nothing.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, limit = _parse_part(part.strip(), text)
        if name in found:
            raise ConfigError(f"budget {text!r}: {part.strip()!r} limits {name} a second time.")
        found[name] = limit
    return Budget(found.get("size"), found.get("latency"), found.get("ram"))


def _parse_part(part: str, text: str) -> tuple[str, float]:
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*([A-Za-zµ]+)(?:\s+(ram))?", part)
    if match is None:
        raise ConfigError(f"budget {text[:200]!r}: cannot read {part[:60]!r}. {FORM}.")
    number, unit, is_ram = float(match[1]), match[2], match[3] is not None
    if not number > 0 or not isfinite(number):
        raise ConfigError(f"budget {text!r}: {part!r} must be a finite number above 0.")
    if unit in BYTES:
        return ("ram" if is_ram else "size"), number * BYTES[unit]
    if unit in MILLISECONDS and not is_ram:
        return "latency", number * MILLISECONDS[unit]
    raise ConfigError(f"budget {text!r}: unknown unit in {part!r}. Allowed: {UNITS}. {FORM}.")


def bytes_text(count: int | float) -> str:
    """A number of bytes for people; 1 MB is a million."""
    for unit in ("GB", "MB", "kB"):
        if count >= BYTES[unit]:
            return f"{count / BYTES[unit]:.4g} {unit}"
    return f"{count:.0f} B"


def needs_text(needs: Needs) -> str:
    """Needs of a network as text, in the order of a budget."""
    parts = [bytes_text(needs.size_bytes)]
    if needs.latency_ms is not None:
        parts.append(f"{needs.latency_ms:.3g} ms")
    if needs.memory_bytes is not None:
        parts.append(f"{bytes_text(needs.memory_bytes)} ram")
    return ", ".join(parts)
