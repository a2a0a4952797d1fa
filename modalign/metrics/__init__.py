"""Measures that the chapters compare by, and the interval of a comparison."""

from modalign.metrics.correlation import cca
from modalign.metrics.intervals import (
    Interval,
    difference,
    interval_table,
    paired_table,
    seed_interval,
)

__all__ = [
    "Interval",
    "cca",
    "difference",
    "interval_table",
    "paired_table",
    "seed_interval",
]
