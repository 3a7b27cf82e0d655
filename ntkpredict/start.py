"""Where a forecast goes on from: the pretrained weights, or where first steps lead."""

from __future__ import annotations

from dataclasses import dataclass, replace

from linearize import Network, Projection
from linearize.linearization import Mode
from ntkpredict.data import Data
from ntkpredict.opening import Opening, opens, train_opening
from ntkpredict.phases import Report, Stopwatch
from ntkpredict.plan import Plan
from ntkpredict.simulation import Simulation
from ntkpredict.step import TrainingStep
from ntkpredict.stopping import StoppingRule
from sde import Problem, Stability, stability


@dataclass(frozen=True)
class Start:
    """The tangent model of a place.

    Attributes:
        simulation: from there.
        problem: the simulation's, its kernel frozen.
        stable: the problem's `stability`.
        pretrained: that of the pretrained weights, where a catapult leads away from them.
        opening: the first steps that lead there; None at the pretrained weights.
    """

    simulation: Simulation
    problem: Problem
    stable: Stability | None
    pretrained: Stability | None
    opening: Opening | None


class Starts:
    """The places that a plan's forecast may go on from.

    Args:
        network: the network; it has passed `linearize.check`.
        data: the data.
        plan: the plan.
        until: the stopping rule.
        step: of the plan.
        samples: see `predict`.
        seeds: likewise.
        mode: likewise.
        projection: likewise.
        report: likewise.
        watch: of the phases.
    """

    def __init__(
        self,
        network: Network,
        data: Data,
        plan: Plan,
        until: StoppingRule,
        step: TrainingStep,
        *,
        samples: int,
        seeds: int,
        mode: Mode | None,
        projection: Projection | None,
        report: Report,
        watch: Stopwatch,
    ) -> None:
        self._network, self._data, self._plan, self._until = network, data, plan, until
        self._step = step
        self._samples, self._seeds = samples, seeds
        self._mode, self._projection = mode, projection
        self._report, self._watch = report, watch

    def first(self, *, opening: bool) -> Start:
        """Where first steps lead, if they are allowed, called for and settle; else where it is."""
        start = self.at(self._settled(None) if opening else None)
        if not opening or start.stable is None:
            return start
        begun = self._settled(start.stable)
        return start if begun is None else replace(self.at(begun), pretrained=start.stable)

    def at(self, opening: Opening | None) -> Start:
        """The tangent model of where these steps lead."""
        simulation = Simulation(
            self._network,
            self._data,
            self._plan,
            self._step.outputs,
            self._samples,
            self._seeds,
            self._until,
            opening=opening,
        )
        way = self._report("tangent features")
        problem = simulation.problem(self._mode, self._projection, way)
        self._watch.lap("tangent features")
        stable = stability(problem, self._plan.max_steps)
        self._watch.lap("stability")
        return Start(simulation, problem, stable, stable, opening)

    def train(self, budget: int | None = None) -> Opening:
        """The first steps, trained for real; see `train_opening`."""
        way = self._report("training the first steps")
        found = train_opening(
            self._step, self._data.samples, self._network, self._plan, self._until, way, budget
        )
        self._watch.lap("first steps")
        return found

    def _settled(self, stable: Stability | None) -> Opening | None:
        if not opens(self._plan, self._network, stable):
            return None
        found = self.train()
        return found if found.settled else None
