"""Where training may stop, as simulated futures have it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ntkpredict.progress.estimate import Range
from ntkpredict.progress.mode import half_sample_mode

SHARE = 0.95
"""Of the outcomes, in an interval."""

_PATIENCE_POWER = 2 / 3
_MOST_PATIENCE = 10


@dataclass(frozen=True)
class Outcomes:
    """Steps at which training may stop, equally likely each.

    Attributes:
        stops: those, increasing; at least one.
        limit: the maximum.
    """

    stops: Float[np.ndarray, " outcomes"]
    limit: int

    @classmethod
    def of(cls, stops: Float[np.ndarray, " futures"], limit: int, patience: int) -> Outcomes:
        """Of simulated futures, with patience^⅔ times the odds that they give to the maximum.

        No future is quite like a run, and the longer a rule waits, the likelier does a run improve
        again where its futures do not. The power was chosen by the logarithmic score of
        `at_limit` on development runs of `experiments/suite`, with patience up to 10, as which
        more counts.

        Args:
            stops: of the futures, infinite where they go on beyond the maximum.
            limit: the maximum.
            patience: of the rule, evaluations; 0 where it does not wait.
        """
        stops = np.minimum(stops, float(limit))
        odds = max(min(patience, _MOST_PATIENCE), 1) ** _PATIENCE_POWER
        more = round((odds - 1) * np.count_nonzero(stops == limit))
        return cls(np.sort(np.append(stops, np.full(more, float(limit)))), limit)

    def after(self, step: int) -> Outcomes:
        """Those that are still to come; the next step where there are none."""
        rest = self.stops[self.stops > step]
        return Outcomes(rest if len(rest) else np.array([step + 1.0]), self.limit)

    @property
    def median(self) -> float:
        """From which the mean distance to the outcomes is the least."""
        return float(np.median(self.stops))

    @property
    def mode(self) -> float:
        """Half-sample mode."""
        return half_sample_mode(self.stops)

    @property
    def interval(self) -> Range:
        """The shortest that holds 95 % of them; of equals the middle one.

        Nothing comes after the maximum nor before the next evaluation, so that an interval which
        leaves 2.5 % out at either end would hold more than 95 % wherever it ends there.
        """
        count = int(np.ceil(SHARE * len(self.stops)))
        lows, highs = self.stops[: len(self.stops) - count + 1], self.stops[count - 1 :]
        shortest = np.flatnonzero(highs - lows == (highs - lows).min())
        middle = shortest[len(shortest) // 2]
        return float(lows[middle]), float(highs[middle])

    @property
    def at_limit(self) -> float:
        """The probability that training runs to the maximum."""
        return float((self.stops >= self.limit).mean())
