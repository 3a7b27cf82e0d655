"""Extra validation points on subsets, early in the run, for the fit of the curve alone.

Points between the user's own make the trend known sooner (Dong, Zhang and Luo 2022,
doi:10.1109/access.2022.3181493). They are dense at first and fewer later, and cost no more than a
share of the time that training took.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Evaluate = Callable[[int], float]
"""The value of the metric that the rule looks at, on so many random validation samples."""


@dataclass(frozen=True)
class ExtraPoints:
    """How many extra points, and on how many samples.

    Attributes:
        budget: their share of the time passed, in 0..1.
        first: points before the user's first evaluation.
        decay: of that number, from one evaluation to the next.
        least: samples of a point; fewer tell nothing.
    """

    budget: float = 0.01
    first: int = 4
    decay: float = 0.7
    least: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.budget < 1:
            msg = f"budget: got {self.budget}; expected a share of the time in [0, 1)"
            raise ValueError(msg)

    def due(self, step: int, last: int, every: float) -> bool:
        """Whether it is time for a point, so many steps after the last value of any kind."""
        evaluations = int(step // every)
        count = round(self.first * self.decay**evaluations)
        return count > 0 and step - last >= every / (count + 1) and step % every != 0

    def samples(
        self, seconds_passed: float, seconds_spent: float, seconds_per_sample: float, most: int
    ) -> int:
        """As many as the budget allows; 0 where these are too few.

        Args:
            seconds_passed: since the start of training.
            seconds_spent: of these on extra points.
            seconds_per_sample: of validation.
            most: validation samples that there are.
        """
        allowed = (self.budget * seconds_passed - seconds_spent) / max(seconds_per_sample, 1e-12)
        count = min(int(max(allowed, 0)), most)
        return count if count >= min(self.least, most) else 0
