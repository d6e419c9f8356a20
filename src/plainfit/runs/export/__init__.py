"""A run's model as a file that runs without plainfit."""

from plainfit.runs.export.run import ExportResult, export_run

__all__ = ["ExportResult", "export_run"]
