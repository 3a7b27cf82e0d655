"""The first steps of a run, trained for real, where its tangent model is better made after them.

Under an optimizer that treats coordinates one by one, such as Adam, the first steps move every
weight by about the learning rate, whatever its gradient is, and the kernel with them. Above the
largest stable learning rate of gradient descent the tangent model diverges, and real training
with a cross-entropy mostly does not: within a few steps the weights are thrown to where the kernel
is small enough for that rate, the catapult of Lewkowycz et al. 2020 (arXiv:2003.02218), often at
the expense of the pretrained features. So these steps are taken on a copy, and the tangent model is
that of the weights they lead to. `experiments/suite/TRIED.md` has what this is worth, and why
gradient descent where it is stable starts from the pretrained weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from linearize import Network
from linearize.network import paths
from linearize.types import Params, Progress
from ntkpredict.first_steps import train_first_steps
from ntkpredict.plan import Plan
from ntkpredict.step import TrainingStep
from ntkpredict.stopping import StoppingRule
from sde import Stability, Trajectory, as_gradient_descent, is_coordinate_wise

STEPS = 20
"""Of an opening; as many as are timed anyway. Losses settle within ten, most of the time."""


@dataclass(frozen=True)
class Opening:
    """The first steps of a run, trained for real.

    Attributes:
        trajectory: the real curves up to where the steps lead, one row.
        network: the network there.
    """

    trajectory: Trajectory
    network: Network

    @property
    def steps(self) -> int:
        """How many were trained."""
        return int(self.trajectory.steps[-1])

    def waiting(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """An optimizer that moves nothing during these steps, as they are taken already.

        It is updated all the same: moments are gathered and schedules go on.
        """

        def init(params: Params) -> tuple[Array, Any]:
            return jnp.zeros((), jnp.int32), optimizer.init(params)

        def update(
            gradient: Params, state: tuple[Array, Any], params: Params | None = None
        ) -> tuple[Params, tuple[Array, Any]]:
            count, inner = state
            updates, inner = optimizer.update(gradient, inner, params)
            updates = jax.tree.map(lambda leaf: jnp.where(count < self.steps, 0, leaf), updates)
            return updates, (count + 1, inner)

        return optax.GradientTransformation(init, update)


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
    if plan.max_steps <= STEPS or not paths(network.body(network.params)):
        return False
    if is_coordinate_wise(plan.optimizer):
        return True
    descent = as_gradient_descent(plan.optimizer, plan.max_steps)
    if stable is None or descent is None:
        return False
    return bool(np.max(descent.learning_rate[:STEPS]) > stable.critical_learning_rate)


def train_opening(
    step: TrainingStep,
    samples: int,
    network: Network,
    plan: Plan,
    until: StoppingRule,
    progress: Progress,
) -> Opening | None:
    """Train the first `STEPS` steps of a run.

    Args:
        step: of the plan.
        samples: N.
        network: the network; it is not changed.
        plan: the plan.
        until: the stopping rule.
        progress: called with (steps done, steps in all).

    Returns:
        None where they raise the training loss or lose the weights, as in a run that diverges.
    """
    trajectory, params = train_first_steps(step, samples, plan, until, STEPS, progress)
    finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params))
    if trajectory.diverged.any() or not finite:
        return None
    return Opening(trajectory, replace(network, params=params))
