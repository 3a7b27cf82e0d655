"""Many learning rates side by side, each until its curves have told enough.

`Replay` for plans that are −η_t times one direction and share a batch size. All that `extrapolate`
asks for, the subset of the samples, its halves and several seeds, runs in one compiled program,
and with a kernel that grows also the frozen one. At each step a run reads the same minibatch
whatever its plan, so the plans' steps are one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
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

    learning_rate: Float[Array | np.ndarray, "plans steps"]
    bound: Float[Array | np.ndarray, "plans _"]


class Swept(NamedTuple):
    """The curves of one plan so far.

    Attributes:
        parts: for each part of the samples, one row a seed.
        frozen: the same with a frozen kernel, for the first seed, without validation; empty where
            the kernel is frozen anyway.
    """

    parts: list[Trajectory]
    frozen: list[Trajectory]


class _Runs(NamedTuple):
    """What tells the runs of a plan apart; they are the leading axis."""

    order: Int[Array, "runs steps batch"]
    seen: Int[Array, "runs seen"]
    part: Int[Array, " runs"]
    still: Bool[Array, " runs"]


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
    runs = _runs(problem, parts, int(grid[-1]))
    advance = _advance(direction, parts)
    alive = list(range(len(rates.learning_rate)))
    states = _begin(problem, direction, len(alive), len(runs.part))
    given = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), rates)
    curves: list[list[Any]] = [[] for _ in alive]
    found: dict[int, Swept] = {}
    for before, step in zip([0, *grid[:-1]], grid, strict=True):
        states, seen = advance(problem, states, given, runs, before, step)
        seen = jax.tree.map(np.asarray, seen)
        for row, plan in enumerate(alive):
            if plan not in found:
                curves[plan].append(jax.tree.map(lambda leaf: leaf[row], seen))  # noqa: B023
                swept = _swept(problem, grid, curves[plan], len(parts))
                if step == grid[-1] or enough(plan, swept):
                    found[plan] = swept
        going = np.array([plan not in found for plan in alive])
        if not going.any():
            break
        dropped = (~going).sum() * runs.order.shape[0] * runs.order.shape[2]
        if dropped * min(step, grid[-1] - step) > _WORTH:
            alive = [plan for plan in alive if plan not in found]
            states, given = jax.tree.map(lambda leaf: leaf[going], (states, given))  # noqa: B023
    return [found[plan] for plan in range(len(curves))]


def _runs(problem: Problem, parts: Sequence[slice], steps: int) -> _Runs:
    """Every part with every seed, then every part once more with a frozen kernel."""
    seeds = len(problem.seeds)
    cases = [(i, seed, False) for i in range(len(parts)) for seed in range(seeds)]
    if problem.growth is not None:
        cases += [(i, 0, True) for i in range(len(parts))]
    ranges = [np.arange(problem.samples)[part] for part in parts]
    orders = [
        samples[problem.take(part).orders(steps)]
        for samples, part in zip(ranges, parts, strict=True)
    ]
    return _Runs(
        jnp.asarray(np.stack([orders[i][seed] for i, seed, _ in cases])),
        jnp.asarray(np.stack([np.resize(ranges[i], ENOUGH) for i, _, _ in cases])),
        jnp.asarray([i for i, _, _ in cases]),
        jnp.asarray([still for _, _, still in cases]),
    )


def _begin(
    problem: Problem, direction: optax.GradientTransformation, plans: int, runs: int
) -> Carry:
    params = problem.train.model.initial()
    start = params, optax.chain(direction, optax.scale(1.0)).init(params)
    return jax.tree.map(lambda leaf: jnp.tile(leaf, (plans, runs, *[1] * jnp.ndim(leaf))), start)


def _advance(direction: optax.GradientTransformation, parts: Sequence[slice]) -> Any:
    """The compiled program: (problem, states, rates, runs, step, later step) -> states, metrics."""

    def train(
        problem: Problem, first: Array, last: Array, state: Carry, rates: Rates, run: _Runs
    ) -> Carry:
        growth = problem.growth and replace(problem.growth, bound=rates.bound)
        problem = replace(problem, growth=growth)

        def step(i: Array, carry: Carry) -> Carry:
            optimizer = optax.chain(direction, optax.scale(-rates.learning_rate[i]))
            return gradient_step(
                problem, optimizer, carry, run.order[i], i, seen=run.seen, still=run.still
            )

        return jax.lax.fori_loop(first, last, step, state)

    @partial(jax.jit, donate_argnums=1)
    def advance(
        problem: Problem, states: Carry, rates: Rates, runs: _Runs, first: Array, last: Array
    ) -> Any:
        one = partial(train, problem, first, last)
        states = jax.vmap(jax.vmap(one, (0, None, 0)), (0, 0, None))(states, rates, runs)
        look = partial(_metrics, problem, parts)
        return states, jax.vmap(jax.vmap(look), (0, None))(states[0], runs.part)

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
    sets = [np.stack(values, axis=-1) for values in zip(*curves, strict=True)]  # runs, 2, grid
    seeds, steps = len(problem.seeds), np.asarray(grid[: len(curves)])

    def trajectory(rows: slice, kinds: int) -> Trajectory:
        train, *rest = [Curve(values[rows, 0], values[rows, 1]) for values in sets[:kinds]]
        return Trajectory(steps, train, rest[0] if rest else None)

    first = parts * seeds
    still = range(first, len(sets[0]))
    return Swept(
        [trajectory(slice(i * seeds, (i + 1) * seeds), 2) for i in range(parts)],
        [trajectory(slice(i, i + 1), 1) for i in still],
    )
