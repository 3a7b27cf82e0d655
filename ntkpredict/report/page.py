"""The page: one HTML file with everything in it."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ntkpredict.forecast import Forecast
from ntkpredict.ranking import Ranking
from ntkpredict.report.content import content
from ntkpredict.report.figure import PALETTE, Figure
from ntkpredict.report.interactive import plotly_json
from ntkpredict.report.static import inline_svg
from ntkpredict.units import duration
from ntkpredict.validate import Validation

_FORMATS: dict[str, Callable[[float], str]] = {
    "whole": lambda value: f"{value:,.0f}",
    "short": lambda value: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}",
    "share": lambda value: f"{100 * value:.0f}\u00a0%",
    "percent": lambda value: f"{100 * value:.1f}\u00a0%",
    "signed": lambda value: f"{100 * value:+.1f}\u00a0%".replace("-", "\u2212"),
    "money": lambda value: f"{value:.2f}" if value >= 1 else f"{value:.2g}",
    "time": lambda value: duration(value).replace(" ", "\u00a0"),
    "milliseconds": lambda value: f"{1000 * value:.3g}\u00a0ms",
}


def page(result: Forecast | Validation | Ranking, figures: dict[str, Figure]) -> str:
    """The HTML of a result.

    Args:
        result: what it is about.
        figures: its figures.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ntkpredict.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    environment.globals["number"] = number
    said = content(result)
    return environment.get_template(f"{said['kind']}.html.j2").render(
        **said,
        content=said,
        figures=figures,
        svg={name: Markup(inline_svg(figure)) for name, figure in figures.items()},
        drawn={name: plotly_json(figure) for name, figure in figures.items()},
        ink=PALETTE["ink"],
        library=_library(),
    )


@cache
def _library() -> str:
    """Plotly's JavaScript, compressed."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def number(value: Any, kind: str) -> Markup:
    """A number as people read it, with its exact value in the HTML; a dash where there is none."""
    if value is None:
        return Markup("–")
    return Markup('<data value="{}">{}</data>').format(value, _FORMATS[kind](value))
