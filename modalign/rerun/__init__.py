"""Chapters as experiments: list them, run one, sweep many, report, compare.

The command ``modalign`` is these functions, and each is a function of Python too.
"""

from modalign.rerun.inventory import (
    Chapter,
    Parameter,
    book_root,
    chapters,
    cost_text,
    costs,
    parameters,
    presets,
    require_costable,
    require_known,
)
from modalign.rerun.execution import Failure, Result, record_cost, run

__all__ = [
    "Chapter",
    "Failure",
    "Parameter",
    "Result",
    "book_root",
    "chapters",
    "cost_text",
    "costs",
    "parameters",
    "presets",
    "record_cost",
    "require_costable",
    "require_known",
    "run",
]
