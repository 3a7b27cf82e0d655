"""Runs that other programs logged, for the history."""

from ntkpredict.imports.importing import import_runs

__all__ = ["import_runs"]
