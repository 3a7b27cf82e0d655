"""The training that many plans would do, simulated on shared features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, TypeAlias

import numpy as np
import optax

from linearize import HeadExactTangent
from linearize.types import Progress
from ntkpredict.continuation import continuation
from ntkpredict.plan import Plan, Scaled
from ntkpredict.race import Race
from ntkpredict.simulation import Simulation
from ntkpredict.stopping import StoppingRule
from ntkpredict.validity import Signals
from sde import (
    GradientDescent,
    Problem,
    Rates,
    Stability,
    Swept,
    Trajectory,
    as_gradient_descent,
    growth_bound,
    onward,
    stabilities,
    subsets,
    sweep,
)

Member: TypeAlias = tuple[Plan, Stability | None]
"""A plan and its stability."""

Horizon: TypeAlias = Callable[[float, Trajectory, Trajectory | None], float]
"""(where the last curve stops, the curves so far, those of a frozen kernel where the plan's own one
grows) -> the step up to which they are read; infinite where more must be known to tell."""

_MARGIN = 1.5
"""Curves go on so many times beyond where the rule is met, as slower clocks look at them there."""


@dataclass(frozen=True)
class Simulated:
    """What became of a plan.

    Attributes:
        plan: the plan.
        trajectory: its curves on the whole grid; their last values hold where they were ended.
        simulated: how many points of the grid were simulated.
        given_up: whether they were ended because other plans are so much faster.
        stability: as in `Forecast`.
        signals: what its validity is told from.
    """

    plan: Plan
    trajectory: Trajectory
    simulated: int
    given_up: bool
    stability: Stability | None
    signals: Signals

    def since(self, stable: Stability | None) -> Simulated:
        """The same, its stability that of the start, where an opening leads away from it."""
        margin = None if stable is None else stable.margin
        return replace(self, stability=stable, signals=replace(self.signals, margin=margin))

    def continued(self, known: Trajectory) -> Simulated:
        """The same with first steps that a budget has trained."""
        curves = continuation(known, self.trajectory)
        signals = replace(self.signals, piloted=True)
        simulated = int(np.searchsorted(curves.steps, self.end, side="right"))
        return replace(self, trajectory=curves, simulated=simulated, signals=signals)

    @property
    def end(self) -> int:
        """The last step that was simulated."""
        return int(self.trajectory.steps[self.simulated - 1])


class PlanSweep:
    """Plans of one kind of optimizer, on one set of features.

    Args:
        simulation: made for all of them.
        samples: N, in all.
        until: the stopping rule.
        patience: how many times the steps of the fastest a plan may take before it is given up.
    """

    def __init__(
        self,
        simulation: Simulation,
        samples: int,
        until: StoppingRule,
        patience: int | float = np.inf,
    ) -> None:
        self._simulation = simulation
        self._samples = samples
        self._until = until
        self._patience = patience

    def run(
        self, problem: Problem, plans: Sequence[Plan], limits: dict[int, int], progress: Progress
    ) -> Iterator[Simulated]:
        """Every plan, in no particular order.

        Args:
            problem: the simulation's.
            plans: those that the simulation was made for.
            limits: by batch size, the step beyond which nothing counts.
            progress: called with (plans done, plans).
        """
        done, known = 0, list(zip(plans, _stabilities(problem, plans), strict=True))
        if isinstance(problem.train.model, HeadExactTangent):
            problem = self._simulation.growing(problem, None)
        for members in _side_by_side(known):
            size = members[0][0].batch_size
            sized = replace(problem, batch_size=size)
            yield from self.side_by_side(sized, members, limits[size], _beyond)
            done += len(members)
            progress(done, len(plans))

    def side_by_side(
        self,
        problem: Problem,
        members: Sequence[Member],
        limit: int,
        horizon: Horizon,
        progress: Progress | None = None,
    ) -> Iterator[Simulated]:
        """Plans that differ in nothing but their learning rate.

        Args:
            problem: with their batch size; a kernel that grows does so within each plan's bound.
            members: the plans.
            limit: the step beyond which nothing counts.
            horizon: how far beyond its stop a plan is followed.
            progress: called with (steps done, steps in all).
        """
        direction, grid = members[0][0].factors()[0], self._simulation.grid
        rates = Rates(
            np.stack([plan.factors()[1] for plan, _ in members]),
            np.stack([_bound(plan, stable) for plan, stable in members]),
        )
        whole = problem.samples == self._samples
        parts = [slice(problem.samples)] if whole else subsets(problem.samples)
        on_all = partial(_on_all, problem.samples / self._samples)
        race = Race(self._until, limit, self._patience)

        def begun(parts: list[Trajectory]) -> Any:
            found = on_all(parts)
            return None if found is None else self._simulation.whole(found)

        def held(curves: Trajectory) -> Trajectory:
            return self._simulation.whole(curves).at(grid, grid)  # the last values hold

        def enough(plan: int, curves: Swept) -> bool:
            found = begun(curves.parts)
            if progress is not None:
                progress(int(found.steps[-1]), int(grid[-1]))
            return race.over(plan, found, lambda stop: horizon(stop, found, begun(curves.frozen)))

        swept = sweep(problem, direction, rates, grid, parts, enough)
        if progress is not None:
            progress(int(grid[-1]), int(grid[-1]))
        problem = replace(problem, optimizer=direction)
        for i, ((plan, stable), curves) in enumerate(zip(members, swept, strict=True)):
            trajectory, frozen = on_all(curves.parts), on_all(curves.frozen)
            if frozen is not None:
                trajectory, frozen = trajectory.generalizing_like(frozen), held(frozen)
            trajectory = held(trajectory)
            signals = self._simulation.signals(problem, trajectory, frozen, stable)
            count = len(curves.parts[0].steps)
            yield Simulated(plan, trajectory, count, i in race.given_up, stable, signals)


def _on_all(share: float, parts: list[Trajectory]) -> Any:
    """The curves of training on all samples, from those of parts of them; None without any."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return onward(*parts, share=share)


def _beyond(stop: float, curves: Trajectory, frozen: Trajectory | None) -> float:  # noqa: ARG001
    return _MARGIN * stop


def _side_by_side(members: Iterable[Member]) -> list[list[Member]]:
    """Those that differ in nothing but their learning rate, the smallest batches first."""
    groups: dict[Any, list[Member]] = {}
    for plan, stable in sorted(members, key=lambda member: member[0].batch_size):
        groups.setdefault((plan.batch_size, plan.factors()[0]), []).append((plan, stable))
    return list(groups.values())


def _stabilities(problem: Problem, plans: Sequence[Plan]) -> list[Stability | None]:
    descents = [_descent(plan) for plan in plans]
    known = [(d, plan) for d, plan in zip(descents, plans, strict=True) if d is not None]
    given, sizes = [descent for descent, _ in known], [plan.batch_size for _, plan in known]
    found = iter(stabilities(problem, given, plans[0].max_steps, sizes) if known else [])
    return [None if descent is None else next(found) for descent in descents]


def _descent(plan: Plan) -> GradientDescent | None:
    if not isinstance(plan.optimizer, Scaled):
        return as_gradient_descent(plan.optimizer, plan.max_steps)
    unit = as_gradient_descent(_unit(plan.optimizer.direction), plan.max_steps)
    if unit is None:
        return None
    return unit._replace(learning_rate=plan.factors()[1] * unit.learning_rate)


@lru_cache  # one object, so that it is probed once
def _unit(direction: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(direction, optax.scale(-1.0))


def _bound(plan: Plan, stable: Stability | None) -> np.ndarray:
    descent = _descent(plan)
    if stable is None or descent is None:
        return np.full(plan.max_steps, np.inf)
    return growth_bound(np.asarray(descent.learning_rate), stable.critical_learning_rate)
