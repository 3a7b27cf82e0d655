"""The training that many plans would do, simulated on shared features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import optax

from linearize import HeadExactTangent
from linearize.types import Progress
from ntkpredict.plan import Plan
from ntkpredict.simulation import Simulation
from ntkpredict.stopping import (
    AnyOf,
    EarlyStopping,
    MaxSteps,
    StoppingRule,
    TargetAccuracy,
    TargetLoss,
)
from ntkpredict.validity import TENTH, Signals
from sde import (
    Curve,
    GradientDescent,
    Problem,
    Rates,
    Stability,
    Trajectory,
    as_gradient_descent,
    growth_bound,
    onward,
    stabilities,
    subsets,
    sweep,
)
from sde.rollout import Grid

_MARGIN = 1.5
"""Curves go on so many times beyond where the rule is met, as slower clocks look at them there."""

_REACH = 2.0
"""And so many times beyond a limit, as faster clocks do."""


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


class PlanSweep:
    """Plans of one kind of optimizer, on one set of features.

    Args:
        simulation: made for all of them.
        problem: the simulation's.
        samples: N, in all.
        until: the stopping rule.
        patience: how many times the steps of the fastest a plan may take before it is given up.
    """

    def __init__(
        self,
        simulation: Simulation,
        problem: Problem,
        samples: int,
        until: StoppingRule,
        patience: int | float,
    ) -> None:
        self._simulation = simulation
        self._problem = problem
        self._samples = samples
        self._until = until
        self._patience = patience

    def run(
        self, plans: Sequence[Plan], limits: dict[int, int], progress: Progress
    ) -> Iterator[Simulated]:
        """Every plan, in no particular order.

        Args:
            plans: those that the simulation was made for.
            limits: by batch size, the step beyond which nothing counts.
            progress: called with (plans done, plans).
        """
        done = 0
        for size in sorted({plan.batch_size for plan in plans}):
            group = [plan for plan in plans if plan.batch_size == size]
            problem = replace(self._problem, batch_size=size)
            known = list(zip(group, _stabilities(problem, group), strict=True))
            for members in _by_direction(known):
                yield from self._side_by_side(problem, members, limits[size])
                done += len(members)
                progress(done, len(plans))

    def _side_by_side(
        self, problem: Problem, members: list[tuple[Plan, Stability | None]], limit: int
    ) -> Iterator[Simulated]:
        """Plans that differ in nothing but their learning rate."""
        direction = members[0][0].factors()[0]
        rates = np.stack([plan.factors()[1] for plan, _ in members])
        if isinstance(problem.train.model, HeadExactTangent):
            problem = self._simulation.growing(problem, None)
        bounds = np.stack(
            [_bound(rate, stable) for rate, (_, stable) in zip(rates, members, strict=True)]
        )
        grid = self._simulation.grid
        whole = problem.samples == self._samples
        parts = [slice(problem.samples)] if whole else subsets(problem.samples)
        race = _Race(self._until, limit, self._patience)
        swept = sweep(
            problem,
            direction,
            Rates(rates, bounds),
            grid,
            parts,
            lambda plan, curves: race.over(plan, self._curves(curves.parts)),
        )
        for i, ((plan, stable), curves) in enumerate(zip(members, swept, strict=True)):
            trajectory, frozen = self._curves(curves.parts), None
            if curves.frozen:
                still = self._curves(curves.frozen)
                trajectory, frozen = trajectory.generalizing_like(still), _held(still, grid)
            trajectory = _held(trajectory, grid)
            signals = self._simulation.signals(
                replace(problem, optimizer=direction), trajectory, frozen, stable
            )
            count = len(curves.parts[0].steps)
            yield Simulated(plan, trajectory, count, i in race.given_up, stable, signals)

    def _curves(self, parts: list[Trajectory]) -> Trajectory:
        """Of training on all samples."""
        if len(parts) == 1:
            return parts[0]
        return onward(*parts, share=self._problem.samples / self._samples)


class _Race:
    """Plans side by side, each until nothing that comes later counts."""

    def __init__(self, until: StoppingRule, limit: int, patience: int | float) -> None:
        self._until = until
        self._limit = limit
        self._patience = patience
        self._fastest = np.inf
        self.given_up: set[int] = set()

    def over(self, plan: int, curves: Trajectory) -> bool:
        """Whether a plan has told enough."""
        step, loss = curves.steps[-1], curves.train.loss
        if step == 0:
            return False
        if step >= _REACH * self._limit or not np.isfinite(loss[:, -1]).any():
            return True
        if not _ends(self._until):
            return False
        slowest = self._until.steps(curves, complete=False).max()
        low = np.median(loss[:, -1]) <= TENTH * np.median(loss[:, 0])
        if low and step >= _MARGIN * slowest:
            self._fastest = min(self._fastest, slowest)
            return True
        if step > self._patience * self._fastest and np.isinf(slowest):
            self.given_up.add(plan)
            return True
        return False


def _ends(until: StoppingRule) -> bool:
    """Whether the curves beyond the point where it is met make no difference."""
    rules = until.rules if isinstance(until, AnyOf) else (until,)
    if any(getattr(rule, "on", "train") == "validation" for rule in rules):
        return False  # validation is read off the whole curves of a frozen kernel
    targets = (TargetLoss, TargetAccuracy)
    others = (*targets, EarlyStopping, MaxSteps)
    return any(isinstance(rule, targets) for rule in rules) and all(
        isinstance(rule, others) for rule in rules
    )


def _held(curves: Trajectory, grid: Grid) -> Trajectory:
    """On the whole grid; the last values hold."""

    def held(curve: Curve) -> Curve:
        missing = ((0, 0), (0, len(grid) - len(curves.steps)))
        return Curve(np.pad(curve.loss, missing, "edge"), np.pad(curve.accuracy, missing, "edge"))

    validation = None if curves.validation is None else held(curves.validation)
    return Trajectory(np.asarray(grid), held(curves.train), validation)


def _by_direction(
    members: Iterable[tuple[Plan, Stability | None]],
) -> list[list[tuple[Plan, Stability | None]]]:
    groups: dict[Any, list[tuple[Plan, Stability | None]]] = {}
    for plan, stable in members:
        groups.setdefault(plan.factors()[0], []).append((plan, stable))
    return list(groups.values())


def _stabilities(problem: Problem, plans: Sequence[Plan]) -> list[Stability | None]:
    descents = [_descent(plan) for plan in plans]
    given = [descent for descent in descents if descent is not None]
    found = iter(stabilities(problem, given, plans[0].max_steps) if given else [])
    return [None if descent is None else next(found) for descent in descents]


def _descent(plan: Plan) -> GradientDescent | None:
    if plan.direction is None:
        return as_gradient_descent(plan.optimizer, plan.max_steps)
    unit = as_gradient_descent(_unit(plan.direction), plan.max_steps)
    if unit is None:
        return None
    return unit._replace(learning_rate=plan.factors()[1] * unit.learning_rate)


@lru_cache  # one object, so that it is probed once
def _unit(direction: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(direction, optax.scale(-1.0))


def _bound(rates: np.ndarray, stable: Stability | None) -> np.ndarray:
    if stable is None:
        return np.full(len(rates), np.inf)
    return growth_bound(rates, stable.critical_learning_rate)
