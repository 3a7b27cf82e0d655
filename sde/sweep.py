"""Many learning rates side by side, each until its curves have told enough.

`Replay` for plans that are −η_t times one direction and share a batch size. All that `extrapolate`
asks for, the subset of the samples, its halves and several seeds, runs in one compiled program,
and with a kernel that grows also the frozen one. In the same order the same minibatches are read
whatever the plan, and reading is what a step costs: plans side by side cost little more than one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from linearize.types import Params
from sde.problem import Problem
from sde.rollout import Grid
from sde.training import ENOUGH, Carry, gradient_step
from sde.trajectory import Curve, Trajectory

_WORTH = 5e5
"""Samples that finished plans would still read, of those in the same program, that are worth
compiling it anew without them."""


class Rates(NamedTuple):
    """What tells the plans apart; the plans are the leading axis.

    Attributes:
        learning_rate: η_t.
        bound: of `Growth`, the last one holds from then on.
    """

    learning_rate: Float[np.ndarray, "plans steps"]
    bound: Float[np.ndarray, "plans _"]


class _Rows(NamedTuple):
    """The plans, and with a kernel that grows once more with a frozen one."""

    learning_rate: Float[Array, "rows steps"]
    bound: Float[Array, "rows _"]
    still: Bool[Array, " rows"]


class Swept(NamedTuple):
    """The curves of one plan so far.

    Attributes:
        parts: for each part of the samples, one row a seed.
        frozen: the same with a frozen kernel, for the first seed; empty where the kernel is frozen
            anyway.
    """

    parts: list[Trajectory]
    frozen: list[Trajectory]


class _Orders(NamedTuple):
    """The orders of minibatches, every part of the samples with every seed."""

    samples: Int[Array, "orders steps batch"]
    seen: Int[Array, "orders seen"]
    part: Int[Array, " orders"]


def sweep(
    problem: Problem,
    direction: optax.GradientTransformation,
    rates: Rates,
    grid: Grid,
    parts: Sequence[slice],
    enough: Callable[[int, Swept], bool],
) -> list[Swept]:
    """The curves of each plan.

    Args:
        problem: what is trained; its optimizer and the bound of its growth are passed over.
        direction: what the learning rates multiply.
        rates: the plans.
        grid: as for `Solver.solve`, from 0 on.
        parts: of the training samples; each is trained on apart.
        enough: (the number of a plan, its curves so far) -> whether to leave it at that.

    Returns:
        Curves on the grid, shorter where `enough` said so.
    """
    orders = _orders(problem, parts, int(grid[-1]))
    rows = _rows(rates, growing=problem.growth is not None)
    advance = _advance(direction, parts)
    alive = list(range(len(rates.learning_rate)))
    states = _begin(problem, direction, len(rows.still), len(orders.part))
    curves: list[list[Any]] = [[] for _ in alive]
    found: dict[int, Swept] = {}
    steps = [int(step) for step in grid]  # of another type, they would be compiled for once more
    for before, step in pairwise([0, *steps]):
        states, seen = advance(problem, states, rows, orders, before, step)
        seen = [np.asarray(values).reshape(-1, len(alive), len(orders.part), 2) for values in seen]
        for row, plan in enumerate(alive):
            if plan not in found:
                curves[plan].append([values[:, row] for values in seen])
                swept = _swept(problem, grid, curves[plan], len(parts))
                if step == steps[-1] or enough(plan, swept):
                    found[plan] = swept
        going = np.array([plan not in found for plan in alive])
        if not going.any():
            break
        dropped = (~going).sum() * orders.samples.shape[0] * problem.batch_size
        if dropped * min(step, steps[-1] - step) > _WORTH:
            alive = [plan for plan in alive if plan not in found]
            kept = np.tile(going, len(rows.still) // len(going))
            states, rows = jax.tree.map(lambda leaf: leaf[kept], (states, rows))  # noqa: B023
    return [found[plan] for plan in range(len(curves))]


def _rows(rates: Rates, *, growing: bool) -> _Rows:
    copies = 1 + growing
    return _Rows(
        jnp.asarray(np.tile(rates.learning_rate, (copies, 1)), float),
        jnp.asarray(np.tile(rates.bound, (copies, 1)), float),
        jnp.asarray(np.arange(copies).repeat(len(rates.bound)) > 0),
    )


def _orders(problem: Problem, parts: Sequence[slice], steps: int) -> _Orders:
    ranges = [np.arange(problem.samples)[part] for part in parts]
    batches = [
        samples[problem.take(part).orders(steps)]
        for samples, part in zip(ranges, parts, strict=True)
    ]
    seeds = len(problem.seeds)
    return _Orders(
        jnp.asarray(np.concatenate(batches)),
        jnp.asarray(np.stack([np.resize(samples, ENOUGH) for samples in ranges]).repeat(seeds, 0)),
        jnp.asarray(np.arange(len(parts)).repeat(seeds)),
    )


def _begin(
    problem: Problem, direction: optax.GradientTransformation, rows: int, orders: int
) -> Carry:
    params = problem.train.model.initial()
    start = params, optax.chain(direction, optax.scale(1.0)).init(params)
    return jax.tree.map(
        lambda leaf: jnp.array(np.broadcast_to(leaf, (rows, orders, *np.shape(leaf)))), start
    )


def _advance(direction: optax.GradientTransformation, parts: Sequence[slice]) -> Any:
    """The program: (problem, states, rows, orders, step, later step) -> states, metrics."""

    def train(
        problem: Problem, first: Array, last: Array, state: Carry, row: _Rows, order: _Orders
    ) -> Carry:
        growth = problem.growth and replace(problem.growth, bound=row.bound)
        problem = replace(problem, growth=growth)

        def step(i: Array, carry: Carry) -> Carry:
            optimizer = optax.chain(direction, optax.scale(-row.learning_rate[i]))
            return gradient_step(
                problem, optimizer, carry, order.samples[i], i, seen=order.seen, still=row.still
            )

        return jax.lax.fori_loop(first, last, step, state)

    @partial(jax.jit, donate_argnums=1)
    def advance(
        problem: Problem, states: Carry, rows: _Rows, orders: _Orders, first: Array, last: Array
    ) -> Any:
        one = partial(train, problem, first, last)
        states = jax.vmap(jax.vmap(one, (0, None, 0)), (0, 0, None))(states, rows, orders)
        look = partial(_metrics, problem, parts)
        return states, jax.vmap(jax.vmap(look), (0, None))(states[0], orders.part)

    return advance


def _metrics(
    problem: Problem, parts: Sequence[slice], params: Params, part: Array
) -> list[Float[Array, "2"]]:
    """Loss and accuracy on a part of the training samples, and on the validation samples."""
    objective = problem.objective

    def of(outputs: Array, targets: Array) -> Array:
        loss = objective.loss(outputs, targets).mean()
        return jnp.stack([loss, objective.accuracy(outputs, targets)])

    outputs, targets = problem.train.model(params), problem.train.targets
    found = [jnp.stack([of(outputs[index], targets[index]) for index in parts])[part]]
    if problem.validation is not None:
        found.append(of(problem.validation.model(params), problem.validation.targets))
    return found


def _swept(problem: Problem, grid: Grid, curves: list[Any], parts: int) -> Swept:
    """One plan's metrics, sorted."""
    # Of each set of samples: (kernels, orders, loss and accuracy, grid).
    sets = [np.stack(values, axis=-1) for values in zip(*curves, strict=True)]
    seeds, steps = len(problem.seeds), np.asarray(grid[: len(curves)])

    def trajectory(values: list[np.ndarray], kernel: int, orders: slice) -> Trajectory:
        train, *rest = [Curve(*np.moveaxis(one[kernel, orders], 1, 0)) for one in values]
        return Trajectory(steps, train, rest[0] if rest else None)

    firsts = range(0, parts * seeds, seeds)
    still = firsts if problem.growth is not None else ()
    return Swept(
        [trajectory(sets, 0, slice(i, i + seeds)) for i in firsts],
        [trajectory(sets, 1, slice(i, i + 1)) for i in still],
    )
