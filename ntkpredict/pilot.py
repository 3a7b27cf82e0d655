"""The first steps of the run, trained for real, set the clock of its forecast.

What a forecast gets wrong is mostly how fast training goes. The losses of the first minibatches
tell whether its clock c is right: the curve expected at step t should be real at t / c. Let
ln c ~ N(0, 0.3²) at first, as far as forecasts are off, and each quarter of the pilot have a mean
loss that is off by its own noise and by another 20 %, which is the shape of the curve. The mean of
ln c given these losses is the clock of the pilot's steps, and half of it that of the steps after:
some of what makes training fast or slow is gone by then. The three constants were chosen on the
development runs of `experiments/suite`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import median_abs_deviation

from linearize.types import Progress
from ntkpredict.plan import Plan
from ntkpredict.step import TrainingStep
from sde import Trajectory, minibatch_order

_PRIOR = 0.3
"""Standard deviation of ln c before anything is seen."""

_SHAPE = 0.2
"""What a curve of the right clock is off by, in ln loss."""

_PERSISTENCE = 0.5
"""The share of ln c that holds after the pilot."""

_PARTS = 4

_LOG_CLOCKS = np.linspace(-5 * _PRIOR, 5 * _PRIOR, 161)


@dataclass(frozen=True)
class Pilot:
    """The first steps of a run, trained for real.

    Attributes:
        batch_loss: of each step's minibatch, before the step.
        clock: c, how many times as fast as expected training went.
    """

    batch_loss: Float[np.ndarray, " steps"]
    clock: float

    @classmethod
    def of(cls, batch_loss: Float[np.ndarray, " steps"], expected: Trajectory) -> Pilot:
        """What losses say of the clock of the curves that were expected.

        Args:
            batch_loss: of the first steps.
            expected: the predicted curves, one row a simulated run.
        """
        return cls(batch_loss, float(np.exp(_log_clock(batch_loss, expected))))

    @staticmethod
    def from_dict(content: dict[str, Any]) -> Pilot:
        """From what `to_plain` made of one."""
        return Pilot(np.array(content["batch_loss"], float), float(content["clock"]))

    @property
    def steps(self) -> int:
        """How many were trained."""
        return len(self.batch_loss)

    def corrected(self, expected: Trajectory) -> Trajectory:
        """The predicted curves by the clock that the pilot has set."""
        within = np.minimum(expected.steps, self.steps)
        later = self.clock**_PERSISTENCE * (expected.steps - within)
        return expected.at(self.clock * within + later)


def train_pilot(
    step: TrainingStep, samples: int, plan: Plan, steps: int, progress: Progress
) -> Float[np.ndarray, " steps"]:
    """Losses of a run's first minibatches, each before its step.

    Args:
        step: of the run.
        samples: N.
        plan: the plan.
        steps: how many to train.
        progress: called with (steps done, steps in all).
    """
    state, losses = step.initial(), []
    for index in minibatch_order(samples, plan.batch_size, steps, plan.seed):
        state, loss = step(state, index)
        losses.append(float(loss))
        progress(len(losses), steps)
    return np.array(losses)


def _log_clock(batch_loss: Float[np.ndarray, " steps"], expected: Trajectory) -> float:
    """The posterior mean of ln c; 0 where losses are not finite or not above zero."""
    curve = np.median(expected.train.loss, axis=0)
    if not (np.isfinite(batch_loss).all() and np.isfinite(curve).all() and curve.min() > 0):
        return 0.0
    steps = np.arange(len(batch_loss))
    times = np.exp(_LOG_CLOCKS)[:, None] * steps
    losses = np.exp(np.interp(times, expected.steps, np.log(curve)))
    noise = _noise(batch_loss)
    surprise = (_LOG_CLOCKS / _PRIOR) ** 2
    for part in np.array_split(steps, min(_PARTS, len(steps))):
        seen = batch_loss[part].mean()
        if seen <= 0:
            return 0.0
        spread = noise**2 / len(part) / seen**2 + _SHAPE**2
        surprise += np.log(losses[:, part].mean(axis=1) / seen) ** 2 / spread
    weights = np.exp((surprise.min() - surprise) / 2)
    return float(weights @ _LOG_CLOCKS / weights.sum())


def _noise(losses: Float[np.ndarray, " steps"]) -> float:
    """The standard deviation of one loss, from neighbours, and robust, as curves begin steeply."""
    if len(losses) < 3:
        return float(losses.max())
    return float(median_abs_deviation(np.diff(losses), scale="normal") / np.sqrt(2))
