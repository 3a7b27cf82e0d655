"""The first steps of a run whose learning rate is unstable, trained for real.

Above the largest stable learning rate the tangent model diverges. Real training with a
cross-entropy mostly does not: within a few steps the weights are thrown to where the kernel is
small enough for that rate, the catapult of Lewkowycz et al. 2020 (arXiv:2003.02218), often at the
expense of the pretrained features. So these steps are taken, and the tangent model is that of the
weights they lead to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from linearize import Network
from linearize.network import paths
from linearize.types import Params, Progress
from ntkpredict.plan import Plan
from ntkpredict.step import TrainingStep
from ntkpredict.stopping import StoppingRule
from ntkpredict.stopping.rule import Steps
from ntkpredict.sweep import Simulated
from sde import (
    Curve,
    Stability,
    Trajectory,
    as_gradient_descent,
    log_grid,
    minibatch_order,
)

STEPS = 20
"""Of the catapult; as many as are timed anyway. Losses settle within ten, most of the time."""

_PER_DECADE = 8
"""Evaluations on the way."""


@dataclass(frozen=True)
class Catapult:
    """The first steps of a run, trained for real.

    Attributes:
        plan: the plan.
        stable: its stability at the start.
        trajectory: the real curves up to where the steps lead, one row.
        network: the network there.
        rest: what is left of the plan.
        until: the stopping rule, its steps counted from there.
    """

    plan: Plan
    stable: Stability
    trajectory: Trajectory
    network: Network
    rest: Plan
    until: StoppingRule

    def whole(self, rest: Simulated) -> Simulated:
        """The run from its start, from the simulation of what is left of it.

        Its margin is that of the start, as what the catapult leaves is far from pretrained.
        """
        known = self.trajectory
        return replace(
            rest,
            plan=self.plan,
            trajectory=known.then(rest.trajectory),
            simulated=rest.simulated + len(known.steps) - 1,
            stability=self.stable,
            signals=replace(rest.signals, margin=self.stable.margin),
        )


def is_thrown(stable: Stability | None, network: Network, plan: Plan) -> TypeGuard[Stability]:
    """Whether the first of a plan's steps have a learning rate above the largest stable one.

    Not where only the head trains, as its tangent model is exact, where a warm-up comes first, or
    where these steps are all that the plan has.
    """
    descent = as_gradient_descent(plan.optimizer, plan.max_steps)
    if stable is None or descent is None or plan.max_steps <= STEPS:
        return False
    if not paths(network.body(network.params)):
        return False
    return bool(np.max(descent.learning_rate[:STEPS]) > stable.critical_learning_rate)


def catapult(
    step: TrainingStep,
    samples: int,
    network: Network,
    plan: Plan,
    stable: Stability,
    until: StoppingRule,
    progress: Progress,
) -> Catapult | None:
    """Train the first `STEPS` steps of a run.

    Args:
        step: of the plan.
        samples: N.
        network: the network; it is not changed.
        plan: the plan.
        stable: its stability at the start.
        until: the stopping rule.
        progress: called with (steps done, steps in all).

    Returns:
        None where they do not lower the training loss or lose the weights, as in a run that
        diverges.
    """
    grid = evaluations(until)
    state = step.initial()
    found = {split: [step.evaluate(state.params, split)] for split in step.evaluated}
    for i, index in enumerate(minibatch_order(samples, plan.batch_size, STEPS, plan.seed), 1):
        state, _ = step(state, index)
        for split, curve in found.items():
            if i in grid:
                curve.append(step.evaluate(state.params, split))
        progress(i, STEPS)
    curves = {split: Curve.of(points) for split, points in found.items()}
    trajectory = Trajectory(grid, curves["train"], curves.get("validation"))
    finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params))
    if trajectory.diverged.any() or not finite:
        return None
    rest = replace(plan, optimizer=_after(plan.optimizer, STEPS), max_steps=plan.max_steps - STEPS)
    there = replace(network, params=state.params)
    return Catapult(plan, stable, trajectory, there, rest, _Onward(until, trajectory))


def evaluations(until: StoppingRule) -> Int[np.ndarray, " grid"]:
    """The steps of a catapult at which the network is evaluated."""
    return np.union1d(log_grid(STEPS, per_decade=_PER_DECADE), until.evaluations(STEPS))


@dataclass(frozen=True, eq=False)
class _Onward(StoppingRule):
    """A rule as it is seen from the end of curves that are known."""

    rule: StoppingRule
    known: Trajectory

    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:
        whole = self.known.then(trajectory)
        return self.rule.steps(whole, complete=complete) - self.known.steps[-1]

    def evaluations(self, max_steps: int) -> Int[np.ndarray, " evaluations"]:
        end = int(self.known.steps[-1])
        every = self.rule.evaluations(max_steps + end) - end
        return every[every > 0]

    def __str__(self) -> str:
        return str(self.rule)


def _after(optimizer: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    """The optimizer as its schedule goes on after some steps, without their momentum."""

    def init(params: Params) -> optax.OptState:
        still = jax.tree.map(jnp.zeros_like, params)

        def count(_: Array, state: optax.OptState) -> optax.OptState:
            return optimizer.update(still, state, still)[1]

        return jax.lax.fori_loop(0, steps, count, optimizer.init(params))

    return optax.GradientTransformation(init, optimizer.update)
