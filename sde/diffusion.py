"""The stochastic differential equation of minibatch training, by Euler-Maruyama.

The function-space SDE of Zancato et al. (2020), df = −ηΘ∇L dt + (η/√B) J Σ^½ dn, in the projected
coordinates of the tangent model: the outputs f(θ) of a linear model move just so when θ does by

    dθ = −η ∇L dt + η √(ρ/B) (1/√N) Σ_i (g_i − ḡ) dξ_i,     ρ = (N − B)/(N − 1),

with the gradients g_i of the samples and N independent Brownian motions ξ_i; t counts steps of
training, and ρ is what drawing a batch without replacement leaves of its variance (0 for B = N: the
ODE). No root of a covariance is taken: drift and noise together are one gradient of one weighted
loss. Training by shuffled epochs replaces the Brownian motions by bridges, see `BatchNoise`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from linearize.types import Params, Progress
from sde.descent import GradientDescent
from sde.noise import BatchNoise
from sde.objective import CrossEntropy
from sde.problem import Problem
from sde.rollout import Grid, rollout
from sde.solver import (
    GROWING,
    NO_DESCENT,
    Solver,
    check_alike,
    evaluate,
    gradient_descents,
    stack,
    too_noisy,
    unstack,
)
from sde.stability import Stability
from sde.trajectory import Trajectory

LARGEST_MASS, LARGEST_MASS_BOUNDED = 0.03, 1.0
"""The noise mass up to which the SDE is within 1 % of training in steps (`experiments/solvers`):
in general, and where the gradients of the loss are bounded, so that no few paths carry the mean."""


class State(NamedTuple):
    """Position and velocity.

    Attributes:
        params: θ.
        velocity: v, the momentum buffer.
        level: X, what the noise remembers of each sample, see `BatchNoise`.
    """

    params: Params
    velocity: Params
    level: Float[Array, " samples"]


Plans = tuple[GradientDescent, BatchNoise]


@dataclass(frozen=True)
class Diffusion(Solver):
    """Euler-Maruyama paths of the SDE, one a seed, all at once.

    Momentum is an equation of second order: over a time of n steps with a gradient G that stays,
    heavy ball has v ← mⁿ v + b G and θ ← θ − η (m b v + (n − m b)/(1 − m) G), b = (1 − mⁿ)/(1 − m).
    That is the map used for any n, whole or not. At n = 1 it is the optimizer itself, so that only
    the noise is approximated; at m = 0 it is Euler's; for n → 0 it becomes the underdamped
    equation dv = ln m (v − G/(1 − m)) dt.

    Attributes:
        stride: steps of training per step of Euler-Maruyama, at most; it may be a fraction. Weak
            order 1, strong order ½ in it.
        effective_rate: replace momentum by the rate η/(1 − m), as the paper does. Good while
            `Stability.overshoot` is well below 1.
    """

    stride: float = 1.0
    effective_rate: bool = False

    name = "sde"

    def __post_init__(self) -> None:
        if not self.stride > 0:
            msg = f"stride: got {self.stride}; expected a number greater than 0"
            raise ValueError(msg)

    def obstacle(self, problem: Problem, stable: Stability | None) -> str | None:
        """Other than gradient descent with momentum on a frozen kernel, or too much noise."""
        if problem.growth is not None:
            return GROWING
        if stable is None:
            return NO_DESCENT
        bounded = isinstance(problem.objective, CrossEntropy)
        return too_noisy(stable, LARGEST_MASS_BOUNDED if bounded else LARGEST_MASS)

    def solve(self, problem: Problem, grid: Grid, progress: Progress | None = None) -> Trajectory:
        """One path a seed."""
        return self.sweep([problem], grid, progress)[0]

    def sweep(
        self, problems: Sequence[Problem], grid: Grid, progress: Progress | None = None
    ) -> list[Trajectory]:
        """One compiled call; a seed's noise is the same for every problem."""
        check_alike(problems)
        steps = int(grid[-1])
        descents = gradient_descents(problems, steps)
        if self.effective_rate:
            descents = [descent.at_effective_rate() for descent in descents]
        noises = [BatchNoise.of(problem) for problem in problems]
        keys = jnp.stack([jax.random.key(seed) for seed in problems[0].seeds])

        @jax.jit
        def run(problem: Problem, plans: Plans, keys: Array) -> Any:
            def advance(state: State, plan: Plans, key: Array, span: Array) -> State:
                return self._advance(problem, state, *plan, key, span)

            def observe(state: State) -> Any:
                return evaluate(problem, state.params)

            return rollout(lambda *_: start(problem), advance, observe, plans, keys, grid, progress)

        curves = run(problems[0], (stack(descents), stack(noises)), keys)
        return unstack(grid, curves, len(problems))

    def _advance(
        self,
        problem: Problem,
        state: State,
        descent: GradientDescent,
        noise: BatchNoise,
        key: Array,
        span: Array,
    ) -> State:
        """Steps of equal length, the stride at most, from the start of a span to its end."""
        length = span[1] - span[0]
        count = jnp.ceil(length / self.stride).astype(int)
        duration = length / jnp.maximum(count, 1)

        def step(i: Array, state: State) -> State:
            time = span[0] + i * duration
            rate = descent.learning_rate[(time + duration / 2).astype(int)]
            step_key = jax.random.fold_in(jax.random.fold_in(key, span[0]), i)
            normals = jax.random.normal(step_key, (2, problem.samples))
            return move(problem, state, descent, rate, noise, time, duration, normals)

        return jax.lax.fori_loop(0, count, step, state)


def accurate_stride(stable: Stability) -> float:
    """A tenth of the time in which the fastest mode decays, at least a step of training.

    On a logarithmic grid that costs well under 1 % in steps (`experiments/solvers`).
    """
    return max(1.0, 0.1 / (stable.effective_learning_rate * stable.sharpness))


def start(problem: Problem) -> State:
    """The initial parameters, at rest."""
    params = problem.train.model.initial()
    return State(params, jax.tree.map(jnp.zeros_like, params), jnp.zeros(problem.samples))


def move(
    problem: Problem,
    state: State,
    descent: GradientDescent,
    rate: Float[Array, ""],
    noise: BatchNoise,
    time: Float[Array, ""],
    duration: Float[Array, ""],
    normals: Float[Array, "2 samples"],
) -> State:
    """One step of Euler-Maruyama, see `Diffusion`.

    Args:
        problem: what is trained.
        state: where it stands.
        descent: its momentum and weight decay are read.
        rate: η, the learning rate.
        noise: of its minibatches.
        time: at the start, in steps of training.
        duration: n, in steps of training.
        normals: standard normal numbers, see `BatchNoise.increment`.
    """
    level, increments = noise.increment(state.level, time, duration, normals)
    scale = jnp.sqrt(noise.intensity / problem.samples) / duration
    weights = 1 / problem.samples + scale * (increments - increments.mean())
    pull = jax.grad(
        lambda params: jnp.vdot(weights, problem.train.losses(params, problem.objective))
    )(state.params)
    pull = jax.tree.map(lambda g, w: g + descent.weight_decay * w, pull, state.params)
    m, n = descent.momentum, duration
    kept = m**n
    gained = (1 - kept) / (1 - m)
    lasting = (n - m * gained) / (1 - m)

    def displacement(v: Array, g: Array) -> Any:
        heavy_ball = m * gained * v + lasting * g
        ahead = n * g + m * heavy_ball
        return heavy_ball + descent.nesterov * (ahead - heavy_ball)

    params = jax.tree.map(
        lambda w, v, g: w - rate * displacement(v, g), state.params, state.velocity, pull
    )
    velocity = jax.tree.map(lambda v, g: kept * v + gained * g, state.velocity, pull)
    return State(params, velocity, level)
