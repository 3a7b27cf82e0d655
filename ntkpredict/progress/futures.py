"""Monte Carlo of what the metric may do next, and where that stops training."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from ntkpredict.counter import Count, Counter
from ntkpredict.progress.observed import FLOOR, Observed, Turn
from ntkpredict.progress.posterior import (
    Draws,
    Evidence,
    NoisePrior,
    Posterior,
    Prior,
    draw,
    posterior,
)
from ntkpredict.progress.schedule import RateTime
from ntkpredict.progress.shapes import Shapes
from ntkpredict.progress.types import Steps

FUTURES = 400
_BLOCK = 128
_SHORTEST = 0.05
"""Evaluations between two values, at least: at no distance they would have the same noise."""


@dataclass(frozen=True)
class Model:
    """How a metric's curve goes on: a trend, and noise with an autoregression of order 1.

    The noise has the variance σ² · level · lr/lr_max, in units of the first value: it goes with the
    learning rate as that of stochastic gradients does, and with the level as the sampling noise
    e(1 - e)/V of a small error e does. On development runs of `experiments/suite` the evidence for
    level^1 to level^2 was the largest among powers from 0 to 2.

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
        """Trends and noise that agree with what was observed."""
        return draw(self.posterior(observed), futures, random)

    def posterior(self, observed: Observed) -> Posterior:
        """Of trends and noise, given what was observed.

        No trend is quite right, so that old values tell less: their variance is √(last step / step)
        times as large. On development runs of `experiments/suite` the root told best, all in all,
        whether a run goes to its maximum.
        """
        age = np.sqrt(observed.steps[-1:] / observed.steps)
        variance = self.relative_rate(observed.steps) * observed.level * age
        unit = (self.noise.scale * observed.scale) ** 2
        gaps = np.maximum(np.diff(observed.steps, prepend=0.0) / self.every, _SHORTEST)
        evidence = Evidence(
            self.design(observed.steps),
            observed.values / observed.scale,
            variance + observed.subset_variance / unit,
            gaps,
        )
        return posterior(self._prior(), evidence, self.noise)

    def design(self, steps: Steps) -> Float[np.ndarray, "shapes points features"]:
        """Features of all the trends."""
        return np.concatenate([family.design(steps) for family in self.shapes])

    def _prior(self) -> Prior:
        parts = [w * s.weight for w, s in zip(self.weights, self.shapes, strict=True)]
        weight, counts = np.concatenate(parts), [len(part) for part in parts]
        mean = np.repeat([family.mean for family in self.shapes], counts, axis=0)
        spread = np.repeat([family.spread for family in self.shapes], counts, axis=0)
        family = np.repeat(np.arange(len(counts)), counts)
        return Prior(weight / weight.sum(), family, mean, spread)

    def relative_rate(self, steps: Steps) -> Steps:
        """lr_n / lr_max, not below what noise is worth speaking of."""
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
    apart = np.diff(evaluations[:2]) / model.every if len(evaluations) > 1 else np.ones(1)
    correlation = drawn.correlation**apart
    fresh = drawn.noise * np.sqrt(1 - correlation**2)
    noise = _last_residual(model, observed, drawn)
    count, past = count.repeat(futures), count.evaluations
    for start in range(0, len(evaluations), _BLOCK):
        block = evaluations[start : start + _BLOCK]
        trends = np.einsum("fmi,fi->mf", model.design(block)[drawn.shape], drawn.theta)
        spreads = np.sqrt(np.maximum(trends, FLOOR) * model.relative_rate(block)[:, None])
        for trend, spread, new in zip(
            trends, spreads, random.normal(size=trends.shape), strict=True
        ):
            noise = correlation * noise + fresh * new
            values = observed.scale * np.maximum(trend + spread * noise, 0.0)
            count = counter.update(count, turn.back(values))
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
    spread = np.sqrt(observed.level[-1] * model.relative_rate(last)[0])
    return (observed.values[-1] / observed.scale - trend) / spread
