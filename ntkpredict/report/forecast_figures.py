"""The figures of a forecast, and of a real run beside it."""

from __future__ import annotations

import numpy as np

from ntkpredict.forecast import Forecast
from ntkpredict.interval import SHOWN, Clock
from ntkpredict.report.figure import Axis, Band, Color, Figure, Layer, Line, Reference
from ntkpredict.stopping import AnyOf, StoppingRule, TargetAccuracy, TargetLoss, parse
from sde import Curve, Trajectory

QUANTILES = [0.025, 0.25, 0.75, 0.975]


def forecast_figures(forecast: Forecast, real: Trajectory | None = None) -> list[Figure]:
    """Curves, when training stops, and the kernel.

    Args:
        forecast: the forecast.
        real: the curves of the real run, if there was one.
    """
    curves, until = forecast.trajectory, parse(forecast.until)
    shown = _shown_points(forecast, real)
    median = curves.quantile(0.5).first(shown)
    spread = fan(curves, forecast.validity.clock).first(shown)
    splits = ["train"] if curves.validation is None else ["train", "validation"]
    figures = [
        _curve(metric, split, median, spread, real, until, forecast.steps)
        for metric in ("loss", "accuracy")
        for split in splits
    ]
    if forecast.steps is not None:
        figures.append(_stopping(forecast, int(curves.steps[shown - 1])))
    if forecast.spectrum.size and forecast.spectrum[0] > 0:
        figures.append(_spectrum(forecast))
    return figures


def fan(trajectory: Trajectory, clock: Clock) -> Trajectory:
    """Quantiles of the curves, over their seeds and the errors of their clock."""
    slowed = [trajectory.slowed(factor) for factor in np.exp(clock)]

    def stacked(split: str) -> Curve:
        each = [curves.curve(split) for curves in slowed]
        return Curve(*(np.concatenate([getattr(c, m) for c in each]) for m in ("loss", "accuracy")))

    validation = None if trajectory.validation is None else stacked("validation")
    return Trajectory(trajectory.steps, stacked("train"), validation).quantile(QUANTILES)


def _shown_points(forecast: Forecast, real: Trajectory | None) -> int:
    """How much of the grid is worth a look: well beyond where training stops."""
    grid = forecast.trajectory.steps
    last = None if forecast.steps_interval is None else forecast.steps_interval[1]
    if last is None:
        return len(grid)
    last = SHOWN * max(last, 0 if real is None else int(real.steps[-1]))
    return min(int(np.searchsorted(grid, last)) + 1, len(grid))


def _curve(
    metric: str,
    split: str,
    median: Trajectory,
    spread: Trajectory,
    real: Trajectory | None,
    until: StoppingRule,
    steps: float | None,
) -> Figure:
    title = f"{'training' if split == 'train' else split} {metric}"
    color: Color = "blue" if split == "train" else "orange"
    x, bands = median.steps.astype(float), getattr(spread.curve(split), metric)
    layers: list[Layer] = [
        Band("95 %", x, bands[0], bands[3], color),
        Band("50 %", x, bands[1], bands[2], color),
        Line("predicted", x, getattr(median.curve(split), metric)[0], color),
    ]
    if real is not None:
        y = getattr(real.curve(split), metric)[0]
        layers.append(Line("real run", real.steps.astype(float), y, "ink"))
    elif median.known:
        first = median.first(int(np.searchsorted(median.steps, median.known, side="right")))
        y = getattr(first.curve(split), metric)[0]
        layers.append(Line("trained for real", first.steps.astype(float), y, "grey"))
    layers += _targets(metric, split, until, median)
    if steps is not None:
        layers.append(Reference("predicted stop", "x", steps))
    return Figure(
        f"{split}-{metric}",
        title.capitalize(),
        "The median over minibatch orders; the bands span minibatch noise and what such forecasts "
        "were off by.",
        Axis("steps"),
        Axis(title, share=True) if metric == "accuracy" else Axis(title, log=True),
        tuple(layers),
    )


def _targets(metric: str, split: str, until: StoppingRule, median: Trajectory) -> list[Reference]:
    found = []
    for rule in until.rules if isinstance(until, AnyOf) else (until,):
        if isinstance(rule, TargetLoss) and (rule.on, metric) == (split, "loss"):
            start = float(median.curve(split).loss[0, 0])
            value = rule.value if rule.value is not None else (rule.relative or 0) * start
        elif isinstance(rule, TargetAccuracy) and (rule.on, metric) == (split, "accuracy"):
            value = rule.value
        else:
            continue
        found.append(Reference(str(rule), "y", float(value), "green"))
    return found


def _stopping(forecast: Forecast, last: int) -> Figure:
    times = np.sort(forecast.stopping_times)
    share = np.arange(1, len(times) + 1) / len(times)
    inside = times <= last
    return Figure(
        "stopping",
        "When training stops",
        "The probability that training has stopped by a step.",
        Axis("steps"),
        Axis("probability", range=(0.0, 1.0), share=True),
        (Line("", times[inside], share[inside], "blue"),),
    )


def _spectrum(forecast: Forecast) -> Figure:
    values = forecast.spectrum[forecast.spectrum > 0]
    return Figure(
        "spectrum",
        "Spectrum of the kernel",
        "Eigenvalues of the tangent kernel where the forecast begins: the larger one is, the "
        "sooner its direction is learnt.",
        Axis("rank", log=True),
        Axis("eigenvalue", log=True),
        (Line("", np.arange(1.0, len(values) + 1), values, "blue"),),
    )
