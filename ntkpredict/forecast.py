"""The answer: how many steps, how many seconds, how sure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ntkpredict.cost import CostModel
from ntkpredict.interval import Interval
from ntkpredict.record import (
    read,
    to_interval,
    to_outcomes,
    to_plain,
    to_stability,
    to_trajectory,
    write,
)
from ntkpredict.validity import Validity
from sde import Stability, Trajectory

FORMAT = 8


@dataclass(frozen=True)
class Forecast:
    """How long training will take.

    Attributes:
        steps: the median over the simulated runs; None where the target is not reached.
        steps_interval: 95 %; the upper end is None where it lies beyond the budget.
        stopping_times: steps at which training may stop, equally likely each; infinite beyond the
            budget.
        seconds: on this machine, with compiling and a validation pass an epoch; None like `steps`.
        seconds_interval: 95 %, like `steps_interval`.
        reason: why there is no number, and the loss to expect instead; None where there is one.
        trajectory: the predicted curves, one row a simulated run (an expectation: one row). Where
            a target on the training samples is all that counts, they are followed well beyond it,
            to where a note says, and their last values are repeated from there on.
        stability: the largest stable learning rate and the noise of minibatches, at the start; None
            where no rule is known for the optimizer.
        spectrum: the eigenvalues of the tangent kernel, at the start or where first steps that
            are trained for real lead (see `ntkpredict.opening`), over the number of samples,
            largest first, on as many samples as have about 512 of them; with the coordinates as
            the optimizer scales them where it is of the Adam family.
        validity: how far to trust it.
        cost: what a step costs on this machine.
        network: the network's name.
        data: the data's name.
        plan: the plan in one line.
        until: the stopping rule, as `parse` reads it.
        mode: of linearisation.
        kernel: ``"growing"`` or ``"frozen"``.
        solver: of the training of the tangent model.
        samples: how many training samples the forecast looked at.
        forecast_seconds: what the forecast itself cost, by phase.
        notes: what to keep in mind.
        versions: of the libraries that made it.
    """

    steps: float | None
    steps_interval: Interval | None
    stopping_times: Float[np.ndarray, " outcomes"]
    seconds: float | None
    seconds_interval: Interval | None
    reason: str | None
    trajectory: Trajectory
    stability: Stability | None
    spectrum: Float[np.ndarray, " modes"]
    validity: Validity
    cost: CostModel
    network: str
    data: str
    plan: str
    until: str
    mode: str
    kernel: str
    solver: str
    samples: int
    forecast_seconds: dict[str, float]
    notes: tuple[str, ...]
    versions: dict[str, str]

    def probability(self, steps: int | float) -> float:
        """That training has stopped by then, in 0..1."""
        return float((self.stopping_times <= steps).mean())

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; numbers that are not finite become None."""
        return {"format": FORMAT, **to_plain(self)}

    def save(self, path: str | Path) -> None:
        """Write the forecast as JSON."""
        write(path, self.to_dict())

    @staticmethod
    def load(path: str | Path) -> Forecast:
        """Read a forecast that `save` wrote.

        Raises:
            ValueError: not a forecast, damaged, or written by another version.
        """
        return read(path, "forecast", FORMAT, _from_dict)


def _from_dict(content: dict[str, Any]) -> Forecast:
    return Forecast(
        **{
            **content,
            "steps_interval": to_interval(content["steps_interval"]),
            "stopping_times": to_outcomes(content["stopping_times"]),
            "seconds_interval": to_interval(content["seconds_interval"]),
            "trajectory": to_trajectory(content["trajectory"]),
            "stability": to_stability(content["stability"]),
            "spectrum": np.array(content["spectrum"], float),
            "validity": Validity.from_dict(content["validity"]),
            "cost": CostModel.from_dict(content["cost"]),
            "notes": tuple(content["notes"]),
        }
    )
