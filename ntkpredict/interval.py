"""From simulated curves to a number of steps and how sure it is."""

import numpy as np
from jaxtyping import Float

from ntkpredict.stopping import StoppingRule
from sde import Trajectory

Interval = tuple[float, float | None]
"""Lower and upper end at 95 %; the upper one is None where it lies beyond the budget."""

Clock = Float[np.ndarray, " errors"]
"""ln(real / predicted) steps, equally likely each; see `Validity`."""


def stopping_times(
    trajectory: Trajectory, until: StoppingRule, clock: Clock
) -> Float[np.ndarray, " outcomes"]:
    """Steps at which training may stop, equally likely each; infinite beyond the budget.

    They span the minibatch noise between seeds and the errors of the clock of the whole curve.
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
    return point, (float(low), float(high) if np.isfinite(high) else None)
