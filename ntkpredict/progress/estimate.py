"""What the indicator says."""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """How far training is and how much is left.

    Attributes:
        step: steps done.
        steps: steps at which training is expected to stop: the median over simulated futures, the
            maximum before there is anything to tell from.
        steps_interval: 95 % of the futures; None before there is anything to tell from.
        mode: their half-sample mode.
        at_maximum: probability that training runs to the maximum; None like `steps_interval`.
        seconds_passed: without pauses.
        seconds: that remain; None before the speed is known.
        seconds_interval: 95 %.
        units_done: work done in U, that of one training sample; None before the speed is known.
        units: work in total.
        units_per_second: the speed.
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

    @property
    def done(self) -> float | None:
        """The share of the work that is done, in 0..1."""
        if self.units_done is None or self.units is None:
            return None
        return self.units_done / self.units
