"""Chapters as experiments: list them, run one, sweep many, report, compare.

The command ``modalign`` is these functions, and each is a function of Python too.
"""

from modalign.rerun.execution import Failure, Result, record_cost, run
from modalign.rerun.inventory import (
    Chapter,
    Parameter,
    book_root,
    chapters,
    cost_text,
    costs,
    parameters,
    place_text,
    presets,
    require_costable,
    require_known,
)
from modalign.rerun.pages import page
from modalign.rerun.reporting import Comparison, Report, compare, report
from modalign.rerun.sweeping import Outcome, Sweep, define_sweep, read_sweep, sweep

__all__ = [
    "Chapter",
    "Comparison",
    "Failure",
    "Outcome",
    "Parameter",
    "Report",
    "Result",
    "Sweep",
    "book_root",
    "chapters",
    "compare",
    "cost_text",
    "costs",
    "define_sweep",
    "page",
    "parameters",
    "place_text",
    "presets",
    "read_sweep",
    "record_cost",
    "report",
    "require_costable",
    "require_known",
    "run",
    "sweep",
]
