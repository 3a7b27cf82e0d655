"""Runs that other programs logged, for the history."""

from ntkpredict.imports.importing import FORMATS, import_runs
from ntkpredict.imports.logged import Logged

__all__ = ["FORMATS", "Logged", "import_runs"]
