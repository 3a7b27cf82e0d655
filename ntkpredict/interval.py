"""From simulated curves to a number of steps and how sure it is."""

import numpy as np
from jaxtyping import Float

from ntkpredict.stopping import StoppingRule
from sde import Trajectory

Interval = tuple[float, float | None]
"""Lower and upper end at 95 %; the upper one is None where it lies beyond the budget."""

Clock = Float[np.ndarray, " errors"]
"""ln(real / predicted) steps, equally likely each; see `Validity`."""

SHOWN = 1.25
"""Curves are worth a look up to so many times the steps that training takes at most."""


def stopping_times(
    trajectory: Trajectory, until: StoppingRule, clock: Clock
) -> Float[np.ndarray, " outcomes"]:
    """Steps at which training may stop, equally likely each; infinite beyond the budget.

    They span the minibatch noise between seeds and the errors of the clock of the whole curve, but
    for what is known of it.
    """
    return np.concatenate([until.steps(trajectory.slowed(factor)) for factor in np.exp(clock)])


def predicted_steps(
    trajectory: Trajectory, until: StoppingRule, clock: Clock, shift: float = 0.0
) -> tuple[float | None, Interval | None]:
    """The median number of steps over the seeds, and the 95 % interval of `stopping_times`.

    Args:
        trajectory: the simulated curves.
        until: the stopping rule.
        clock: what the interval spans.
        shift: ln of the factor by which the point is later than the curves, see `Validity`.
    """
    expected = trajectory.slowed(np.exp(shift)) if shift else trajectory
    point = float(np.median(until.steps(expected)))
    if not np.isfinite(point):
        return None, None
    outcomes = stopping_times(trajectory, until, clock)
    low, high = np.quantile(outcomes, [0.025, 0.975], method="nearest")
    # A peak that just touches a target may be lost on every other clock.
    low = low if np.isfinite(low) else point
    limit = np.inf if until.limit is None else until.limit
    low, high = _evaluated(trajectory, float(low), float(high), limit)
    return point, (low, high if np.isfinite(high) else None)


def _evaluated(
    trajectory: Trajectory, low: float, high: float, limit: int | float
) -> tuple[float, float]:
    """Where ends are known, to an evaluation more, as these look at some of the samples only.

    A step at which training stops whatever the curves is known without them.
    """
    steps, known = trajectory.steps, min(trajectory.known, limit - 1)
    if low <= known:
        low = float(steps[max(int(np.searchsorted(steps, low, side="right")) - 2, 0)])
    if high <= known:
        after = int(np.searchsorted(steps, high)) + 1
        high = float(min(steps[min(after, len(steps) - 1)], limit))
    return low, high


def horizon(stop: float, clock: Clock, shift: float = 0.0) -> float:
    """The step up to which curves are read, by the interval and where they are worth a look.

    Slower clocks stop later, and there faster ones look ahead.

    Args:
        stop: where the last of the curves stops.
        clock: as for `predicted_steps`.
        shift: likewise.
    """
    fastest, low, high = np.exp(np.quantile(clock, [0.0, 0.025, 0.975]))
    shown = SHOWN * stop * max(high, np.exp(shift)) / min(low, 1)
    return float(max(shown, (stop + 1) / min(fastest, 1)))
