"""A line image with intervals as a small SVG file, for the pages in docs/."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tutelage.report.figures import COLOURS

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 56, 52
TICKS = (1e4, 3e4, 1e5, 3e5, 1e6)


@dataclass(frozen=True, slots=True)
class Point:
    """A share at a size, with the ends of its interval."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One arm's points."""

    arm: str
    points: Sequence[Point]


def draw_curves(
    *, title: str, curves: Sequence[Curve], level: tuple[str, float], x_title: str
) -> str:
    """Shares (0 to 1) against bytes on a logarithmic axis; `level` is a dashed line with a name."""
    scale = _Scale([p for curve in curves for p in curve.points], level[1])
    parts = [*_frame(scale, title, x_title), *_level(scale, *level)]
    for number, curve in enumerate(curves):
        parts += _curve(scale, curve)
        parts += _key(curve.arm, LEFT + 130 * number)
    parts += _key(level[0], LEFT + 130 * len(curves))
    style = "text{font:13px system-ui,sans-serif;fill:#1c2430}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}"><style>{style}</style>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>' + "\n".join(parts) + "</svg>\n"
    )


class _Scale:
    """From bytes and shares to places in the image."""

    def __init__(self, points: Sequence[Point], level: float) -> None:
        self.left = math.log(min(p.x for p in points) * 0.85)
        self.right = math.log(max(p.x for p in points) * 1.15)
        lowest = min(p.low for p in points)
        self.step = next(s for s in (0.005, 0.01, 0.02, 0.05, 0.1) if (level - lowest) / s <= 8)
        self.bottom = math.floor(lowest / self.step) * self.step
        self.top = math.ceil(max(level, *(p.high for p in points)) / self.step) * self.step

    def across(self, x: float) -> float:
        share = (math.log(x) - self.left) / (self.right - self.left)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def up(self, y: float) -> float:
        share = (y - self.bottom) / (self.top - self.bottom)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    @property
    def levels(self) -> list[float]:
        count = round((self.top - self.bottom) / self.step)
        return [self.bottom + self.step * number for number in range(count + 1)]


def _frame(scale: _Scale, title: str, x_title: str) -> list[str]:
    parts = [f'<text x="{LEFT}" y="20" font-weight="600">{escape(title)}</text>']
    digits = 1 if scale.step < 0.01 else 0
    for y in scale.levels:
        parts += [
            f'<path d="M{LEFT} {scale.up(y)}H{WIDTH - RIGHT}" stroke="#dfe3e9"/>',
            f'<text x="{LEFT - 8}" y="{scale.up(y) + 4}" text-anchor="end">{y:.{digits}%}</text>',
        ]
    for x in TICKS:
        if scale.left <= math.log(x) <= scale.right:
            text = f"{x / 1e6:g} MB" if x >= 1e6 else f"{x / 1e3:g} kB"
            parts.append(
                f'<text x="{scale.across(x)}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">'
                f"{text}</text>"
            )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_title)}</text>'
    )
    return parts


def _level(scale: _Scale, name: str, share: float) -> list[str]:
    return [
        f'<path d="M{LEFT} {scale.up(share)}H{WIDTH - RIGHT}" stroke="{COLOURS[name]}" '
        'stroke-width="2" stroke-dasharray="6 4"/>'
    ]


def _curve(scale: _Scale, curve: Curve) -> list[str]:
    colour = COLOURS[curve.arm]
    points = sorted(curve.points, key=lambda point: point.x)
    line = " ".join(f"{scale.across(p.x)},{scale.up(p.y)}" for p in points)
    parts = [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for point in points:
        x = scale.across(point.x)
        told = f"{curve.arm}: {point.y:.2%} ({point.low:.2%} to {point.high:.2%})"
        parts += [
            f'<path d="M{x} {scale.up(point.low)}V{scale.up(point.high)}" stroke="{colour}" '
            'stroke-width="2" stroke-opacity=".6"/>',
            f'<circle cx="{x}" cy="{scale.up(point.y)}" r="4" fill="{colour}">'
            f"<title>{told}, {point.x:,.0f} bytes</title></circle>",
        ]
    return parts


def _key(arm: str, x: float) -> list[str]:
    return [
        f'<circle cx="{x + 5}" cy="38" r="5" fill="{COLOURS[arm]}"/>',
        f'<text x="{x + 16}" y="42">{arm}</text>',
    ]
