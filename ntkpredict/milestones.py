"""Fractions of the initial loss on the way to the end of training."""

from __future__ import annotations

from dataclasses import dataclass

from ntkpredict.forecast import Forecast
from ntkpredict.interval import Interval, predicted_steps
from ntkpredict.stopping import TargetLoss

FRACTIONS = (0.7, 0.5, 0.3, 0.2, 0.1)


@dataclass(frozen=True)
class Milestone:
    """A training loss on the way.

    Attributes:
        fraction: of the initial training loss.
        loss: that loss, the mean over the seeds.
        steps: the median over the seeds.
        interval: 95 %.
    """

    fraction: float
    loss: float
    steps: float
    interval: Interval | None


def milestones(forecast: Forecast) -> list[Milestone]:
    """Those that are reached within the budget."""
    curves, told = forecast.trajectory, forecast.validity
    start = float(curves.train.loss[:, 0].mean())
    found = []
    for fraction in FRACTIONS:
        steps, interval = predicted_steps(
            curves, TargetLoss(relative=fraction), told.clock, told.shift
        )
        if steps is not None:
            found.append(Milestone(fraction, fraction * start, steps, interval))
    return found
