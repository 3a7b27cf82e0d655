"""What a validation curve may look like: trends, each linear in a few coefficients."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ntkpredict.progress.schedule import RateTime
from ntkpredict.progress.types import Steps

Design = Float[np.ndarray, "shapes points features"]

FEATURES = 3
_CLOCKS = 15


class Shapes(abc.ABC):
    """Trends e(n) = features(n) · θ, with a Gaussian prior over θ in units of the first value.

    The priors were chosen on the development runs of `experiments/suite`.

    Attributes:
        mean: of the prior.
        spread: its standard deviations; the coefficients are independent of each other.
    """

    mean: tuple[float, float, float]
    spread: tuple[float, float, float]

    @property
    @abc.abstractmethod
    def weight(self) -> Float[np.ndarray, " shapes"]:
        """Prior probability of each trend."""

    @abc.abstractmethod
    def design(self, steps: Steps) -> Design:
        """Each trend's features at these steps."""


@dataclass(frozen=True)
class PowerLaws(Shapes):
    """e(n) = c + a·((u + d)/(1 + d))^-b + r·u/U, with u learning-rate time in evaluations.

    b and d span a grid; d delays the fall, and turns the power law into an exponential where it
    is large. r, with U the budget, lets the curve rise again where a network over-fits, which
    c + a·u^-b cannot.

    Attributes:
        time: learning-rate time.
        every: steps between evaluations.
    """

    time: RateTime
    every: float

    mean = (0.3, 0.7, 0.0)
    spread = (0.3, 0.3, 0.1)
    exponents = tuple(np.geomspace(0.15, 12.0, 16))
    delays = (1.0, 4.0, 16.0, 64.0)
    delay_weights = (0.1, 0.1, 0.3, 0.5)

    @property
    def weight(self) -> Float[np.ndarray, " shapes"]:
        """By delay; exponents are equally likely."""
        count = len(self.exponents)
        return np.repeat(self.delay_weights, count) / count

    def design(self, steps: Steps) -> Design:
        """Features 1, the fall and the rise."""
        unit = max(float(self.time.time(np.array([self.every]))[0]), 1e-9)
        u = np.maximum(self.time.time(steps) / unit, 0.05)
        b, d = (axis.reshape(-1, 1) for axis in np.meshgrid(self.exponents, self.delays))
        fall = np.minimum(((u + d) / (1 + d)) ** -b, 20.0)
        rise = np.broadcast_to(u * unit / self.time.elapsed[-1], fall.shape)
        return np.stack([np.ones_like(fall), fall, rise], axis=2)


@dataclass(frozen=True)
class Expected(Shapes):
    """A forecast's curves, on clocks faster and slower, at about the height that it says.

    Beyond its end a curve goes on as in its last third, in the logarithm of steps.

    Attributes:
        steps: the forecast's grid.
        curves: one row a simulated run, over the scale of the values.
        clock: ln(real / predicted) steps, equally likely each.
        origin: the step at which the forecast begins.
        before: the steps up to there, and a curve at them, over the scale of the values.
    """

    steps: Steps
    curves: Float[np.ndarray, "runs grid"]
    clock: Float[np.ndarray, " outcomes"]
    origin: float = 0.0
    before: tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"]] | None = None

    mean = (0.0, 1.0, 0.0)
    spread = (0.15, 0.3, 0.2)

    @property
    def weight(self) -> Float[np.ndarray, " shapes"]:
        """All the same."""
        count = len(self.curves) * _CLOCKS
        return np.full(count, 1 / count)

    def design(self, steps: Steps) -> Design:
        """Features 1, the curve and a slow rise."""
        probabilities = (np.arange(_CLOCKS) + 0.5) / _CLOCKS
        factors = np.exp(np.quantile(self.clock, probabilities))
        since = np.maximum(steps - self.origin, 0.0)
        told = since / factors[:, None]
        end = self.steps[-1]
        beyond = np.log(np.maximum(told / end, 1.0)) / np.log(1.5)
        rows = [
            np.interp(told, self.steps, row)
            + beyond * (row[-1] - np.interp(end / 1.5, self.steps, row))
            for row in self.curves
        ]
        curve = np.concatenate(rows)
        if self.before is not None:
            curve = np.where(steps <= self.origin, np.interp(steps, *self.before), curve)
        rise = np.broadcast_to(since / end, curve.shape)
        return np.stack([np.ones_like(curve), curve, rise], axis=2)
