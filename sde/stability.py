"""Which learning rates are stable, and how loud the minibatch noise is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import LinearOperator, eigsh

from linearize import LinearTangent, kernel_trace
from sde.descent import GradientDescent, as_gradient_descent
from sde.noise import BatchNoise
from sde.objective import SquaredError
from sde.problem import Problem
from sde.training import observe


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
    if descent is None:
        return None
    rate = float(descent.learning_rate.max())
    step, decay = critical_step(descent), float(descent.weight_decay)
    at_start = sharpness(problem)
    if not at_start:
        return None
    points = [problem]
    if not (
        isinstance(problem.train.model, LinearTangent)
        and isinstance(problem.objective, SquaredError)
    ):
        # Slow enough to be stable itself: the path is the same, on another clock.
        slow = min(1.0, 0.05 * step / (rate * (at_start + decay)))
        points += _path(problem, descent, slow, steps)
    sharpest = max([at_start, *(sharpness(point) for point in points[1:])])
    return Stability(
        learning_rate=rate,
        effective_learning_rate=rate / (1 - float(descent.momentum)),
        critical_learning_rate=step / (sharpest + decay),
        noise_mass=max(noise_mass(point, descent) for point in points),
        sharpness=sharpest,
    )


def critical_step(descent: GradientDescent) -> float:
    """The largest stable η·h on a curvature h: 2(1 + m), or 2(1 + m)/(1 + 2m) for Nesterov."""
    momentum, nesterov = float(descent.momentum), float(descent.nesterov)
    return 2 * (1 + momentum) / (1 + 2 * momentum * nesterov)


def noise_mass(problem: Problem, descent: GradientDescent) -> float:
    """See `Stability`; at the initial parameters."""
    outputs = problem.train.targets.shape[1]
    trace = float(kernel_trace(problem.train.model)) / (problem.samples * outputs)
    effective = float(np.max(descent.learning_rate) / (1 - descent.momentum))
    return effective * trace / 2 * float(BatchNoise.of(problem).variance())


def sharpness(problem: Problem) -> float:
    """See `Stability`; at the initial parameters, by Lanczos iteration."""
    params = problem.train.model.initial()
    flat, unravel = ravel_pytree(params)
    if not flat.size:
        return 0.0

    @jax.jit
    def product(problem: Problem, vector: jax.Array) -> jax.Array:
        model, targets = problem.train
        outputs, moved = jax.jvp(model, (params,), (unravel(vector),))

        def slope(outputs: jax.Array) -> jax.Array:
            return jax.grad(lambda f: problem.objective.loss(f, targets).mean())(outputs)

        curved = jax.jvp(slope, (outputs,), (moved,))[1]
        return ravel_pytree(jax.vjp(model, params)[1](curved)[0])[0]

    def matvec(vector: np.ndarray) -> np.ndarray:
        return np.asarray(product(problem, np.asarray(vector, flat.dtype).reshape(-1)))

    start = np.random.default_rng(0).normal(size=flat.size).astype(flat.dtype)
    once = matvec(start)
    if flat.size == 1 or not once.any():
        return float(once[0] / start[0])
    operator = LinearOperator((flat.size, flat.size), matvec=matvec, dtype=flat.dtype)
    return float(eigsh(operator, k=1, v0=start, tol=1e-3, return_eigenvectors=False)[0])


def _path(problem: Problem, descent: GradientDescent, slow: float, steps: int) -> list[Problem]:
    """The problem seen from three points of its own training."""
    slower = descent._replace(learning_rate=descent.learning_rate * slow)
    traced = replace(
        problem, seeds=problem.seeds[:1], optimizer=slower.transformation(), validation=None
    )
    grid = np.unique([max(steps // 30, 1), max(steps // 5, 1), steps])
    path = observe(traced, grid, lambda _, params: params)
    points = [jax.tree.map(lambda leaf: leaf[0, i], path) for i in range(len(grid))]  # noqa: B023
    return [
        problem.at(point)
        for point in points
        if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(point))
    ]
