"""The best metric of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ntkpredict.stopping.metric import Metric, On, check_metric, check_split
from ntkpredict.stopping.rule import Steps, StoppingRule
from sde import Trajectory


@dataclass(frozen=True)
class Best(StoppingRule):
    """The step of the best metric within the budget; known in hindsight only.

    It is the first of equals and 0 where training only makes things worse; what is not a number
    is passed over.

    Attributes:
        on: ``"train"`` or ``"validation"``.
        metric: ``"loss"``, the least, or ``"accuracy"``, the greatest.
    """

    on: On = "validation"
    metric: Metric = "loss"

    def __post_init__(self) -> None:
        check_split(self.on)
        check_metric(self.metric)

    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:
        """That step, on the grid."""
        values = _falling(trajectory, self.on, self.metric)
        if not complete:
            return np.full(len(values), np.inf)
        values = np.where(np.isnan(values), np.inf, values)
        best = trajectory.steps[values.argmin(axis=1)]
        return np.where(values.min(axis=1) < np.inf, best, np.inf)

    def __str__(self) -> str:
        return f"best_{self.on}_{self.metric}"


def _falling(trajectory: Trajectory, on: On, metric: Metric) -> Float[np.ndarray, "seeds grid"]:
    """A metric's curves, turned so that they fall where training goes well."""
    curve = trajectory.curve(on)
    return curve.loss if metric == "loss" else -curve.accuracy
