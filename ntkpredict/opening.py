"""The first steps of a run, trained for real; its tangent model is that of where they lead.

Under an optimizer that treats coordinates one by one, such as Adam, the first steps move every
weight by about the learning rate, whatever its gradient is, and the kernel with them, until the
loss comes down. Above the largest stable learning rate of gradient descent the tangent model
diverges, and real training with a cross-entropy mostly does not: within a few steps the weights are
thrown to where the kernel is small enough for that rate, the catapult of Lewkowycz et al. 2020
(arXiv:2003.02218), often at the expense of the pretrained features. So these steps are taken on a
copy, and the tangent model is that of the weights they lead to. `experiments/suite/TRIED.md` has
what this is worth, and why gradient descent where it is stable starts from the pretrained weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from linearize import Network, Projection
from linearize.network import paths
from linearize.types import Params, Progress
from ntkpredict.moments import carried
from ntkpredict.plan import Plan
from ntkpredict.step import TrainingStep
from ntkpredict.stopping import StoppingRule
from sde import (
    Curve,
    Stability,
    Trajectory,
    as_gradient_descent,
    is_coordinate_wise,
    log_grid,
    minibatch_order,
)

CATAPULT = 20
"""Steps of an opening above the largest stable rate: losses settle within ten, mostly."""

STEPS, MOST = 64, 256
"""Steps of an opening under Adam: at least, and while the loss does not come down, as in a warm-up,
but half the plan's at most."""

_FALLEN = 0.8
"""The training loss, over the first one, that has come down."""

_PER_DECADE = 8
"""Evaluations on the way."""


@dataclass(frozen=True)
class Opening:
    """The first steps of a run, trained for real.

    Attributes:
        trajectory: the real curves up to where the steps lead, one row.
        network: the network there.
        state: of the optimizer there.
        budgeted: whether it was a budget that asked for them.
    """

    trajectory: Trajectory
    network: Network
    state: optax.OptState
    budgeted: bool

    @property
    def steps(self) -> int:
        """How many were trained."""
        return int(self.trajectory.steps[-1])

    @property
    def lost(self) -> bool:
        """Whether the weights are not numbers any more: nothing goes on from there."""
        leaves = jax.tree.leaves(self.network.params)
        return not all(bool(jnp.isfinite(leaf).all()) for leaf in leaves)

    @property
    def settled(self) -> bool:
        """Whether the weights are there and the training loss is not above that of the start."""
        return not (self.lost or self.trajectory.diverged.any())

    def begins(self, plan: Plan) -> bool:
        """Whether the tangent model of where they lead tells more of the plan than the one before.

        Under Adam it does, wherever they end. Under gradient descent it tells no more, as it is
        made now (`experiments/suite/TRIED.md`), but after a catapult, see `opens`.
        """
        return is_coordinate_wise(plan.optimizer) and not self.lost

    def resumed(self, plan: Plan, params: Params, projection: Projection) -> Plan:
        """The plan, whose optimizer moves nothing during these steps, as they are taken already.

        Then it goes on from its state in training the network, where it treats coordinates one by
        one. Another one, whose memory is short, gathers moments while it waits.

        Args:
            plan: the plan.
            params: of the tangent model.
            projection: of the body's parameters.
        """
        begun = None
        if is_coordinate_wise(plan.optimizer):
            begun = carried(plan.optimizer, self.state, self.network, params, projection)
        return replace(plan, optimizer=_waiting(plan.optimizer, self.steps, begun))


def _waiting(
    optimizer: optax.GradientTransformation, steps: int, begun: optax.OptState | None
) -> optax.GradientTransformation:
    """It has a state of its own on other trees than the one it is `begun` for, and to be probed."""

    def init(params: Params) -> tuple[Array, Any]:
        own = optimizer.init(params)
        same = begun is not None and _shapes(own) == _shapes(begun)
        return jnp.zeros((), jnp.int32), begun if same else own

    def update(
        gradient: Params, state: tuple[Array, Any], params: Params | None = None
    ) -> tuple[Params, tuple[Array, Any]]:
        count, before = state
        updates, after = optimizer.update(gradient, before, params)
        updates = jax.tree.map(lambda leaf: jnp.where(count < steps, 0, leaf), updates)
        if begun is not None:
            after = jax.tree.map(lambda a, b: jnp.where(count < steps, b, a), after, before)
        return updates, (count + 1, after)

    return optax.GradientTransformation(init, update)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(jnp.shape, tree)


def opens(plan: Plan, network: Network, stable: Stability | None = None) -> bool:
    """Whether the first steps of a plan are to be trained for real.

    Not where only the head trains, as its tangent model is exact, or where these steps are all that
    the plan has.

    Args:
        plan: the plan.
        network: the network.
        stable: the plan's stability; gradient descent whose first learning rates are below the
            largest stable one, or whose stability is not known, has no opening.
    """
    least, _ = _lengths(plan)
    if plan.max_steps <= least or not paths(network.body(network.params)):
        return False
    if is_coordinate_wise(plan.optimizer):
        return True
    descent = as_gradient_descent(plan.optimizer, plan.max_steps)
    if stable is None or descent is None:
        return False
    return bool(np.max(descent.learning_rate[:least]) > stable.critical_learning_rate)


def train_opening(
    step: TrainingStep,
    samples: int,
    network: Network,
    plan: Plan,
    until: StoppingRule,
    progress: Progress,
    budget: int | None = None,
) -> Opening:
    """Train the first steps of a run.

    Args:
        step: of the plan.
        samples: N.
        network: the network; it is not changed.
        plan: the plan.
        until: the stopping rule.
        progress: called with (steps done, steps in all).
        budget: how many, where it is not for the tangent model's sake.
    """
    least, most = _lengths(plan) if budget is None else (budget, budget)
    grid, later = evaluations(until, least), evaluations(until, most)
    grid = np.concatenate([grid, later[later > least]])
    steps, state = int(grid[-1]), step.initial()
    found = {split: [step.evaluate(state.params, split)] for split in step.evaluated}
    first, _ = found["train"][0]
    for i, index in enumerate(minibatch_order(samples, plan.batch_size, steps, plan.seed), 1):
        state, _ = step(state, index)
        progress(i, steps)
        if i not in grid:
            continue
        for split, curve in found.items():
            curve.append(step.evaluate(state.params, split))
        loss, _ = found["train"][-1]
        if i >= least and not loss > _FALLEN * first:
            break
    progress(steps, steps)
    curves = {split: Curve.of(points) for split, points in found.items()}
    count = len(found["train"])
    trajectory = Trajectory(grid[:count], curves["train"], curves.get("validation"))
    there = replace(network, params=state.params)
    return Opening(trajectory, there, state.optimizer, budget is not None)


def _lengths(plan: Plan) -> tuple[int, int]:
    """How many steps an opening has at least, and at most."""
    if not is_coordinate_wise(plan.optimizer):
        return CATAPULT, CATAPULT
    return STEPS, max(STEPS, min(MOST, plan.max_steps // 2))


def evaluations(until: StoppingRule, steps: int) -> Int[np.ndarray, " grid"]:
    """The first steps at which the network is evaluated."""
    return np.union1d(log_grid(steps, per_decade=_PER_DECADE), until.evaluations(steps))
