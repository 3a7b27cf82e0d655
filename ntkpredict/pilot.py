"""The first steps of the run, trained for real: what is known there, and what comes after.

As far as they go, the curves are the real ones. Then the predicted ones go on from where their
training loss was the same, at the speed that they have there: how much faster or slower than
expected these steps went tells nothing of later ones (`experiments/suite/TRIED.md`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ntkpredict.record import to_trajectory
from sde import Trajectory


@dataclass(frozen=True)
class Pilot:
    """The first steps of a run, trained for real.

    Attributes:
        trajectory: their curves, one row.
        clock: how many times as fast as expected they went.
    """

    trajectory: Trajectory
    clock: float

    @classmethod
    def of(cls, trajectory: Trajectory, expected: Trajectory) -> Pilot:
        """From the curves of the first steps.

        Args:
            trajectory: real ones, one row.
            expected: the predicted curves, one row a simulated run.
        """
        return cls(trajectory, _time(trajectory, expected) / int(trajectory.steps[-1]))

    @staticmethod
    def from_dict(content: dict[str, Any]) -> Pilot:
        """From what `to_plain` made of one."""
        return Pilot(to_trajectory(content["trajectory"]), float(content["clock"]))

    @property
    def steps(self) -> int:
        """How many were trained."""
        return int(self.trajectory.steps[-1])

    def corrected(self, expected: Trajectory) -> Trajectory:
        """The predicted curves, where they begin with those that are known now.

        A run that has lost its weights does not find them again.
        """
        later = expected.steps[expected.steps > self.steps]
        steps = np.concatenate([self.trajectory.steps, later])
        if not np.isfinite(self.trajectory.train.loss[:, -1]).all():
            return self.trajectory.at(steps, steps)
        times = self.clock * self.steps + np.maximum(steps - self.steps, 0)
        return expected.at(times, steps).beginning(self.trajectory)


def _time(real: Trajectory, expected: Trajectory) -> float:
    """When the expected training loss is as the real one in the end.

    Where it is so several times, the one that is the nearest; where it never is, when it is least
    off; the real time where it is not finite.
    """
    steps, end = expected.steps, int(real.steps[-1])
    off = np.median(expected.train.loss, axis=0) - real.train.loss[0, -1]
    if not np.isfinite(off).all():
        return float(end)
    here = np.flatnonzero(off[:-1] * off[1:] <= 0)
    if not len(here):
        return float(steps[np.abs(off).argmin()])
    fall = off[here] - off[here + 1]
    share = np.divide(off[here], fall, out=np.zeros_like(fall), where=fall != 0)
    times = steps[here] + share * (steps[here + 1] - steps[here])
    return float(times[np.abs(times - end).argmin()])
