"""Figures as pictures: SVG and PNG, by Matplotlib and without a browser."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from matplotlib import rc_context, ticker
from matplotlib.figure import Figure as Canvas

from ntkpredict.report.figure import (
    FAINT,
    PALETTE,
    Axis,
    Band,
    Cells,
    Figure,
    Layer,
    Line,
    Points,
    Reference,
)

_INK = PALETTE["ink"]
_STYLE: Any = {
    "font.size": 10.5,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.title_fontsize": 12.5,
    "legend.borderpad": 0,
}


def picture(figure: Figure, kind: str) -> bytes:
    """A file of its own.

    Args:
        figure: what to draw.
        kind: ``"svg"`` or ``"png"``.
    """
    return _draw(figure, kind, title=True, facecolor="white")


def inline_svg(figure: Figure) -> str:
    """SVG for a page: the page's ink and, for what is faint, its custom property ``--faint``."""
    text = _draw(figure, "svg", title=False, transparent=True).decode()
    text = text[text.index("<svg") :].replace(_INK, "currentColor").replace(FAINT, "var(--faint)")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r' (width|height)="[0-9.]+pt"', "", text)


def _draw(figure: Figure, kind: str, *, title: bool, **how: Any) -> bytes:
    with rc_context({**_STYLE, "svg.hashsalt": figure.name}):
        canvas = Canvas(figsize=(6.4, 3.8), layout="constrained")
        axes = canvas.add_subplot()
        for layer in figure.layers:
            _layer(axes, layer)
        _axis(axes, "x", figure.x)
        _axis(axes, "y", figure.y)
        names = axes.get_legend_handles_labels()[1]
        if names:
            columns = max(80 // (max(map(len, names)) + 8), 1)
            heading = figure.title if title else None
            canvas.legend(loc="outside upper left", ncols=columns, title=heading, alignment="left")
        elif title:
            axes.set_title(figure.title, loc="left")
        file = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else None
        canvas.savefig(file, format=kind, dpi=150, metadata=metadata, **how)
    return file.getvalue()


def _layer(axes: Any, layer: Layer) -> None:
    if isinstance(layer, Cells):
        _cells(axes, layer)
        return
    color, name = PALETTE[layer.color], layer.name or None
    if isinstance(layer, Line):
        axes.plot(layer.x, layer.y, color=color, label=name, linewidth=1.8)
    elif isinstance(layer, Band):
        axes.fill_between(layer.x, layer.low, layer.high, color=color, alpha=0.2, lw=0, label=name)
    elif isinstance(layer, Points):
        face = color if layer.filled else "none"
        axes.scatter(layer.x, layer.y, 40, facecolors=face, edgecolors=color, label=name)
        for x, y, mark in zip(layer.x, layer.y, layer.marks, strict=False):
            axes.annotate(mark, (x, y), (5, 3), textcoords="offset points")
    else:
        _reference(axes, layer)


def _reference(axes: Any, layer: Reference) -> None:
    across = axes.axvline if layer.axis == "x" else axes.axhline
    across(layer.value, color=PALETTE[layer.color], linestyle=":", linewidth=1.5, label=layer.name)


def _cells(axes: Any, layer: Cells) -> None:
    axes.grid(visible=False)
    shown = axes.pcolormesh(np.ma.masked_invalid(layer.values), cmap="viridis_r")
    for (row, column), value in np.ndenumerate(layer.values):
        color = _INK
        if np.isfinite(value):
            color = "white" if np.mean(shown.to_rgba(value)[:3]) < 0.5 else "black"
        place = (column + 0.5, row + 0.5)
        axes.annotate(layer.texts[row][column], place, ha="center", va="center", color=color)
    axes.set_xticks(np.arange(len(layer.columns)) + 0.5, layer.columns)
    axes.set_yticks(np.arange(len(layer.rows)) + 0.5, layer.rows)


def _axis(axes: Any, name: str, axis: Axis) -> None:
    part = getattr(axes, f"{name}axis")
    part.set_label_text(axis.title)
    if axis.log:
        getattr(axes, f"set_{name}scale")("log")
        part.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        part.set_major_formatter(lambda value, _: f"{value:g}")
        part.set_minor_formatter(ticker.NullFormatter())
    if axis.share:
        part.set_major_formatter(ticker.PercentFormatter(1, decimals=0))
    if axis.range is not None:
        getattr(axes, f"set_{name}lim")(*axis.range)
