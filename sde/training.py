"""The minibatch training of a tangent model, step by step.

In projected coordinates the tangent model is a small differentiable model. Gradient descent with
momentum, Nesterov, clipping, weight decay and schedules commutes with the projection, so the optax
optimizer that will train the network runs on the small model as it is.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from linearize.types import Params, Progress
from sde.problem import Problem
from sde.rollout import Grid, rollout

Carry: TypeAlias = tuple[Params, Any]
Observation: TypeAlias = Callable[[Problem, Params], Any]

ENOUGH = 16
"""Samples to tell the growth from; a smaller minibatch takes the same ones at every step."""


def observe(
    problem: Problem,
    grid: Grid,
    observation: Observation,
    progress: Progress | None = None,
) -> Any:
    """Replay a problem and return any observation of the parameters on the grid.

    Args:
        problem: what is trained.
        grid: as for `Solver.solve`.
        observation: (problem, parameters) -> a pytree of arrays.
        progress: called with (steps done, steps in all).

    Returns:
        What `observation` returns, with two more leading axes (seeds, grid).
    """

    @jax.jit
    def run(problem: Problem, orders: Array) -> Any:
        plan = jnp.zeros(1)
        observed = train_all(
            problem, lambda _: problem.optimizer, plan, orders, grid, observation, progress
        )
        return jax.tree.map(lambda leaf: leaf[0], observed)

    return run(problem, problem.orders(int(grid[-1])))


def gradient_step(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    carry: Carry,
    index: Array,
    step: Array | int,
    *,
    seen: Array | None = None,
    still: Array | bool = False,
) -> Carry:
    """One step on the minibatch of these samples.

    A kernel that grows is a Jacobian that does: both what comes back through it, before the
    optimizer, and what goes forth, after.

    Args:
        problem: what is trained.
        optimizer: with what.
        carry: the parameters and the state of the optimizer.
        index: the samples.
        step: of training.
        seen: the samples to tell the growth from, where the minibatch is too small for that; the
            first ones where None.
        still: whether the kernel is frozen all the same.
    """
    params, state = carry
    batch = problem.train.take(index)
    gradient = jax.grad(lambda p: batch.losses(p, problem.objective).mean())(params)
    if problem.growth is None:
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state
    if len(index) >= ENOUGH:
        seen = index
    elif seen is None:
        seen = jnp.arange(min(ENOUGH, problem.samples))
    model = problem.train.model.take(seen)
    scale = jnp.where(still, 1, problem.growth.take(seen).scale(model, params, step))
    updates, state = optimizer.update(_scaled_body(gradient, scale), state, params)
    return optax.apply_updates(params, _scaled_body(updates, scale)), state


def observe_rates(
    problem: Problem,
    direction: optax.GradientTransformation,
    rates: Float[np.ndarray, "plans steps"],
    grid: Grid,
    observation: Observation,
) -> Any:
    """`observe` for optimizers that are −η_t times the same direction, side by side.

    Returns:
        What `observation` returns, with three more leading axes (plans, seeds, grid).
    """

    @jax.jit
    def run(problem: Problem, rates: Array, orders: Array) -> Any:
        def optimizer(rate: Array) -> optax.GradientTransformation:
            schedule = optax.scale_by_schedule(lambda count: -rate[count])
            return optax.chain(direction, schedule)

        return train_all(problem, optimizer, rates, orders, grid, observation, None)

    return run(problem, jnp.asarray(rates, float), problem.orders(int(grid[-1])))


def _scaled_body(tree: Params, scale: Array) -> Params:
    return {**tree, "body": scale * tree["body"]}


def train_all(
    problem: Problem,
    optimizer: Callable[[Any], optax.GradientTransformation],
    plans: Any,
    orders: Array,
    grid: Grid,
    observation: Observation,
    progress: Progress | None,
) -> Any:
    """Train every plan with every order, side by side; to be traced.

    Args:
        problem: what is trained.
        optimizer: plan -> the optimizer.
        plans: a pytree of arrays, the plans along their leading axis.
        orders: the samples of each minibatch, (seeds, steps, batch).
        grid: the steps to observe.
        observation: (problem, parameters) -> a pytree of arrays.
        progress: called with (steps done, steps in all).

    Returns:
        What `observation` returns, with three more leading axes (plans, seeds, grid).
    """

    def start(plan: Any, order: Array) -> Carry:  # noqa: ARG001
        params = problem.train.model.initial()
        return params, optimizer(plan).init(params)

    def advance(carry: Carry, plan: Any, order: Array, span: Array) -> Carry:
        def step(i: Array, carry: Carry) -> Carry:
            return gradient_step(problem, optimizer(plan), carry, order[i], i)

        return jax.lax.fori_loop(span[0], span[1], step, carry)

    return rollout(
        start, advance, lambda carry: observation(problem, carry[0]), plans, orders, grid, progress
    )
