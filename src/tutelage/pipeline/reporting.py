"""A run's report, if its extra is installed; results and files do not depend on it."""

from importlib.util import find_spec
from pathlib import Path

from tutelage.records import RunRecord
from tutelage.report import write_report

WRITERS = ("plotly", "jinja2")
PAGE = "report.html"


def save_report(record: RunRecord, out: Path) -> None:
    """Write report.html; without the extra, only remove an older one."""
    if not missing():
        write_report(record, out / PAGE)
        return
    (out / PAGE).unlink(missing_ok=True)


def missing() -> list[str]:
    """Packages that a report needs and that are missing."""
    return [name for name in WRITERS if find_spec(name) is None]


def report_notes(out: Path) -> list[str]:
    """A note if there is no report, and how to get one."""
    if not missing():
        return []
    return [
        f"No report was written: {' and '.join(missing())} not installed. To write it: pip install "
        f"'tutelage[report]', then tutelage report {out}."
    ]
