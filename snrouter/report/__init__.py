"""Report: what a run found, in words, tables, plots and one self-contained HTML page.

Everything is made from a run's folder: results.json, and where they are there samples.safetensors, spec.yaml and environment.json.
"""

from snrouter.report.formats import csv_text, markdown, to_rich
from snrouter.report.page import save_grid, write_report
from snrouter.report.tables import table
from snrouter.report.wording import headline

__all__ = ["csv_text", "headline", "markdown", "save_grid", "table", "to_rich", "write_report"]
