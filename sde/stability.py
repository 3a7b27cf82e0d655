"""Which learning rates are stable, and how loud the minibatch noise is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from linearize import LinearTangent, kernel_trace
from linearize.types import Params
from sde.descent import GradientDescent, as_gradient_descent
from sde.noise import BatchNoise
from sde.objective import Objective, SquaredError
from sde.problem import Examples, Problem
from sde.training import train_all

_MOST_ITERATIONS = 60

_PASSED_OVER = optax.identity()
"""The optimizer of a problem that is trained with others: always the same, to compile once."""

_PATH_BATCH = 32
"""Samples a step on the way whose sharpness is looked at, so slow that noise does not move it."""


@dataclass(frozen=True)
class Stability:
    """How far training is from divergence; the worst of a few points along its path.

    Attributes:
        learning_rate: η, the largest of the schedule.
        effective_learning_rate: η/(1 − m), with which momentum follows a lasting gradient.
        critical_learning_rate: above it, full-batch training of the tangent model is unstable: a
            squared error diverges, a cross-entropy oscillates or diverges.
        noise_mass: η·tr(Θ)/(2NBC)·(N − B)/(N − 1) at the effective rate, with C outputs. Noise adds
            about this share of the loss that a step removes: near 1, training of a squared error
            with minibatches stalls, above it diverges.
        sharpness: the largest eigenvalue of the Gauss-Newton matrix of the mean loss; for a squared
            error that of Θ/N.
    """

    learning_rate: float
    effective_learning_rate: float
    critical_learning_rate: float
    noise_mass: float
    sharpness: float

    @property
    def margin(self) -> float:
        """How many times the learning rate could grow; below 1 it is unstable."""
        return self.critical_learning_rate / self.learning_rate

    @property
    def overshoot(self) -> float:
        """Momentum acts as the rate η/(1 − m), as the paper has it, while this is well below 1.

        It is η·sharpness/(1 − m)²: the stiffest mode against the memory of the velocity.
        """
        return self.effective_learning_rate**2 * self.sharpness / self.learning_rate


def stability(problem: Problem, steps: int) -> Stability | None:
    """The stability of a problem's first `steps` steps; None where no rule is known.

    None is the answer for optimizers that are not a `GradientDescent` (clipping, for one) or never
    move, and for networks without a gradient.
    """
    descent = as_gradient_descent(problem.optimizer, steps)
    return None if descent is None else stabilities(problem, [descent], steps)[0]


def stabilities(
    problem: Problem,
    descents: Sequence[GradientDescent],
    steps: int,
    batch_sizes: Sequence[int] | None = None,
) -> list[Stability | None]:
    """`stability` for other optimizers than the problem's own, which is passed over.

    Args:
        problem: the problem.
        descents: the optimizers.
        steps: of training.
        batch_sizes: of each; by default the problem's.
    """
    start = _start(problem)
    (at_start,) = _shape(problem, start)
    if not at_start[0]:
        return [None] * len(descents)
    shapes = [[at_start] for _ in descents]
    if not (
        isinstance(problem.train.model, LinearTangent)
        and isinstance(problem.objective, SquaredError)
    ):
        slowed = [_slowed(descent, at_start[0]) for descent in descents]
        keys = [tuple(np.asarray(value).tobytes() for value in each) for each in slowed]
        ways = dict(zip(keys, slowed, strict=True))
        path = _path(problem, list(ways.values()), steps)
        flat = jax.tree.map(np.concatenate, path)
        along = _shape(problem, flat)
        count = len(along) // len(ways)
        found = {key: along[i * count : (i + 1) * count] for i, key in enumerate(ways)}
        for key, points in zip(keys, shapes, strict=True):
            points += [point for point in found[key] if np.isfinite(point).all()]
    sizes = batch_sizes or [problem.batch_size] * len(descents)
    return [
        _stability(replace(problem, batch_size=size), descent, points)
        for size, descent, points in zip(sizes, descents, shapes, strict=True)
    ]


def _stability(
    problem: Problem, descent: GradientDescent, points: list[tuple[float, float]]
) -> Stability:
    """From the sharpness and the kernel's trace at some points."""
    rate, sharpest = float(descent.learning_rate.max()), max(sharp for sharp, _ in points)
    return Stability(
        learning_rate=rate,
        effective_learning_rate=rate / (1 - float(descent.momentum)),
        critical_learning_rate=critical_step(descent) / (sharpest + float(descent.weight_decay)),
        noise_mass=max(_noise_mass(problem, descent, trace) for _, trace in points),
        sharpness=sharpest,
    )


def critical_step(descent: GradientDescent) -> float:
    """The largest stable η·h on a curvature h: 2(1 + m), or 2(1 + m)/(1 + 2m) for Nesterov."""
    momentum, nesterov = float(descent.momentum), float(descent.nesterov)
    return 2 * (1 + momentum) / (1 + 2 * momentum * nesterov)


def noise_mass(problem: Problem, descent: GradientDescent) -> float:
    """See `Stability`; at the initial parameters."""
    return _noise_mass(problem, descent, float(kernel_trace(problem.train.model)))


def _noise_mass(problem: Problem, descent: GradientDescent, trace: float) -> float:
    outputs = problem.train.targets.shape[1]
    effective = float(np.max(descent.learning_rate) / (1 - descent.momentum))
    variance = float(BatchNoise.of(problem).variance())
    return effective * trace / (problem.samples * outputs) / 2 * variance


def sharpness(problem: Problem) -> float:
    """See `Stability`; at the initial parameters."""
    return _shape(problem, _start(problem))[0][0]


def _start(problem: Problem) -> Params:
    """The initial parameters, as one point. NumPy: jax.numpy would compile a program a shape."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[None], problem.train.model.initial())


def _shape(problem: Problem, points: Params) -> list[tuple[float, float]]:
    """The sharpness and the kernel's trace at some parameters, stacked; by Lanczos iteration."""
    train, objective = problem.train, problem.objective
    leaves = jax.tree.leaves(points)
    size, dtype = sum(leaf[0].size for leaf in leaves), np.result_type(*leaves)
    traces = np.asarray(_traces(train, points), float)

    def product(vectors: np.ndarray) -> np.ndarray:
        return np.asarray(_curve(train, points, vectors.astype(dtype), objective), float)

    return list(zip(_largest(product, len(traces), size).tolist(), traces.tolist(), strict=True))


@partial(jax.jit, static_argnames="objective")
def _curve(
    train: Examples, points: Params, moves: Float[Array, "points parameters"], objective: Objective
) -> Float[Array, "points parameters"]:
    """The Gauss-Newton matrix of each point times its move."""

    def curve(params: Params, move: Array) -> Array:
        outputs, moved = jax.jvp(train.model, (params,), (ravel_pytree(params)[1](move),))

        def slope(outputs: Array) -> Array:
            return jax.grad(lambda f: objective.loss(f, train.targets).mean())(outputs)

        curved = jax.jvp(slope, (outputs,), (moved,))[1]
        return ravel_pytree(jax.vjp(train.model, params)[1](curved)[0])[0]

    return jax.vmap(curve)(points, moves)


@jax.jit
def _traces(train: Examples, points: Params) -> Float[Array, " points"]:
    return jax.lax.map(lambda params: kernel_trace(train.model.at(params)), points)


def _largest(
    product: Callable[[np.ndarray], np.ndarray], count: int, size: int
) -> Float[np.ndarray, " matrices"]:
    """The largest eigenvalue of each of several symmetric matrices, to 1e-4 or so.

    Lanczos iteration with full orthogonalisation, for all of them side by side; not a number where
    the matrix is not finite.
    """
    if not size:
        return np.zeros(count)
    random = np.random.default_rng(0).normal(size=size)
    basis = [np.tile(random / np.linalg.norm(random), (count, 1))]
    projected = np.zeros((count, 0, 0))
    values = np.zeros(count)
    for _ in range(min(size, _MOST_ITERATIONS)):
        image = product(basis[-1])
        broken = ~np.isfinite(image).all(axis=1)
        image = np.where(broken[:, None], 0, image)
        vectors = np.stack(basis)
        overlaps = np.einsum("ipd,pd->pi", vectors, image)
        grown = np.zeros((count, len(basis), len(basis)))
        grown[:, :-1, :-1] = projected
        grown[:, -1, :], grown[:, :, -1] = overlaps, overlaps
        projected = grown
        before, values = values, np.where(broken, np.nan, np.linalg.eigvalsh(projected)[:, -1])
        if np.all(~(np.abs(values - before) > 1e-5 * np.abs(values))):
            break
        for _ in range(2):  # once more against rounding
            image = image - np.einsum(
                "ipd,pi->pd", vectors, np.einsum("ipd,pd->pi", vectors, image)
            )
        length = np.linalg.norm(image, axis=1, keepdims=True)
        basis.append(image / np.where(length > 0, length, 1))
    return values


def _slowed(descent: GradientDescent, at_start: float) -> GradientDescent:
    """Slow enough to be stable itself: the path is the same, on another clock."""
    rate, decay = float(descent.learning_rate.max()), float(descent.weight_decay)
    slow = min(1.0, 0.05 * critical_step(descent) / (rate * (at_start + decay)))
    return descent._replace(learning_rate=descent.learning_rate * slow)


def _path(problem: Problem, descents: Sequence[GradientDescent], steps: int) -> Params:
    """The parameters at three points of the training with each optimizer, (plans, points, ...)."""
    traced = replace(
        problem,
        optimizer=_PASSED_OVER,
        batch_size=min(_PATH_BATCH, problem.samples),
        seeds=problem.seeds[:1],
        validation=None,
    )
    grid = tuple(sorted({max(steps // 30, 1), max(steps // 5, 1), steps}))
    stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves), float), *descents)
    path = _points(traced, stacked, traced.orders(steps), grid)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], path)


@partial(jax.jit, static_argnames="grid")
def _points(
    problem: Problem, descents: GradientDescent, orders: Array, grid: tuple[int, ...]
) -> Params:
    """The parameters at points of the training with each optimizer and order."""
    rule, observe = GradientDescent.transformation, lambda _, params: params
    return train_all(problem, rule, descents, orders, np.array(grid), observe, None)
