"""How noisy validation curves are, from the runs that are kept.

Each run gives a posterior of its noise under the prior that is shipped. The logarithms of the
variances, whose mean and variance an inverse gamma distribution has in closed form, are matched
(empirical Bayes); what is shipped counts as `_WORTH` runs.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

from ntkpredict.history import History, Record
from ntkpredict.progress.futures import Model
from ntkpredict.progress.observed import Observed, Turn
from ntkpredict.progress.posterior import SHIPPED, NoisePrior
from ntkpredict.progress.schedule import RateTime
from ntkpredict.progress.shapes import PowerLaws
from ntkpredict.record import to_trajectory

FEWEST_VALUES = 8
"""Of a curve that tells of its noise."""

LATEST = 400
"""Records of a history that are looked at."""

_WORTH = 4.0
_FREEDOM = (0.5, 50.0)


class Noise(NamedTuple):
    """Of one run.

    Attributes:
        log_variance: the mean of ln σ².
        correlations: probabilities of the prior's correlations.
    """

    log_variance: float
    correlations: Float[np.ndarray, " correlations"]


def noise_prior(history: History | None) -> NoisePrior:
    """What a history's real runs, imported ones too, tell of the noise of the next.

    Without any it is what is shipped; a history that cannot be read is a warning.
    """
    if history is None:
        return SHIPPED
    try:
        records = history.records(latest=LATEST)
    except OSError as error:
        warnings.warn(f"no noise prior from own runs: {error}", stacklevel=2)
        return SHIPPED
    found = [noise for record in records if (noise := _noise(record)) is not None]
    return pooled(found) if found else SHIPPED


def pooled(runs: list[Noise], shipped: NoisePrior = SHIPPED) -> NoisePrior:
    """The prior whose ln σ² has the mean and the variance of these runs and the shipped prior."""
    logs = np.array([run.log_variance for run in runs])
    half = shipped.freedom / 2
    usual = np.log(half * shipped.scale**2) - digamma(half)
    total = _WORTH + len(logs)
    mean = (_WORTH * usual + logs.sum()) / total
    between = (_WORTH * (usual - mean) ** 2 + ((logs - mean) ** 2).sum()) / total
    variance = between + _WORTH / total * polygamma(1, half)
    low, high = (float(polygamma(1, freedom / 2)) for freedom in _FREEDOM[::-1])
    wanted = float(np.clip(variance, low, high))
    freedom = float(brentq(lambda nu: polygamma(1, nu / 2) - wanted, *_FREEDOM))
    scale = float(np.exp((mean + digamma(freedom / 2) - np.log(freedom / 2)) / 2))
    weights = (_WORTH * np.array(shipped.weights) + sum(run.correlations for run in runs)) / total
    return NoisePrior(scale, freedom, shipped.correlations, tuple(weights.tolist()))


def _noise(record: Record) -> Noise | None:
    """Of a run's validation loss, or of its accuracy where there is none."""
    if record.kind != "run":
        return None
    try:
        trajectory = to_trajectory(record.result["trajectory"])
    except (KeyError, TypeError, ValueError):  # of another version
        return None
    if trajectory.validation is None:
        return None
    for row, turn in (
        (trajectory.validation.loss[0], Turn()),
        (trajectory.validation.accuracy[0], Turn(-1.0, 1.0)),
    ):
        there = np.isfinite(row) & (trajectory.steps > 0)
        if there.sum() >= FEWEST_VALUES:
            steps = trajectory.steps[there].astype(float)
            return _of_curve(Observed.of(steps, turn.of_values(row[there])))
    return None


def _of_curve(observed: Observed) -> Noise:
    every = float(np.median(np.diff(observed.steps)))
    time = RateTime.of(None, int(observed.steps[-1]))
    model = Model((PowerLaws(time, every),), (1.0,), time, every)
    found = model.posterior(observed)
    sigma = found.probability.sum(axis=(0, 1))
    return Noise(
        log_variance=float(sigma @ np.log(found.noises**2)),
        correlations=found.probability.sum(axis=(0, 2)),
    )
