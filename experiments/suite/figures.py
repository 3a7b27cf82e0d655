"""The figures of the suite, from its runs and forecasts."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox
from scipy import stats

from ntkpredict.score import TOLERANCE, Scores, score
from ntkpredict.suite import KINDS, Row

DISTANCES = {"near": "#0072B2", "medium": "#E69F00", "far": "#882255"}
COLOURS = dict(zip(KINDS.values(), ("#0072B2", "#D55E00", "#009E73", "#882255"), strict=True))
"""Told apart by the colour-blind (Okabe and Ito, Tol)."""
STYLE = {"font.size": 12, "axes.spines.top": False, "axes.spines.right": False}
LEAST, MOST = 0.003, 30.0
"""Errors shown; what is said not to be reached lies beyond."""


def draw(scores: Scores | Path, out: Path, ours: Sequence[str] = ()) -> None:
    """Write figure.png, coverage.png, distance.png and frontier.png.

    All but the first are of the held-out runs, where there are any.

    Args:
        scores: or the folder of runs and forecasts.
        out: folder of the figures.
        ours: forecasters joined in frontier.png; the first gets figure.png. Where empty, the
            first by name gets it.
    """
    mpl.use("Agg")
    scores = scores if isinstance(scores, Scores) else score(scores)
    every = {name: _reached(rows) for name, rows in scores.rows.items()}
    held_out = any(row.case.split == "held-out" for rows in every.values() for row in rows)
    split = "held-out" if held_out else "development"
    shown = {name: [row for row in rows if row.case.split == split] for name, rows in every.items()}
    told = {name: rows for name, rows in shown.items() if rows}
    shown = dict(sorted(told.items(), key=lambda item: _median(item[1])))
    chosen = ours[0] if ours else min(every)
    with mpl.rc_context(STYLE):
        figures = {
            "figure": predictions(every[chosen], chosen),
            "coverage": coverage(shown, split),
            "distance": errors(shown, split),
            "frontier": frontier(shown, split, ours),
        }
        for name, figure in figures.items():
            figure.savefig(out / f"{name}.png", dpi=120)
            plt.close(figure)


def _reached(rows: list[Row]) -> list[Row]:
    """Answers about targets that are really reached, in runs that do not diverge."""
    return [
        row
        for row in rows
        if not row.case.diverged and np.isfinite(row.real) and row.predicted is not None
    ]


def _errors(rows: list[Row]) -> np.ndarray:
    return np.array([abs((row.predicted or 0.0) / row.real - 1) for row in rows])


def _median(rows: list[Row]) -> float:
    return float(np.median(_errors(rows))) if rows else np.inf


def predictions(rows: list[Row], forecaster: str) -> Figure:
    """Predicted against real steps, a panel a distance."""
    figure, axes = plt.subplots(
        1, 3, figsize=(14, 6.4), sharex=True, sharey=True, layout="constrained"
    )
    finite = [x for row in rows for x in (row.real, row.predicted) if x and np.isfinite(x)]
    ends = np.array([min(finite, default=1.0) / 1.3, max(finite, default=1000.0) * 1.3])
    for axis, distance in zip(axes, DISTANCES, strict=True):
        axis.set(xscale="log", yscale="log", xlim=ends, ylim=ends, box_aspect=1)
        axis.fill_between(
            ends, ends * (1 - TOLERANCE), ends * (1 + TOLERANCE), color="0.88", lw=0, zorder=0
        )
        axis.plot(ends, ends, "0.5", lw=1, zorder=1)
        mine = [row for row in rows if row.case.distance == distance]
        for row in mine:
            _mark(axis, row)
        axis.set_title(_title(distance, mine), fontsize=11)
        axis.set_xlabel("real steps")
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_formatter("{x:g}")
    axes[0].set_ylabel(f"predicted steps ({forecaster})")
    handles = [
        *(_dot(colour, kind, hollow=False) for kind, colour in COLOURS.items()),
        _dot("0.3", "held-out", hollow=False),
        _dot("0.3", "development", hollow=True),
        Line2D([], [], marker="^", color="0.3", lw=0, label="said not to be reached"),
        Line2D([], [], color="0.88", lw=10, label=f"±{_percent(TOLERANCE)}"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _title(distance: str, rows: list[Row]) -> str:
    medians = [
        f"{split} {_percent(_median(chosen))}"
        for split in ("development", "held-out")
        if (chosen := [row for row in rows if row.case.split == split])
    ]
    return f"{distance}\nmedian error: {', '.join(medians) or 'no targets'}"


def _percent(error: float, _: int = 0) -> str:
    """Of an error or a cost; from `MOST` on a target is said never to be reached."""
    return f"{float(f'{100 * error:.2g}'):g} %" if error < MOST else "never"


def _mark(axis: Axes, row: Row) -> None:
    colour = COLOURS[row.kind]
    style = {
        "facecolors": colour if row.case.split == "held-out" else "none",
        "edgecolors": colour,
        "s": 30,
        "alpha": 0.8,
    }
    if np.isfinite(row.predicted):
        axis.scatter(row.real, row.predicted, **style)
    else:
        axis.scatter(row.real, 0.98, marker="^", transform=axis.get_xaxis_transform(), **style)


def _dot(colour: str, label: str, *, hollow: bool) -> Line2D:
    face = "none" if hollow else colour
    return Line2D([], [], marker="o", color=colour, mfc=face, lw=0, label=label)


def coverage(shown: dict[str, list[Row]], split: str) -> Figure:
    """Share of the intervals that hold the real steps, of the forecasters that give any."""
    shown = {name: rows for name, rows in shown.items() if any(row.interval for row in rows)}
    figure, axis = _lanes(
        shown, f"intervals that hold the real steps, {split} runs; line: 95 % binomial"
    )
    for y, rows, colour in _lane(shown):
        held = [_holds(row) for row in rows if row.interval is not None]
        if held:
            found = stats.binomtest(sum(held), len(held)).proportion_ci(method="wilson")
            axis.plot([found.low, found.high], [y, y], color=colour, lw=2, alpha=0.5)
            axis.plot(np.mean(held), y, "o", color=colour)
            _note(axis, y, f"of {len(held)}", at=1.02)
    axis.axvline(0.95, color="0.5", lw=1, ls="--", zorder=0)
    axis.set(xlim=(0, 1.1), xticks=[0, 0.25, 0.5, 0.75, 0.95])
    axis.xaxis.set_major_formatter(_percent)
    return figure


def _holds(row: Row) -> bool:
    low, high = row.interval
    return low <= row.real and (high is None or row.real <= high)


def errors(shown: dict[str, list[Row]], split: str) -> Figure:
    """Each error, and their medians."""
    label = f"|predicted / real - 1|, {split} runs; bar: median; right: said never to be reached"
    figure, axis = _lanes(shown, label)
    rng = np.random.default_rng(0)
    for y, rows, colour in _lane(shown):
        values = np.clip(_errors(rows), LEAST, MOST)
        jitter = rng.uniform(-0.08, 0.08, len(values))
        axis.scatter(values, y + jitter, s=12, color=colour, alpha=0.45, lw=0)
        if len(values):
            axis.plot([np.median(values)] * 2, [y - 0.12, y + 0.12], color="k", lw=2.5)
            _note(axis, y, _percent(np.mean(values == MOST)), at=MOST * 1.3)
    axis.axvline(TOLERANCE, color="0.5", lw=1, ls="--", zorder=0)
    axis.set(xscale="log", xlim=(LEAST / 1.2, MOST * 2.5))
    axis.set_xticks([LEAST, 0.01, 0.05, TOLERANCE, 0.5, 1, 3, 10, MOST])
    axis.xaxis.set_major_formatter(_percent)
    axis.minorticks_off()
    return figure


def _lanes(shown: dict[str, list[Row]], label: str) -> tuple[Figure, Axes]:
    """A row a forecaster, best on top, with a lane for each distance."""
    size = (9, 1.6 + 0.75 * len(shown))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    axis.set_yticks(range(len(shown)), list(shown))
    axis.set(ylim=(len(shown) - 0.5, -0.5), xlabel=label)
    axis.tick_params(axis="y", length=0)
    for y in range(1, len(shown)):
        axis.axhline(y - 0.5, color="0.9", lw=1, zorder=0)
    handles = [_dot(colour, distance, hollow=False) for distance, colour in DISTANCES.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    return figure, axis


def _note(axis: Axes, y: float, text: str, at: float) -> None:
    axis.text(at, y, text, va="center", fontsize=10, color="0.3")


def _lane(shown: dict[str, list[Row]]) -> list[tuple[float, list[Row], str]]:
    """Position, rows and colour of each."""
    return [
        (i + 0.28 * (j - 1), [row for row in rows if row.case.distance == distance], colour)
        for i, rows in enumerate(shown.values())
        for j, (distance, colour) in enumerate(DISTANCES.items())
    ]


def frontier(shown: dict[str, list[Row]], split: str, ours: Sequence[str]) -> Figure:
    """What accuracy costs: median error against the share of the run's own cost."""
    points = {name: (_cost(rows), min(_median(rows), MOST)) for name, rows in shown.items() if rows}
    colours = {name: DISTANCES["near"] if name in ours else "0.35" for name in points}
    figure, axis = plt.subplots(figsize=(9, 6), layout="constrained")
    axis.set_xscale("symlog", linthresh=1e-3, linscale=0.5)
    axis.set(yscale="log", xlabel="cost in forward passes, share of the whole run's")
    axis.set(ylabel=f"median error in steps, {split} runs")
    joined = sorted(points[name] for name in ours if name in points)
    axis.plot(*np.array(joined).reshape(-1, 2).T, color=DISTANCES["near"], lw=2)
    for name, point in points.items():
        axis.plot(*point, "o" if name in ours else "s", color=colours[name], ms=8)
    ticks = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, MOST])
    shares = np.array([error for _, error in points.values()])
    axis.set_yticks(ticks[(ticks > shares.min() / 3) & (ticks < shares.max() * 3)])
    axis.set_xticks([0, 1e-3, 1e-2, 0.1, 1.0])
    axis.set_xlim(-2e-4, 3 * max(1.0, *(cost for cost, _ in points.values())))
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(_percent)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    _label(axis, points, colours)
    return figure


def _label(axis: Axes, points: dict[str, tuple[float, float]], colours: dict[str, str]) -> None:
    """Names beside their points, from the lowest upwards, moved where they would overlap."""
    axis.figure.draw_without_rendering()
    marks = axis.transData.transform(list(points.values()))
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in marks]
    for name, point in sorted(points.items(), key=lambda item: item[1][1]):
        text = axis.annotate(
            name, point, (9, 0), textcoords="offset points", va="center", color=colours[name]
        )
        for up, side in product(range(200), ("left", "right")):
            text.set(ha=side)
            text.xyann = (9 if side == "left" else -9, up)
            if not text.get_window_extent().count_overlaps(taken):
                break
        taken.append(text.get_window_extent())


def _cost(rows: list[Row]) -> float:
    costs = [row.answers.forward_passes / row.case.forward_passes for row in rows if row.answers]
    return float(np.median(costs))
