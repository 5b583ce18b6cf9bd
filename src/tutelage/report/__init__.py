"""The report: one self-contained HTML file with the results of a run."""

from tutelage.report.page import write_report
from tutelage.report.short import short_html, short_text

__all__ = ["short_html", "short_text", "write_report"]
