"""The training that one plan would do, simulated as far as its forecast reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from linearize.types import Progress
from ntkpredict.calibration import Calibration
from ntkpredict.interval import horizon
from ntkpredict.simulation import Simulation
from ntkpredict.stopping import StoppingRule, TargetLoss
from ntkpredict.sweep import PlanSweep, Simulated
from ntkpredict.validity import TENTH
from sde import Problem, Replay, Solver, Stability, Trajectory


@dataclass(frozen=True)
class Follower:
    """Curves go on to where neither the interval nor the figures of a forecast read them.

    Attributes:
        simulation: of the plan.
        problem: the simulation's, with the kernel's growth if it grows.
        stable: the problem's `stability`.
        first: that at the start of the run, where an opening leads away from it.
        until: the stopping rule.
        calibration: what the interval is told from.
        samples: N, in all.
    """

    simulation: Simulation
    problem: Problem
    stable: Stability | None
    first: Stability | None
    until: StoppingRule
    calibration: Calibration
    samples: int

    def follow(self, solver: Solver, progress: Progress) -> Simulated:
        """The curves, to the end of the budget by any solver but `Replay`.

        Args:
            solver: of the problem.
            progress: called with (steps done, steps in all).
        """
        plan = replace(self.simulation.plan, optimizer=self.problem.optimizer)
        if isinstance(solver, Replay):
            sweep = PlanSweep(self.simulation, self.samples, self.until)
            members, limit = [(plan, self.stable)], plan.max_steps
            (found,) = sweep.side_by_side(self.problem, members, limit, self._horizon, progress)
            return found.since(self.first)
        curves = self.simulation.whole(self.simulation.solve(solver, self.problem, progress))
        signals = self.simulation.signals(self.problem, curves, None, self.first)
        return Simulated(plan, curves, len(curves.steps), False, self.first, signals)

    def _horizon(self, stop: float, curves: Trajectory, frozen: Trajectory | None) -> float:
        """Milestones are read down to a tenth of the initial loss, and validation at the stop.

        The latter is read off the frozen kernel's curves where their training loss is the same.
        """
        stop = max(stop, float(TargetLoss(relative=TENTH).steps(curves).max()))
        if frozen is not None and curves.validation is not None:
            least = np.interp(stop, curves.steps, np.median(curves.train.loss, axis=0))
            if not frozen.train.loss.min() <= least:
                return np.inf
        signals = self.simulation.signals(self.problem, curves, frozen, self.first)
        told = self.calibration.validity(signals)
        return horizon(stop, told.clock, told.shift)
