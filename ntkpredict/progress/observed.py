"""A metric's values so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ntkpredict.counter import Mode
from ntkpredict.progress.types import Steps

_MOST = 300
HUGE = 1e100
"""As good as infinite: squares must not overflow."""

FLOOR = 0.02
"""Of levels and relative rates, whose noise would vanish."""


@dataclass(frozen=True)
class Observed:
    """Values at some steps, turned so that they fall where training goes well.

    Attributes:
        steps: at which they were taken, increasing.
        values: one each, finite.
        subset_variance: of each value, for having been taken on some of the validation samples
            only; 0 on all of them.
        scale: what values are counted in: the first one.
    """

    steps: Steps
    values: Steps
    subset_variance: Steps
    scale: float

    @classmethod
    def of(
        cls,
        steps: Steps,
        values: Steps,
        subset_variance: Steps | None = None,
        scale: float | None = None,
    ) -> Observed:
        """In the order of their steps, without what is not finite, thinned out where many.

        Without any value, or where the first one is 0, the scale is 1 unless it is given.
        """
        extra = np.zeros(len(values)) if subset_variance is None else subset_variance
        order = np.argsort(steps, kind="stable")
        usable = (np.abs(values) < HUGE) & (steps > 0)
        order = order[usable[order]]
        if len(order) > _MOST:
            order = order[np.linspace(0, len(order) - 1, _MOST).astype(int)]
        if len(order) and values[order[0]] != 0:
            scale = float(abs(values[order[0]]))
        return cls(steps[order], values[order], extra[order], scale or 1.0)

    @property
    def level(self) -> Steps:
        """The least value up to each point over the first one, not below a fiftieth."""
        return np.maximum(np.minimum.accumulate(self.values) / self.scale, FLOOR)


class Turn(NamedTuple):
    """How a metric is turned so that it falls towards 0: y = sign · (value - best).

    Attributes:
        sign: 1 where smaller values are better, else -1.
        best: the best value there can be.
    """

    sign: float = 1.0
    best: float = 0.0

    @classmethod
    def of(cls, mode: Mode, values: Steps) -> Turn:
        """Losses end at 0 and accuracies at 1, or 100 where they are percents; else a guess."""
        finite = values[np.isfinite(values)]
        low, high = finite.min(initial=0.0), finite.max(initial=0.0)
        if mode == "min":
            return cls(1.0, 0.0 if low >= 0 else 2 * low - high)
        return cls(-1.0, 1.0 if high <= 1 else 100.0 if high <= 100 else 2 * high - low)

    def of_values(self, values: np.ndarray) -> np.ndarray:
        """Turned."""
        return self.sign * (values - self.best)

    def back(self, turned: np.ndarray) -> np.ndarray:
        """As the metric has them."""
        return self.best + self.sign * turned
