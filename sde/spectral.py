"""Squared error mode by mode: what training is expected to do, without simulating it.

A linear tangent model with squared error is a quadratic. With the eigenvectors u_j of JᵀJ, the
eigenvalues λ_j of the kernel and h_j = λ_j/N, the coordinate z_j = u_jᵀ(θ − θ₀) has the gradient
(h_j + w)·z_j + c_j (w is the weight decay), so that heavy ball is a linear map of (z_j, v_j).

Minibatch noise keeps the mean and adds to each gradient coordinate a variance. With residuals that
are spread evenly over samples and outputs it is (ρ/B)·2L·h_j/C, less the full batch's own part (one
mode's share of many), which closes the equations on the mean and the covariance of each mode.
Without that part they are the Volterra equation L(t) = F(t) + Σ_s K(t − 1 − s) L(s) of Paquette et
al. (2021), with the full-batch loss F and K(n) = (ρ/B)(η²/C) Σ_j h_j² (1 − ηh_j)²ⁿ at m = 0, whose
sum is the noise mass for small η. Carrying the modes solves it in O(modes × steps), and lets the
noise remember what a shuffled epoch has yet to bring, see `BatchNoise`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linearize.types import Progress
from sde.descent import GradientDescent
from sde.modes import Modes, closed_form, eigenmodes, not_quadratic
from sde.noise import BatchNoise
from sde.problem import Problem
from sde.rollout import Grid, rollout
from sde.solver import (
    GROWING,
    NO_DESCENT,
    Solver,
    as_trajectory,
    check_alike,
    gradient_descents,
    stack,
    too_noisy,
    unstack,
)
from sde.stability import Stability
from sde.trajectory import Trajectory, log_grid

LARGEST_MASS = 0.03
"""The noise mass up to which the curves are within 2 % of training (`experiments/solvers`)."""


class Moments(NamedTuple):
    """Mean and covariance of each mode's position z and velocity v.

    Attributes:
        position: E z.
        velocity: E v.
        variance: var z.
        covariance: cov(z, v).
        velocity_variance: var v.
        level: cov(z, X), with what the noise remembers, see `BatchNoise`.
        velocity_level: cov(v, X).
    """

    position: Float[Array, " modes"]
    velocity: Float[Array, " modes"]
    variance: Float[Array, " modes"]
    covariance: Float[Array, " modes"]
    velocity_variance: Float[Array, " modes"]
    level: Float[Array, " modes"]
    velocity_level: Float[Array, " modes"]


Plans = tuple[GradientDescent, BatchNoise]


class Spectral(Solver):
    """The expected curves of a linear tangent model with squared error, one row.

    Full batches at a constant rate are solved in closed form, exactly; schedules mode by mode,
    exactly; minibatch noise as above, which is good while the noise mass is small. The accuracy is
    that of the expected outputs.
    """

    name = "spectral"

    def obstacle(self, problem: Problem, stable: Stability | None) -> str | None:
        """All that makes the problem another one than a quadratic, or too much noise."""
        if problem.growth is not None:
            return GROWING
        if stable is None:
            return NO_DESCENT
        return not_quadratic(problem) or too_noisy(stable, LARGEST_MASS)

    def solve(self, problem: Problem, grid: Grid, progress: Progress | None = None) -> Trajectory:
        """The expectation; in closed form for full batches at a constant rate."""
        (descent,) = gradient_descents([problem], int(grid[-1]))
        if problem.batch_size < problem.samples or not _is_constant(descent.learning_rate):
            return self.sweep([problem], grid, progress)[0]
        modes = eigenmodes(problem)
        positions = closed_form(modes, descent, grid)

        @jax.jit
        def read(problem: Problem, modes: Modes, positions: Array) -> Any:
            return jax.lax.map(lambda z: _evaluate(problem, modes, z, jnp.zeros_like(z)), positions)

        curves = read(problem, modes, jnp.asarray(positions))
        return as_trajectory(grid, jax.tree.map(lambda leaf: leaf[None], curves))

    def steps_to(self, problem: Problem, loss: float, max_steps: int) -> int | None:
        """The first step at which the expected training loss is at most `loss`, to the step.

        Dips between the points of a `log_grid` are not seen. None where it takes more than
        `max_steps`.
        """
        grid = log_grid(max_steps)
        while True:
            reached = self.solve(problem, grid).train.loss[0] <= loss
            first = int(reached.argmax())
            if not reached[first]:
                return None
            if first == 0 or grid[first] == grid[first - 1] + 1:
                return int(grid[first])
            finer = np.linspace(grid[first - 1], grid[first], 64).round().astype(int)
            grid = np.unique(finer)

    def sweep(
        self, problems: Sequence[Problem], grid: Grid, progress: Progress | None = None
    ) -> list[Trajectory]:
        """One compiled recursion over the steps, on one set of modes."""
        check_alike(problems)
        plans = stack(gradient_descents(problems, int(grid[-1])))
        noises = stack([BatchNoise.of(problem) for problem in problems])

        @jax.jit
        def run(problem: Problem, modes: Modes, plans: Plans) -> Any:
            outputs = problem.train.targets.shape[1]
            zero = jnp.zeros_like(modes.slope)

            def advance(moments: Moments, plan: Plans, _: Array, span: Array) -> Moments:
                descent, noise = plan

                def step(time: Array, now: Moments) -> Moments:
                    return _step(modes, now, descent, noise, time, outputs)

                return jax.lax.fori_loop(span[0], span[1], step, moments)

            return rollout(
                lambda *_: Moments(*[zero] * len(Moments._fields)),
                advance,
                lambda moments: _evaluate(problem, modes, moments.position, moments.variance),
                plans,
                jnp.zeros(1),
                grid,
                progress,
            )

        curves = run(problems[0], eigenmodes(problems[0]), (plans, noises))
        return unstack(grid, curves, len(problems))


def _step(
    modes: Modes,
    now: Moments,
    descent: GradientDescent,
    noise: BatchNoise,
    time: Array,
    outputs: int,
) -> Moments:
    """One step of training for the mean and the covariance of every mode."""
    rate, m, nesterov = descent.learning_rate[time], descent.momentum, descent.nesterov
    h, z = modes.curvature, now.position
    slope = modes.slope + h * z
    loss = modes.loss_initial + jnp.sum((modes.slope + h * z / 2) * z + h * now.variance / 2)
    spread = jnp.maximum(2 * loss * h / outputs - slope**2 - h**2 * now.variance, 0)
    loudness = jnp.sqrt(noise.intensity * spread)
    # Means.
    gradient = slope + descent.weight_decay * (z + modes.origin)
    velocity = m * now.velocity + gradient
    moved = velocity + nesterov * (gradient + m * velocity - velocity)
    # A step maps (z, v) to (a z + b v + p ε, k z + m v + q ε), with the noise ε of the gradient:
    # the loudness times an increment of X, which remembers -X/left.
    k, ahead = h + descent.weight_decay, 1 + nesterov * m
    a, b = 1 - rate * k * ahead, -rate * m * (1 + nesterov * (m - 1))
    p, q = -rate * ahead * loudness, loudness
    since = time % noise.restart
    left = noise.period - since
    zz, zv, vv = now.variance, now.covariance, now.velocity_variance
    seen_z, seen_v = a * now.level + b * now.velocity_level, k * now.level + m * now.velocity_level
    size = 1 - 1 / noise.period  # of an increment: its variance
    kept = (since + 1 < noise.restart) * (1 - 1 / left)
    gained = (since + 1 < noise.restart) * (left - 1) / noise.period
    return Moments(
        position=z - rate * moved,
        velocity=velocity,
        variance=a**2 * zz + 2 * a * b * zv + b**2 * vv + p**2 * size - 2 * p * seen_z / left,
        covariance=a * k * zz
        + (a * m + b * k) * zv
        + b * m * vv
        + p * q * size
        - (p * seen_v + q * seen_z) / left,
        velocity_variance=k**2 * zz
        + 2 * k * m * zv
        + m**2 * vv
        + q**2 * size
        - 2 * q * seen_v / left,
        level=kept * seen_z + gained * p,
        velocity_level=kept * seen_v + gained * q,
    )


def _evaluate(
    problem: Problem, modes: Modes, position: Array, variance: Array
) -> list[tuple[Array, Array]]:
    """The expected loss, and the accuracy of the expected outputs, on each set."""
    curves = []
    for examples, readout in zip(problem.sets, modes.readouts, strict=True):
        outputs = examples.model(examples.model.initial()) + readout @ position
        noise = jnp.square(readout).sum((0, 1)) @ variance / (2 * readout.shape[0])
        loss = problem.objective.loss(outputs, examples.targets).mean() + noise
        curves.append((loss, problem.objective.accuracy(outputs, examples.targets)))
    return curves


def _is_constant(rates: Any) -> bool:
    return bool(np.ptp(rates) <= 1e-5 * np.max(rates))
