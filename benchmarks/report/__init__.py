"""A results file as one self-contained HTML page."""

from benchmarks.report.page import render

__all__ = ["render"]
