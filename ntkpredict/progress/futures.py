"""Monte Carlo of what the metric may do next, and where that stops training."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.signal import lfilter

from ntkpredict.counter import Count, Counter
from ntkpredict.progress.observed import FLOOR, Observed, Turn
from ntkpredict.progress.posterior import Draws, Evidence, NoisePrior, Prior, draw, posterior
from ntkpredict.progress.schedule import RateTime
from ntkpredict.progress.shapes import Shapes

Steps = Float[np.ndarray, " points"]

FUTURES = 400
_BLOCK = 128


@dataclass(frozen=True)
class Model:
    """How a metric's curve goes on.

    Attributes:
        shapes: families of trends.
        weights: their prior probabilities.
        time: learning-rate time.
        every: steps between evaluations.
        noise: what earlier runs tell of the noise.
    """

    shapes: tuple[Shapes, ...]
    weights: tuple[float, ...]
    time: RateTime
    every: float
    noise: NoisePrior = field(default_factory=NoisePrior)

    def draws(self, observed: Observed, futures: int, random: np.random.Generator) -> Draws:
        """Trends and noise that agree with what was observed.

        No trend is quite right, so that old values tell less: their variance is last step / step
        times as large.
        """
        age = observed.steps[-1:] / observed.steps
        variance = self._rate(observed.steps) * observed.level * age
        unit = (self.noise.scale * observed.scale) ** 2
        gaps = np.diff(observed.steps, prepend=0.0) / self.every
        evidence = Evidence(
            self.design(observed.steps),
            observed.values / observed.scale,
            variance + observed.subset_variance / unit,
            gaps,
        )
        return draw(posterior(self._prior(), evidence, self.noise), futures, random)

    def design(self, steps: Steps) -> Float[np.ndarray, "shapes points features"]:
        """Features of all the trends."""
        return np.concatenate([family.design(steps) for family in self.shapes])

    def _prior(self) -> Prior:
        parts = [w * s.weight for w, s in zip(self.weights, self.shapes, strict=True)]
        weight, counts = np.concatenate(parts), [len(part) for part in parts]
        mean = np.repeat([family.mean for family in self.shapes], counts, axis=0)
        spread = np.repeat([family.spread for family in self.shapes], counts, axis=0)
        return Prior(weight / weight.sum(), mean, spread)

    def _rate(self, steps: Steps) -> Steps:
        return np.maximum(self.time.rate(steps), FLOOR)


def stopping_steps(
    model: Model,
    observed: Observed,
    counter: Counter,
    count: Count,
    evaluations: Steps,
    turn: Turn,
    random: np.random.Generator,
    futures: int = FUTURES,
) -> Float[np.ndarray, " futures"]:
    """Where each simulated future stops; infinite where none of the evaluations stops it.

    Args:
        model: how the curve goes on.
        observed: the values so far.
        counter: the rule.
        count: where it stands, one run.
        evaluations: the steps still to come at which the rule looks.
        turn: how the values were turned.
        random: the generator.
        futures: how many.
    """
    drawn = model.draws(observed, futures, random)
    if len(evaluations) > 1:  # values farther apart have less to do with each other
        apart = (evaluations[1] - evaluations[0]) / model.every
        drawn = drawn._replace(correlation=drawn.correlation**apart)
    residual = _last_residual(model, observed, drawn)
    count, past = count.repeat(futures), count.evaluations
    for start in range(0, len(evaluations), _BLOCK):
        block = evaluations[start : start + _BLOCK]
        trend = np.einsum("fmi,fi->fm", model.design(block)[drawn.shape], drawn.theta)
        noise, residual = _noise(drawn, residual, len(block), random)
        level = np.maximum(trend, FLOOR) * model._rate(block)
        values = observed.scale * np.maximum(trend + np.sqrt(level) * noise, 0.0)
        for column in turn.back(values).T:
            count = counter.update(count, column)
        if count.stopped.all():
            break
    steps = np.insert(evaluations, 0, np.inf)
    return steps[np.where(count.stopped > 0, count.stopped - past, 0)]


def _last_residual(model: Model, observed: Observed, drawn: Draws) -> Float[np.ndarray, " futures"]:
    """Of the last value from each trend, where noise has unit variance but for σ."""
    if len(observed.steps) == 0:
        return np.zeros(len(drawn.noise))
    last = observed.steps[-1:]
    trend = np.einsum("fi,fi->f", model.design(last)[drawn.shape, 0], drawn.theta)
    spread = np.sqrt(observed.level[-1] * model._rate(last)[0])
    return (observed.values[-1] / observed.scale - trend) / spread


def _noise(
    drawn: Draws, before: Float[np.ndarray, " futures"], count: int, random: np.random.Generator
) -> tuple[Float[np.ndarray, "futures evaluations"], Float[np.ndarray, " futures"]]:
    """Noise of an autoregression of order 1, and its last value, to go on from."""
    noise = random.normal(size=(len(before), count))
    noise *= (drawn.noise * np.sqrt(1 - drawn.correlation**2))[:, None]
    for phi in np.unique(drawn.correlation):
        rows = drawn.correlation == phi
        start = phi * before[rows, None]
        noise[rows] = lfilter([1.0], [1.0, -phi], noise[rows], axis=1, zi=start)[0]
    return noise, noise[:, -1]
