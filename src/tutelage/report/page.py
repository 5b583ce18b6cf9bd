"""The page: the whole record in one template."""

import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from tutelage.errors import require
from tutelage.files import write_text
from tutelage.records import RunRecord
from tutelage.report import (
    confusion,
    formatting,
    headline,
    measured,
    networks,
    recipe_text,
    soft_targets,
    tables,
    texts,
)
from tutelage.report.charts import make_charts
from tutelage.report.remarks import remarks

PURPOSE = "Writing the report"


def write_report(record: RunRecord, path: Path) -> None:
    """Write a run's report as one self-contained HTML file, which works offline.

    Args:
        record: What the run found out, the content of results.json.
        path: Where the file shall lie; an older one is replaced.

    Raises:
        MissingExtraError: Plotly or Jinja is not installed.
        RunFolderError: The file cannot be written.
    """
    write_text(path, render(record))


def render(record: RunRecord) -> str:
    """The report as HTML.

    Raises:
        MissingExtraError: Plotly or Jinja is not installed.
    """
    return render_page("report.html.j2", _content(record))


def render_page(template: str, content: Mapping[str, Any]) -> str:
    """Render a template in the report's style, with style and scripts inlined.

    Raises:
        MissingExtraError: Plotly or Jinja is not installed.
    """
    jinja = require("jinja2", "report", PURPOSE)
    environment = jinja.Environment(
        loader=jinja.PackageLoader("tutelage.report"),
        undefined=jinja.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parts = _parts(jinja_markup=require("markupsafe", "report", PURPOSE).Markup)
    page: str = environment.get_template(template).render({**content, **parts})
    return page.encode("utf-8", "replace").decode("utf-8")


def _content(record: RunRecord) -> dict[str, Any]:
    choice = networks.choices(record)[0] if networks.choices(record) else "last"
    charts = {**make_charts(record, choice), "measured": measured.measured_charts(record)}
    cards = soft_targets.make_cards(record)
    content = {
        "record": record,
        "remarks": remarks(record),
        "metric_title": networks.metric_title(record),
        "choice": networks.CHOICES[choice].lower(),
        "finding": headline.find_verdict(record),
        "kept": headline.say_what_was_kept(record, choice),
        "figures": headline.pick_figures(record, choice),
        "was_selected": networks.was_selected(record),
        "num_seeds": max(len(networks.trainings(record, arm)) for arm in networks.ARMS[1:]),
        "charts": charts,
        "cards": cards,
        "shown": soft_targets.without_bad_pictures(record),
        "slider": soft_targets.make_slider(record.temperature),
        "recipe": recipe_text.write_recipe(record.recipe),
        "format": formatting,
        "script_data": _script_data(record, charts),
        **_tables(record, choice),
    }
    return {**content, "sections": _sections(content)}


def _tables(record: RunRecord, choice: str) -> dict[str, Any]:
    return {
        "quality_tables": tables.quality_tables(record),
        "cost_table": tables.cost_table(record),
        "class_table": tables.class_table(record, choice),
        "seed_table": tables.seed_table(record),
        "epoch_table": tables.epoch_table(record),
        "parity_table": tables.parity_table(record),
        "quantised_table": tables.quantised_table(record),
        "measured_tables": measured.measured_tables(record),
        "measured_problems": measured.problems(record),
        "text_files_table": texts.text_files_table(record),
        "cache_facts": tables.cache_facts(record),
        "confusion": confusion.matrix(record),
        "confused_table": confusion.worst_pairs(record),
    }


def _sections(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The sections of the page by anchor, for the links on top."""
    charts, title = content["charts"], content["metric_title"]
    sections = [
        ("side-by-side", "Side by side", True),
        ("soft-targets", "Soft targets", content["cards"]),
        ("shown", "Samples", content["shown"]),
        ("written", "How they go on", content["record"].written),
        ("curves", "Learning curves", charts["curves"]),
        ("costs", f"{title} against cost", charts["costs"]),
        ("measured", "Exported files", content["measured_tables"]),
        ("classes", "Classes", charts["retention"] or content["class_table"].rows),
        ("confusion", "Confusions", content["confusion"] or content["confused_table"].rows),
        ("calibration", "Calibration", charts["calibration"]),
        ("numbers", "Checks and numbers", True),
        ("repeat", "Repeat this run", True),
    ]
    return [(place, name) for place, name, is_there in sections if is_there]


def _parts(jinja_markup: Any) -> dict[str, Any]:
    """Style and scripts, which are our own and inserted verbatim."""
    folder = resources.files("tutelage.report") / "templates"
    names = {
        "style": "report.css",
        "chart_script": "charts.js",
        "soften_script": "soften.js",
        "slider_script": "soft_targets.js",
    }
    texts = {key: (folder / name).read_text("utf-8") for key, name in names.items()}
    texts["plotly_script"] = require("plotly.offline", "report", PURPOSE).get_plotlyjs()
    return {key: jinja_markup(text) for key, text in texts.items()}


def _script_data(record: RunRecord, charts: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Data for the scripts; the template's `tojson` escapes it for a script element."""
    data = {
        "temperature": record.temperature,
        "samples": [sample.logits for sample in record.samples if sample.logits],
        "figures": {chart.key: chart.figure for group in charts.values() for chart in group},
    }
    plain: dict[str, Any] = _without_non_finite(data)
    return plain


def _without_non_finite(value: Any) -> Any:
    """The same data with None for NaN and infinities, which JSON cannot store."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {str(key): _without_non_finite(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_without_non_finite(item) for item in value]
    return value
