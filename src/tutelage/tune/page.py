"""The page of a search: the trials, importance of settings, and the best recipe."""

import math
from pathlib import Path
from typing import Any

from tutelage.files import write_text
from tutelage.report.figures import Axis, Chart, axis, colour, draw, safe_text
from tutelage.report.page import render_page
from tutelage.tune.records import TrialRow, Tuned
from tutelage.wording import quantity

SHOWN_SETTINGS = 6


def write_page(tuned: Tuned, best_recipe: str, path: Path) -> None:
    """Write a search as one self-contained HTML file.

    Args:
        tuned: The result of the search.
        best_recipe: Text of the recipe that was written out.
        path: Where the file shall lie.

    Raises:
        MissingExtraError: Plotly or Jinja is not installed.
        RunFolderError: The file cannot be written.
    """
    charts = make_charts(tuned)
    content = {
        "tuned": tuned,
        "best": tuned.trial(tuned.best),
        "verdict": say_what_was_found(tuned),
        "charts": charts,
        "settings": settings_table(tuned),
        "recipe": best_recipe,
        "script_data": {"figures": {chart.key: chart.figure for chart in charts}},
    }
    write_text(path, render_page("tune.html.j2", content))


def say_what_was_found(tuned: Tuned) -> str:
    """The result in one or two sentences."""
    best = tuned.trial(tuned.best)
    if not tuned.confirmed:
        return (
            f"Pareto front of {tuned.metric.title} and latency: {len(tuned.front)} of "
            f"{quantity(len(tuned.trials), 'trial')}. The best reaches {tuned.text(best.score)} on "
            "the validation data."
        )
    found = {confirmed.number: confirmed for confirmed in tuned.confirmed}
    seeds = quantity(len(found[tuned.best].scores), "seed")
    own = tuned.text(found[0].mean if 0 in found else None)
    if tuned.best == 0:
        return f"No trial was better than the recipe as it stands ({own} over {seeds})."
    return (
        f"Trial {tuned.best + 1} reaches {tuned.text(found[tuned.best].mean)} on the validation "
        f"data over {seeds}, the recipe as it stands {own}."
    )


def settings_table(tuned: Tuned) -> list[dict[str, str]]:
    """Each setting: its range, the recipe's own value, the best one, and its importance."""
    first, best = tuned.trials[0].settings, tuned.trial(tuned.best).settings
    keys = sorted(tuned.space, key=lambda key: -tuned.importance.get(key, 0.0))
    return [
        {
            "key": key,
            "range": tuned.space[key],
            "own": value_text(first.get(key)),
            "best": value_text(best.get(key)),
            "importance": f"{tuned.importance[key]:.0%}" if key in tuned.importance else "–",
        }
        for key in keys
    ]


def make_charts(tuned: Tuned) -> list[Chart]:
    """All charts of the page; charts without data are omitted."""
    charts = [_history(tuned)]
    if tuned.importance:
        charts.append(_importance(tuned))
    if tuned.front:
        charts.append(_front(tuned))
    keys = list(tuned.importance)[:SHOWN_SETTINGS]
    return charts + [_against(tuned, key, number) for number, key in enumerate(keys)]


def _history(tuned: Tuned) -> Chart:
    done = [row for row in tuned.trials if row.state == "complete"]
    given_up = [row for row in tuned.trials if row.state != "complete" and row.score is not None]
    best, line = None, []
    for row in done:
        best = row if best is None or tuned.rank(row) > tuned.rank(best) else best
        line.append(_height(tuned, best))
    traces = [
        {
            "name": "best so far",
            "mode": "lines",
            "x": [row.number + 1 for row in done],
            "y": line,
            "line": {"color": "rgba(128,128,128,.7)", "shape": "hv"},
            "hoverinfo": "skip",
        },
        _dots(
            tuned, done, "trials", [row.number + 1 for row in done], colour("distilled"), "circle"
        ),
        _dots(tuned, given_up, "given up", [row.number + 1 for row in given_up], "#808080", "x"),
    ]
    figure = draw(traces, axis("trial"), _score_axis(tuned))
    return Chart("history", "Trial by trial", "The first is the recipe as it stands.", figure)


def _dots(
    tuned: Tuned, rows: list[TrialRow], name: str, x: list[Any], tone: str, symbol: str
) -> dict[str, Any]:
    return {
        "name": name,
        "mode": "markers",
        "x": x,
        "y": [_height(tuned, row) for row in rows],
        "text": [_settings_text(row) for row in rows],
        "marker": {
            "color": tone,
            "symbol": symbol,
            "size": [14 if row.number == tuned.best else 9 for row in rows],
        },
        "hovertemplate": "%{y:.4g}<br>%{text}<extra></extra>",
    }


def _settings_text(row: TrialRow) -> str:
    settings = (f"{key}: {value_text(value)}" for key, value in row.settings.items())
    return f"trial {row.number + 1}<br>" + "<br>".join(map(safe_text, settings))


def _importance(tuned: Tuned) -> Chart:
    shares = list(tuned.importance.items())[::-1]
    places = list(range(len(shares)))
    bars = {
        "mode": "lines",
        "x": [x for _, share in shares for x in (0, 100 * share, None)],
        "y": [y for place in places for y in (place, place, None)],
        "line": {"color": colour("distilled"), "width": 14},
        "hoverinfo": "skip",
    }
    ticks = {"tickvals": places, "ticktext": [safe_text(short(key)) for key, _ in shares]}
    figure = draw(
        [bars],
        axis("variance, %", rangemode="tozero"),
        axis("", zeroline=False, range=[-0.6, len(shares) - 0.4], **ticks),
        showlegend=False,
        height=max(200, 90 + 34 * len(shares)),
    )
    caption = "By fANOVA over the finished trials: a setting at 0 made no difference here."
    return Chart("importance", "What mattered", caption, figure)


def _front(tuned: Tuned) -> Chart:
    rows = [row for row in tuned.trials if row.latency_ms is not None]
    front = [tuned.trial(number) for number in tuned.front]
    line = {
        "name": "no trial beats these in both",
        "mode": "lines",
        "x": [row.latency_ms for row in front],
        "y": [_height(tuned, row) for row in front],
        "line": {"color": colour("baseline"), "dash": "dot", "shape": "hv"},
        "hoverinfo": "skip",
    }
    dots = _dots(
        tuned, rows, "trials", [row.latency_ms for row in rows], colour("distilled"), "circle"
    )
    figure = draw([line, dots], axis("latency p50, ms"), _score_axis(tuned))
    return Chart(
        "front", f"{tuned.metric.title.capitalize()} against latency", "Left is faster.", figure
    )


def _against(tuned: Tuned, key: str, number: int) -> Chart:
    """Accuracy against one setting's values."""
    rows = [row for row in tuned.trials if row.state == "complete"]
    values = [row.settings[key] for row in rows]
    is_number = all(isinstance(value, float) for value in values)
    wide = is_number and max(values) > 4 * max(min(values), 1e-12)  # type: ignore[operator]
    options: dict[str, Any] = {"type": "log"} if wide else {}
    if not is_number:
        values = [safe_text(value_text(value)) for value in values]
        order = [safe_text(text) for text in tuned.space[key].split(", ")]
        options = {"type": "category", "categoryorder": "array", "categoryarray": order}
    figure = draw(
        [_dots(tuned, rows, "trials", values, colour("distilled"), "circle")],
        axis(safe_text(short(key)), **options),
        _score_axis(tuned),
        showlegend=False,
        height=260,
    )
    share = f"{tuned.importance[key]:.0%} of the variance."
    return Chart(f"setting-{number}", short(key), share, figure)


def short(key: str) -> str:
    """A dotted key without the prefix that all have in common."""
    return key.removeprefix("objective.terms.0.").removeprefix("objective.")


def value_text(value: Any) -> str:
    """A setting's value as text."""
    return f"{value:.3g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def _height(tuned: Tuned, row: TrialRow) -> float | None:
    scale = 100 if tuned.metric.is_share else 1
    return None if row.score is None else scale * row.score


def _score_axis(tuned: Tuned) -> Axis:
    unit = ", %" if tuned.metric.is_share else ""
    return axis(f"validation {tuned.metric.title}{unit}")
