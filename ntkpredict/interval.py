"""From simulated curves to a number of steps and how sure it is."""

import numpy as np
from jaxtyping import Float
from scipy import stats

from ntkpredict.stopping import StoppingRule
from sde import Trajectory

Interval = tuple[float, float | None]
"""Lower and upper end at 95 %; the upper one is None where it lies beyond the budget."""

CLOCK_SPREAD = np.log(1.2) / stats.norm.ppf(0.975)
"""Standard deviation of log(real steps / predicted steps) beyond minibatch noise: a prior, from the
20 % error at 95 % that the paper reports on targets near the pretraining data."""


def stopping_times(trajectory: Trajectory, until: StoppingRule) -> Float[np.ndarray, " outcomes"]:
    """Steps at which training may stop, equally likely each; infinite beyond the budget.

    They span the minibatch noise between seeds and an error of the clock of the whole curve,
    lognormal with `CLOCK_SPREAD`.
    """
    quantiles = (np.arange(41) + 0.5) / 41
    factors = np.exp(CLOCK_SPREAD * stats.norm.ppf(quantiles))
    return np.concatenate([until.steps(trajectory.slowed(factor)) for factor in factors])


def predicted_steps(
    trajectory: Trajectory, until: StoppingRule
) -> tuple[float | None, Interval | None]:
    """The median number of steps over the seeds, and the 95 % interval of `stopping_times`."""
    point = float(np.median(until.steps(trajectory)))
    if not np.isfinite(point):
        return None, None
    outcomes = stopping_times(trajectory, until)
    low, high = np.quantile(outcomes, [0.025, 0.975], method="nearest")
    return point, (float(low), float(high) if np.isfinite(high) else None)
