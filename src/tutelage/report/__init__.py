"""The report: one self-contained HTML file that says what a run found out."""

from tutelage.report.page import write_report

__all__ = ["write_report"]
