"""Report: what a run, or several, or a study found, in words, tables, plots and one self-contained HTML page.

Everything is made from a run's folder: results.json, and where they are there samples.safetensors, trace.safetensors,
pictures.safetensors, spec.yaml and environment.json; of a study's folder, from study.json.
"""

from snrouter.report.combined import combine
from snrouter.report.formats import csv_text, markdown, tabulate
from snrouter.report.page import write_report
from snrouter.report.pictures import save_grid
from snrouter.report.study import study_table, write_study
from snrouter.report.tables import table
from snrouter.report.terminal import to_rich
from snrouter.report.wording import headline

__all__ = [
    "combine",
    "csv_text",
    "headline",
    "markdown",
    "save_grid",
    "study_table",
    "table",
    "tabulate",
    "to_rich",
    "write_report",
    "write_study",
]
