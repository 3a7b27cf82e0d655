"""Figures as Plotly's JSON, for what a pointer can do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ntkpredict.record import to_plain
from ntkpredict.report.figure import (
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

_FEW = 4
"""Decades that have room for a label at 1, 2 and 5."""


def plotly_json(figure: Figure) -> dict[str, Any]:
    """Traces and layout; what has a colour of the page's own is left to the page."""
    references = [layer for layer in figure.layers if isinstance(layer, Reference)]
    named = any(isinstance(layer, Cells) for layer in figure.layers)
    layout = {
        "xaxis": _axis(figure.x, _decades(figure, "x"), named=named),
        "yaxis": _axis(figure.y, _decades(figure, "y"), named=named),
        "legend": {
            "orientation": "h",
            "traceorder": "normal",
            "y": 1.02,
            "yanchor": "bottom",
            "x": 0,
        },
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "hovermode": "closest",
        "shapes": [_shape(reference) for reference in references],
    }
    traces = [t for layer in figure.layers for t in _traces(layer)]
    return to_plain({"data": traces, "layout": layout})


def _axis(axis: Axis, decades: float, *, named: bool) -> dict[str, Any]:
    ends = axis.range
    if ends is not None and axis.log:
        ends = (math.log10(ends[0]), math.log10(ends[1]))
    return {
        "title": {"text": axis.title},
        "type": "category" if named else "log" if axis.log else None,
        "showgrid": not named,
        "range": ends,
        "tickformat": ".0%" if axis.share else "~g" if axis.log else None,
        "dtick": ("D2" if decades < _FEW else math.ceil(decades / 8)) if axis.log else None,
        "automargin": True,
        "zeroline": False,
    }


def _decades(figure: Figure, axis: str) -> float:
    """What the lines and points span of a logarithmic axis."""
    layers = [layer for layer in figure.layers if isinstance(layer, (Line, Points))]
    values = np.concatenate([np.empty(0), *(getattr(layer, axis) for layer in layers)])
    values = values[np.isfinite(values) & (values > 0)]
    return float(np.log10(values.max() / values.min())) if len(values) else 0.0


def _traces(layer: Layer) -> Iterable[dict[str, Any]]:
    if isinstance(layer, Cells):
        return [_heat_map(layer), _empty_cells(layer)]
    color, named = PALETTE[layer.color], {"name": layer.name, "showlegend": bool(layer.name)}
    if isinstance(layer, Line):
        return [_curve(layer.x, layer.y, color=color) | named]
    if isinstance(layer, Band):
        low, high = (
            _curve(layer.x, y, width=0) | {"hoverinfo": "skip", "legendgroup": layer.name}
            for y in (layer.low, layer.high)
        )
        filled = {"fill": "tonexty", "fillcolor": f"{color}33"}
        return [low | {"showlegend": False}, high | filled | named]
    if isinstance(layer, Points):
        return [_scatter(layer, color) | named]
    # A reference is a shape; this is its entry in the legend.
    return [_curve([None], [None], color=color, dash="dot") | named]


def _curve(x: Any, y: Any, **line: Any) -> dict[str, Any]:
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line}


def _scatter(layer: Points, color: str) -> dict[str, Any]:
    symbol = "circle" if layer.filled else "circle-open"
    return {
        "type": "scatter",
        "mode": "markers+text" if layer.marks else "markers",
        "x": layer.x,
        "y": layer.y,
        "marker": {"color": color, "size": 9, "symbol": symbol},
        "text": layer.marks or None,
        "textposition": "top right",
        "hovertext": layer.texts or None,
    }


def _shape(layer: Reference) -> dict[str, Any]:
    other = "y" if layer.axis == "x" else "x"
    return {
        "type": "line",
        f"{layer.axis}ref": layer.axis,
        f"{other}ref": f"{other} domain",
        f"{layer.axis}0": layer.value,
        f"{layer.axis}1": layer.value,
        f"{other}0": 0,
        f"{other}1": 1,
        "line": {"color": PALETTE[layer.color], "dash": "dot", "width": 1.5},
    }


def _heat_map(layer: Cells) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "x": layer.columns,
        "y": layer.rows,
        "z": layer.values,
        "text": np.where(np.isfinite(layer.values), np.array(layer.texts, object), ""),
        "texttemplate": "%{text}",
        "hovertemplate": "%{x}, %{y}: %{text}<extra></extra>",
        "colorscale": "Viridis",
        "reversescale": True,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
    }


def _empty_cells(layer: Cells) -> dict[str, Any]:
    """Their texts, in the page's ink."""
    rows, columns = np.nonzero(~np.isfinite(layer.values))
    return {
        "type": "scatter",
        "mode": "text",
        "x": [layer.columns[column] for column in columns],
        "y": [layer.rows[row] for row in rows],
        "text": [layer.texts[row][column] for row, column in zip(rows, columns, strict=True)],
        "hoverinfo": "skip",
        "showlegend": False,
    }
