"""Shared parts of all charts: data, colours, frame."""

import html
from dataclasses import dataclass
from typing import Any

from tutelage.errors import require

COLOURS = {"teacher": "#8a63d2", "baseline": "#d97a1f", "distilled": "#1488b8"}
SYMBOLS = {"teacher": "diamond", "baseline": "square", "distilled": "circle"}
LONGEST_NAME = 18
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart.

    Attributes:
        key: Names the chart's place in the page.
        title: What it shows, in a few words.
        caption: How to read it.
        figure: Plotly's data and layout, as plain data.
    """

    key: str
    title: str
    caption: str
    figure: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: its title, and further Plotly options."""

    title: str
    options: dict[str, Any]


def axis(title: str, **options: Any) -> Axis:
    """An axis with Plotly's own options."""
    return Axis(title, options)


def draw(traces: list[dict[str, Any]], x: Axis, y: Axis, **layout: Any) -> dict[str, Any]:
    """Validate traces and layout with Plotly and return them as plain data.

    Args:
        traces: Scatter traces.
        x: The horizontal axis.
        y: The vertical axis.
        layout: More of Plotly's layout.

    Raises:
        MissingExtraError: Plotly is not installed.
    """
    plotly = require("plotly.graph_objects", "report", "Writing the report")
    frame = {
        "template": "none",
        "height": 320,
        "margin": {"l": 56, "r": 16, "t": 40, "b": 48},
        "dragmode": False,
        "hovermode": "closest",
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
        "xaxis": {"title": {"text": x.title}, "automargin": True, "fixedrange": True, **x.options},
        "yaxis": {"title": {"text": y.title}, "automargin": True, "fixedrange": True, **y.options},
    }
    figure = plotly.Figure(
        data=[plotly.Scatter(**trace) for trace in traces], layout={**frame, **layout}
    )
    plain: dict[str, Any] = figure.to_dict()
    plain["layout"].pop("template", None)
    return plain


def colour(arm: str) -> str:
    """The colour of a network, the same throughout the page."""
    return COLOURS.get(arm, "#808080")


def marker(arm: str, **options: Any) -> dict[str, Any]:
    """The marker of a network: its colour and a shape of its own."""
    return {"color": colour(arm), "symbol": SYMBOLS.get(arm, "cross"), "size": 9, **options}


def safe_text(text: str, longest: int = 200) -> str:
    """Text that Plotly shows verbatim; it would interpret tags."""
    short = text if len(text) <= longest else text[: longest - 1] + ELLIPSIS
    return html.escape(short, quote=False)
