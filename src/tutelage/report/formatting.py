"""Formatting of numbers; a dash for a missing one."""

import math

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
Number = float | int

AS_FAST = "as fast"
NOISE = 1.1  # two times that differ by less are equal, as far as busy machines tell

HUGE = 1e9


def number(value: Number | None, digits: int = 3) -> str:
    """A number with a fixed count of decimals; above 1e9 three significant digits."""
    if value is None or not math.isfinite(value):
        return DASH
    if abs(value) >= HUGE:
        return f"{value:.3g}".replace("-", MINUS)
    return f"{value:.{digits}f}".replace("-", MINUS)


def percent(share: Number | None, digits: int = 2) -> str:
    """A share (0 to 1) in percent, without the percent sign."""
    return number(None if share is None else 100 * share, digits)


def points(share: Number | None) -> str:
    """A difference of shares in percentage points, with its sign."""
    text = percent(share)
    return text if text == DASH or text.startswith(MINUS) else f"+{text}"


def significant(value: Number | None) -> str:
    """A positive number with three significant digits."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    places = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, places):,.{max(places, 0)}f}".replace("-", MINUS)


def tiny(value: Number) -> str:
    """A number that may be very small, in scientific notation."""
    return "0" if value == 0 else f"{value:.2e}".replace("-", MINUS)


def count(value: int) -> str:
    """A whole number with thousands separators."""
    return f"{value:,}"


def short_count(value: Number | None) -> str:
    """A large number with three significant digits: 1.49 M."""
    if value is None:
        return DASH
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{significant(value / size)} {unit}"
    return count(int(value))


def size(num_bytes: Number | None) -> str:
    """A file size; 1 MB is a million bytes."""
    if num_bytes is None:
        return DASH
    for step, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= step:
            return f"{significant(num_bytes / step)} {unit}"
    return f"{num_bytes:.0f} B"


def duration(seconds: Number | None) -> str:
    """A duration for people."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 60:
        return f"{significant(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def ratio(above: Number | None, below: Number | None) -> str:
    """Ratio of two numbers."""
    if above is None or not below:
        return DASH
    return f"{significant(above / below)}{TIMES}"


def is_noise(one: Number, other: Number) -> bool:
    """Whether two times are too close to say which is shorter."""
    return max(one, other) <= NOISE * min(one, other)


def speed_ratio(above: Number | None, below: Number | None) -> str:
    """Ratio of two times, if it exceeds the noise."""
    if above is None or not below or not is_noise(above, below):
        return ratio(above, below)
    return AS_FAST
