"""Learning-rate time: steps counted by how far the learning rate lets them go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ntkpredict.progress.types import Steps

Schedule = Callable[[int], float]

_POINTS = 256


@dataclass(frozen=True)
class RateTime:
    """s(n) = Σ_{i<n} lr_i / lr_max and the relative rate, on a grid of steps.

    A decayed rate moves the trend less per step and makes less noise, whose variance goes with the
    rate (Smith and Le 2018, arXiv:1710.06451).

    Attributes:
        steps: n.
        elapsed: s(n), in steps at the largest rate.
        rates: lr_n / lr_max, in 0..1.
    """

    steps: Float[np.ndarray, " grid"]
    elapsed: Float[np.ndarray, " grid"]
    rates: Float[np.ndarray, " grid"]

    @classmethod
    def of(cls, schedule: Schedule | None, max_steps: int) -> RateTime:
        """Of a schedule (step -> learning rate) up to the budget; constant where None.

        Raises:
            ValueError: rates that are negative, not finite, or all zero.
        """
        steps = np.unique(np.linspace(0, max_steps, _POINTS).astype(int))
        if schedule is None:
            return cls(steps.astype(float), steps.astype(float), np.ones(len(steps)))
        rates = np.array([float(schedule(int(step))) for step in steps])
        if not (np.isfinite(rates).all() and (rates >= 0).all() and rates.any()):
            msg = f"schedule: got rates {rates.min()} to {rates.max()}; expected rates above 0"
            raise ValueError(msg)
        rates /= rates.max()
        pieces = np.diff(steps) * (rates[1:] + rates[:-1]) / 2
        return cls(steps.astype(float), np.concatenate([[0], np.cumsum(pieces)]), rates)

    def time(self, steps: Steps) -> Steps:
        """s(n), linear between grid points."""
        return np.interp(steps, self.steps, self.elapsed)

    def rate(self, steps: Steps) -> Steps:
        """lr_n / lr_max."""
        return np.interp(steps, self.steps, self.rates)
