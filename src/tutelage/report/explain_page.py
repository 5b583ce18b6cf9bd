"""The page of `tutelage explain`: one example's distributions over temperatures, as HTML."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tutelage import errors
from tutelage.losses.divergences import soften

TEMPLATES = Path(__file__).parent / "templates"
MOST_CLASSES = 8
POINTS_A_CURVE = 80
SLIDER = (0.05, 1000.0)


@dataclass(frozen=True, slots=True)
class Frame:
    """Plotting area within a chart's drawing, in pixels."""

    left: float = 44.0
    top: float = 12.0
    width: float = 368.0
    height: float = 210.0

    @property
    def right(self) -> float:
        """The right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """The bottom edge."""
        return self.top + self.height


@dataclass(frozen=True, slots=True)
class Scale:
    """Temperatures on a logarithmic axis from left to right, probabilities from bottom to top."""

    low: float
    high: float
    frame: Frame

    def across(self, temperature: float) -> float:
        """Horizontal position of a temperature, in pixels from the left."""
        share = math.log(temperature / self.low) / math.log(self.high / self.low)
        return round(self.frame.left + share * self.frame.width, 2)

    def up(self, probability: float) -> float:
        """Vertical position of a probability, in pixels from the top."""
        return round(self.frame.bottom - probability * self.frame.height, 2)


@dataclass(frozen=True, slots=True)
class Dot:
    """One probability at one of the temperatures asked for."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Curve:
    """One class's probability over temperatures."""

    color: int
    path: str
    dots: list[Dot]


@dataclass(frozen=True, slots=True)
class Chart:
    """The curves of one network."""

    title: str
    curves: list[Curve]


def explain_page(numbers: Mapping[str, Any], image_png: str | None = None) -> str:
    """The page as one self-contained HTML text.

    Args:
        numbers: An explanation as plain data (`Explanation.to_json()`).
        image_png: The sample's image as a base64 PNG, to be shown on top.

    Raises:
        MissingExtraError: Jinja is not installed.
    """
    jinja2 = errors.require("jinja2", extra="report", purpose="The image of an explanation")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = sorted(numbers["ranking"][:MOST_CLASSES])
    scale = _scale(numbers["temperatures"])
    page: str = environment.get_template("explain.html.j2").render(
        numbers=numbers,
        image_png=image_png,
        shown=shown,
        num_rest=len(numbers["classes"]) - len(shown),
        rows=_rows(numbers, shown),
        charts=_charts(numbers, shown, scale),
        frame=scale.frame,
        scale=scale,
        ticks=_ticks(numbers["temperatures"], scale),
        uniform=1 / len(numbers["classes"]),
        explorer=_explorer(numbers, shown),
    )
    return page


def _scale(temperatures: Sequence[float]) -> Scale:
    low, high = min(temperatures), max(temperatures)
    if high < 2 * low:
        low, high = low / 10, high * 10
    return Scale(low=low, high=high, frame=Frame())


def _ticks(temperatures: Sequence[float], scale: Scale) -> list[float]:
    """The temperatures asked for, without labels that would overlap."""
    kept: list[float] = []
    for temperature in sorted(set(temperatures)):
        if not kept or scale.across(temperature) - scale.across(kept[-1]) >= 26:
            kept.append(temperature)
    return kept


def _rows(numbers: Mapping[str, Any], shown: Sequence[int]) -> list[dict[str, Any]]:
    """Table rows, one per temperature, for each known network."""
    networks = [("student", numbers["probabilities"], numbers["entropies"])]
    if numbers["teacher_probabilities"] is not None:
        teacher = ("teacher", numbers["teacher_probabilities"], numbers["teacher_entropies"])
        networks.append(teacher)
    return [
        {
            "network": name,
            "temperature": temperature,
            "probabilities": [row[k] for k in shown],
            "rest": math.fsum(row) - math.fsum(row[k] for k in shown),
            "entropy": entropy,
        }
        for name, rows, entropies in networks
        for temperature, row, entropy in zip(numbers["temperatures"], rows, entropies, strict=True)
    ]


def _scores(numbers: Mapping[str, Any]) -> dict[str, list[float]]:
    """Each network's logits; the teacher's up to a constant, `-inf` for probability 0."""
    scores = {"student": numbers["student_logits"]}
    if numbers["teacher_logits"] is not None:
        scores["teacher"] = numbers["teacher_logits"]
    elif numbers["teacher_given"] is not None:
        at = numbers["teacher_given_temperature"]
        given = numbers["teacher_given"]
        scores["teacher"] = [at * math.log(p) if p > 0 else -math.inf for p in given]
    return scores


def _charts(numbers: Mapping[str, Any], shown: Sequence[int], scale: Scale) -> list[Chart]:
    asked = {"student": numbers["probabilities"], "teacher": numbers["teacher_probabilities"]}
    return [
        Chart(title=name, curves=_curves(numbers, shown, scale, scores, asked[name]))
        for name, scores in _scores(numbers).items()
    ]


def _curves(
    numbers: Mapping[str, Any],
    shown: Sequence[int],
    scale: Scale,
    scores: Sequence[float],
    asked: Sequence[Sequence[float]],
) -> list[Curve]:
    logits = torch.tensor(scores, dtype=torch.float64)
    logits = logits - logits.max()
    ratio = scale.high / scale.low
    grid = [scale.low * ratio ** (k / POINTS_A_CURVE) for k in range(POINTS_A_CURVE + 1)]
    fine = [soften(logits, temperature).tolist() for temperature in grid]
    return [
        Curve(
            color=color,
            path=" ".join(
                f"{scale.across(temperature)},{scale.up(row[k])}"
                for temperature, row in zip(grid, fine, strict=True)
            ),
            dots=[
                Dot(
                    x=scale.across(temperature),
                    y=scale.up(row[k]),
                    text=f"{numbers['classes'][k]} at T = {temperature:g}: {row[k]:.4f}",
                )
                for temperature, row in zip(numbers["temperatures"], asked, strict=True)
            ],
        )
        for color, k in enumerate(shown)
    ]


def _explorer(numbers: Mapping[str, Any], shown: Sequence[int]) -> dict[str, Any]:
    """Data of the slider's script; null is the logit of probability 0."""
    low, high = SLIDER
    return {
        "scores": {
            name: [value if math.isfinite(value) else None for value in scores]
            for name, scores in _scores(numbers).items()
        },
        "shown": list(shown),
        "low": math.log10(min(low, numbers["at"])),
        "high": math.log10(max(high, numbers["at"])),
        "start": math.log10(numbers["at"]),
    }
