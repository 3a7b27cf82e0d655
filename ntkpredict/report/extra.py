"""What the page and its figures are made with."""

from __future__ import annotations

import importlib

MODULES = ("jinja2", "matplotlib", "plotly")


def check_installed() -> None:
    """The extra `report`.

    Raises:
        ImportError: it is not installed.
    """
    for name in MODULES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            msg = f"report: {name} is missing; install ntkpredict[report]"
            raise ImportError(msg) from error
