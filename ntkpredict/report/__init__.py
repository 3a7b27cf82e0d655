"""A result on one page that can be sent to a colleague, and its figures."""

from __future__ import annotations

from pathlib import Path

from ntkpredict.forecast import Forecast
from ntkpredict.optional import require
from ntkpredict.ranking import Ranking
from ntkpredict.report.figure import EXTRA, Figure
from ntkpredict.report.forecast_figures import forecast_figures
from ntkpredict.report.ranking_figures import ranking_figures
from ntkpredict.validate import Validation

__all__ = ["Figure", "figures", "report"]


def report(result: Forecast | Validation | Ranking, path: str | Path) -> None:
    """Write a result as one HTML file that needs no network.

    The answer comes first, then figures, tables, assumptions and versions. Numbers need no
    JavaScript; all of them are in the JSON inside the page, or follow from it.

    Args:
        result: of `predict`, `validate` or `compare`.
        path: the file.

    Raises:
        ImportError: the extra ``report`` is not installed.
    """
    require(*EXTRA)
    from ntkpredict.report.page import page

    Path(path).write_text(page(result, figures(result)), encoding="utf-8")


def figures(result: Forecast | Validation | Ranking) -> dict[str, Figure]:
    """The figures of a result by name; `Figure.save` writes one as SVG or PNG."""
    if isinstance(result, Ranking):
        found = ranking_figures(result)
    elif isinstance(result, Validation):
        found = forecast_figures(result.forecast, result.run.trajectory)
    else:
        found = forecast_figures(result)
    return {figure.name: figure for figure in found}
