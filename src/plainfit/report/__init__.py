"""One page about a run, and one that compares several: HTML files that need nothing else."""

from plainfit.report.comparison import comparison_rows, write_comparison
from plainfit.report.page import write_report

__all__ = ["comparison_rows", "write_comparison", "write_report"]
