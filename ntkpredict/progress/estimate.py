"""What the indicator says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ntkpredict.progress.work import Pieces

Range = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """How far training is and how much is left.

    Attributes:
        step: steps done.
        steps: steps at which training is expected to stop: the median over simulated futures, the
            maximum before there is anything to tell from.
        steps_interval: the shortest that holds 95 % of the futures; None before there is anything
            to tell from.
        mode: their half-sample mode.
        at_maximum: probability that training runs to the maximum; None like `steps_interval`.
        seconds_passed: without pauses.
        seconds: that remain; None before the speed is known.
        seconds_interval: 95 %.
        units_done: work done in U, that of one training sample; None before the speed is known.
        units: work in total.
        units_per_second: the speed.
        pace: seconds of a piece of each kind of work, over a sliding window; None like `units`.
        shares: of the time in that window, by kind of work; empty where none was done.
        price: of the whole run, in the currency of `price_per_hour`; None without that.
    """

    step: int
    steps: float
    steps_interval: Range | None
    mode: float
    at_maximum: float | None
    seconds_passed: float
    seconds: float | None
    seconds_interval: Range | None
    units_done: float | None
    units: float | None
    units_per_second: float | None
    price: float | None
    pace: Pieces | None
    shares: Mapping[str, float]

    @property
    def done(self) -> float | None:
        """The share of the work that is done, in 0..1."""
        if self.units_done is None or self.units is None:
            return None
        return self.units_done / self.units
