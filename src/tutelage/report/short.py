"""A run in a few lines, as a notebook and a terminal show the result of `distill`."""

from html import escape

from tutelage.records import LEADING, RunRecord
from tutelage.report import networks
from tutelage.report.headline import say_what_was_kept

ARMS = ("teacher", "baseline", "distilled")


def short_text(record: RunRecord) -> str:
    """One line: the leading metric of every network, then the verdict in a word."""
    parts = [f"{arm} {value}" for arm, value in _values(record)]
    word = [] if record.verdict is None else [record.verdict.word]
    return ", ".join([f"{record.metric.title}: " + ", ".join(parts), *word])


def short_html(record: RunRecord) -> str:
    """The same as a small table, with the verdict's sentence below it."""
    rows = "".join(
        f"<tr><td>{escape(arm)}</td><td>{escape(value)}</td></tr>" for arm, value in _values(record)
    )
    verdict = record.verdict
    sentence = say_what_was_kept(record, LEADING) if verdict is None else verdict.sentence
    heading = f"<tr><th>network</th><th>{escape(record.metric.title)}</th></tr>"
    return f"<table>{heading}{rows}</table><p>{escape(sentence)}</p>"


def _values(record: RunRecord) -> list[tuple[str, str]]:
    found = [(arm, record.summary(arm, LEADING)) for arm in ARMS]
    name = record.metric.name
    return [(arm, networks.metric_text(record, one.mean[name])) for arm, one in found if one]
