"""A figure, said once; `static` and `interactive` draw it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from ntkpredict.optional import require

EXTRA = ("report", "jinja2", "matplotlib", "plotly")
"""What the page and its figures are made with, see `require`."""

Color = Literal["blue", "orange", "green", "purple", "yellow", "grey", "ink"]
PALETTE: dict[Color, str] = {
    "blue": "#3a86c8",
    "orange": "#dd6b20",
    "green": "#1a9c74",
    "purple": "#a864b0",
    "yellow": "#b8860b",
    "grey": "#808890",
    "ink": "#24292f",
}
"""Readable on white and on black, and told apart by the colour-blind; a page has its own ink."""

FAINT = "#d0d7de"
"""Of grids; a page has its own."""

COLORS: tuple[Color, ...] = ("blue", "orange", "green", "purple", "yellow")

Values = Float[np.ndarray, " points"]


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        name: in the legend; none where empty.
        x: where.
        y: what; gaps where it is not finite.
        color: of the line.
    """

    name: str
    x: Values
    y: Values
    color: Color


@dataclass(frozen=True)
class Band:
    """The area between two curves."""

    name: str
    x: Values
    low: Values
    high: Values
    color: Color


@dataclass(frozen=True)
class Points:
    """Points, filled or hollow, with a text each: a short one beside it or what a pointer shows.

    Attributes:
        name: in the legend.
        x: where.
        y: what.
        color: of the points.
        texts: one for each, shown under a pointer.
        marks: one for each, written beside it.
        filled: rather than hollow.
    """

    name: str
    x: Values
    y: Values
    color: Color
    texts: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    filled: bool = True


@dataclass(frozen=True)
class Reference:
    """A dashed line across the figure, at a value of one axis."""

    name: str
    axis: Literal["x", "y"]
    value: float
    color: Color = "grey"


@dataclass(frozen=True)
class Cells:
    """A heat map.

    Attributes:
        columns: names, from left to right.
        rows: names, from bottom to top.
        values: the logarithm of what is shown, the smaller the better; not a number where empty.
        texts: what is written in each cell.
    """

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    values: Float[np.ndarray, "rows columns"]
    texts: tuple[tuple[str, ...], ...]


Layer = Line | Band | Points | Reference | Cells


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        title: what it shows, with its unit.
        log: whether it is logarithmic.
        range: its ends; chosen by the data where None.
        share: whether it is a share, written as a percentage.
    """

    title: str
    log: bool = False
    range: tuple[float, float] | None = None
    share: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        name: what it is called in files and pages.
        title: above it.
        caption: below it: what is to be seen, in a sentence.
        x: the horizontal axis.
        y: the vertical axis.
        layers: from back to front.
    """

    name: str
    title: str
    caption: str
    x: Axis
    y: Axis
    layers: tuple[Layer, ...]

    def save(self, path: str | Path) -> None:
        """Write it as a picture.

        Args:
            path: a file that ends in ``.svg`` or ``.png``.

        Raises:
            ValueError: another ending.
            ImportError: the extra ``report`` is not installed.
        """
        target = Path(path)
        if target.suffix not in (".svg", ".png"):
            msg = f"path: got {str(path)!r}; expected a file that ends in .svg or .png"
            raise ValueError(msg)
        require(*EXTRA)
        from ntkpredict.report.static import picture

        target.write_bytes(picture(self, target.suffix[1:]))
