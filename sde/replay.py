"""The exact minibatch training of a tangent model, with the user's own optimizer.

In projected coordinates the tangent model is a small differentiable model. Gradient descent with
momentum, Nesterov, clipping, weight decay and schedules commutes with the projection, so the optax
optimizer that will train the network runs on the small model as it is.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from linearize import TangentModel
from linearize.types import Params, Progress
from sde.objective import Objective, Targets
from sde.trajectory import Curve, Trajectory

Orders = Int[np.ndarray, "seeds steps batch"]
Grid = Int[np.ndarray, " grid"]
Carry = tuple[Params, Any]


class Examples(NamedTuple):
    """A tangent model on some samples and their targets (from `Objective.targets`)."""

    model: TangentModel
    targets: Targets

    def take(self, index: Any) -> "Examples":
        """Some of the examples."""
        return Examples(self.model.take(index), self.targets[index])

    def loss(self, params: Params, objective: Objective) -> Float[Array, ""]:
        """The mean loss."""
        return objective.loss(self.model(params), self.targets).mean()


def replay(
    train: Examples,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    orders: Orders,
    grid: Grid,
    *,
    validation: Examples | None = None,
    progress: Progress | None = None,
) -> Trajectory:
    """Train a tangent model for every seed at once and return its curves.

    Args:
        train: the training samples.
        objective: the loss.
        optimizer: any optax transformation that commutes with rotations of parameter space.
        orders: the samples of each minibatch; see `minibatch_order`.
        grid: the steps at which the curves are evaluated, increasing, the last at most `steps`.
        validation: the validation samples, with the same projection and directions.
        progress: called with (steps done, steps in all).

    Returns:
        The curves, one row a seed. A diverging run shows as NaN or infinity.
    """

    def evaluate(params: Params, sets: list[Examples]) -> list[tuple[Array, Array]]:
        outputs = [(examples.model(params), examples.targets) for examples in sets]
        return [(objective.loss(f, y).mean(), objective.accuracy(f, y)) for f, y in outputs]

    sets = [train] if validation is None else [train, validation]
    observed = observe(train, objective, optimizer, orders, grid, evaluate, sets, progress)
    curves = [Curve(np.asarray(loss), np.asarray(accuracy)) for loss, accuracy in observed]
    return Trajectory(np.asarray(grid), curves[0], None if validation is None else curves[1])


def observe(
    train: Examples,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    orders: Orders,
    grid: Grid,
    observation: Callable[[Params, Any], Any],
    context: Any = None,
    progress: Progress | None = None,
) -> Any:
    """As `replay`, but returns any observation of the parameters on the grid.

    Args:
        train: as for `replay`.
        objective: as for `replay`.
        optimizer: as for `replay`.
        orders: as for `replay`.
        grid: as for `replay`.
        observation: (parameters, context) -> a pytree of arrays.
        context: a pytree of arrays that `observation` reads.
        progress: called with (steps done, steps in all).

    Returns:
        What `observation` returns, with two more leading axes (seeds, grid).

    Raises:
        ValueError: a grid longer than the orders, orders of other samples than those of `train`.
    """
    _check_orders(orders, grid, train.model.samples)

    def run(train: Examples, context: Any, orders: Array, spans: Array) -> Any:
        def step(i: Array, carry: Carry, order: Array) -> Carry:
            params, state = carry
            gradient = jax.grad(train.take(order[i]).loss)(params, objective)
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        def advance(carry: Carry, order: Array, span: Array) -> tuple[Carry, Any]:
            carry = jax.lax.fori_loop(span[0], span[1], partial(step, order=order), carry)
            return carry, observation(carry[0], context)

        def segment(carries: Carry, span: Array) -> tuple[Carry, Any]:
            carries, observed = jax.vmap(advance, in_axes=(0, 0, None))(carries, orders, span)
            if progress is not None:
                jax.debug.callback(progress, span[1], spans[-1, 1], ordered=True)
            return carries, observed

        params = train.model.initial()
        start = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (len(orders), *jnp.shape(leaf))),
            (params, optimizer.init(params)),
        )
        observed = jax.lax.scan(segment, start, spans)[1]
        return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), observed)

    spans = np.stack([np.concatenate([[0], grid[:-1]]), grid], axis=1)
    return jax.jit(run)(train, context, orders, spans)


def _check_orders(orders: Orders, grid: Grid, samples: int) -> None:
    # JAX would repeat the last element in silence where an index is out of bounds.
    if grid[-1] > orders.shape[1]:
        msg = f"grid: ends at step {grid[-1]}; expected at most {orders.shape[1]}, as in orders"
        raise ValueError(msg)
    if orders.max(initial=0) >= samples:
        msg = f"orders: got sample {orders.max()}; expected 0..{samples - 1}, those of train"
        raise ValueError(msg)
