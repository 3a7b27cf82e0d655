"""The training that one plan would do, simulated as far as its forecast reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from linearize.types import Progress
from ntkpredict.calibration import Calibration
from ntkpredict.interval import horizon
from ntkpredict.start import Start
from ntkpredict.stopping import StoppingRule, TargetLoss
from ntkpredict.sweep import PlanSweep, Simulated
from ntkpredict.validity import TENTH
from sde import Problem, Replay, Solver, Trajectory


@dataclass(frozen=True)
class Follower:
    """Curves go on to where neither the interval nor the figures of a forecast read them.

    Attributes:
        start: where the forecast goes on from.
        problem: the start's, with the kernel's growth if it grows.
        solver: of the problem.
        until: the stopping rule.
        calibration: what the interval is told from.
        samples: N, in all.
    """

    start: Start
    problem: Problem
    solver: Solver
    until: StoppingRule
    calibration: Calibration
    samples: int

    def follow(self, progress: Progress) -> Simulated:
        """The curves, to the end of the budget by any solver but `Replay`.

        Args:
            progress: called with (steps done, steps in all).
        """
        simulation, pretrained = self.start.simulation, self.start.pretrained
        plan = replace(simulation.plan, optimizer=self.problem.optimizer)
        if isinstance(self.solver, Replay):
            sweep = PlanSweep(simulation, self.samples, self.until)
            members, limit = [(plan, self.start.stable)], plan.max_steps
            (found,) = sweep.side_by_side(self.problem, members, limit, self._horizon, progress)
            return found.since(pretrained)
        curves = simulation.whole(simulation.solve(self.solver, self.problem, progress))
        signals = simulation.signals(self.problem, curves, None, pretrained)
        return Simulated(plan, curves, len(curves.steps), False, pretrained, signals)

    def _horizon(self, stop: float, curves: Trajectory, frozen: Trajectory | None) -> float:
        """Milestones are read down to a tenth of the initial loss, and validation at the stop.

        The latter is read off the frozen kernel's curves where their training loss is the same.
        """
        stop = max(stop, float(TargetLoss(relative=TENTH).steps(curves).max()))
        if frozen is not None and curves.validation is not None:
            least = np.interp(stop, curves.steps, np.median(curves.train.loss, axis=0))
            if not frozen.train.loss.min() <= least:
                return np.inf
        start = self.start
        signals = start.simulation.signals(self.problem, curves, frozen, start.pretrained)
        told = self.calibration.validity(signals)
        return horizon(stop, told.clock, told.shift)
