"""Gradient descent with momentum as numbers, and which optax optimizers are nothing else."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from scipy.signal import lfilter

from linearize.types import Params
from sde.equivariance import is_rotation_equivariant


class GradientDescent(NamedTuple):
    """v ← m·v + g + λ·θ, θ ← θ − η_t·v; Nesterov's form moves by g + λ·θ + m·v instead of v.

    Arrays, so that many of them stack along a leading axis and train in one `jax.vmap`.

    Attributes:
        learning_rate: η_t.
        momentum: m, in [0, 1).
        nesterov: 1 for Nesterov's form, else 0.
        weight_decay: λ.
    """

    learning_rate: Float[Array | np.ndarray, " steps"]
    momentum: Float[Array | np.ndarray, ""]
    nesterov: Float[Array | np.ndarray, ""]
    weight_decay: Float[Array | np.ndarray, ""]

    def transformation(self) -> optax.GradientTransformation:
        """The same as an optimizer."""

        def init(params: Params) -> tuple[Array, Params]:
            return jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params)

        def update(
            gradient: Params, state: tuple[Array, Params], params: Params | None = None
        ) -> tuple[Params, tuple[Array, Params]]:
            count, velocity = state
            gradient = jax.tree.map(lambda g, w: g + self.weight_decay * w, gradient, params)
            velocity = jax.tree.map(lambda v, g: self.momentum * v + g, velocity, gradient)
            rate = jnp.asarray(self.learning_rate)[count]
            updates = jax.tree.map(
                lambda v, g: -rate * (v + self.nesterov * (g + self.momentum * v - v)),
                velocity,
                gradient,
            )
            return updates, (count + 1, velocity)

        return optax.GradientTransformation(init, update)

    def at_effective_rate(self) -> GradientDescent:
        """Without momentum, at the rate η_t/(1 − m) with which it follows a lasting gradient."""
        zero = np.zeros(())
        rate = self.learning_rate / (1 - self.momentum)
        return GradientDescent(rate, zero, zero, self.weight_decay)


@lru_cache(maxsize=256)  # solvers ask again for each problem they are given
def as_gradient_descent(
    optimizer: optax.GradientTransformation, steps: int
) -> GradientDescent | None:
    """What an optimizer does in its first `steps` steps, as numbers, found by probing it.

    Any chain of transformations whose updates are those of gradient descent with a schedule,
    momentum and (coupled) weight decay is one, whatever it is called; clipping is not.

    Returns:
        The numbers, in double precision, or None where it is something else.

    Raises:
        ValueError: see `is_rotation_equivariant`.
    """
    if not is_rotation_equivariant(optimizer):
        return None
    zeros, ones = np.zeros(steps), np.ones(steps)
    (constant,) = _updates(optimizer, ones[None], zeros[None])
    peak = int(np.abs(constant).argmax())  # where the schedule, warm-up or not, is at work
    now, before = zeros.copy(), zeros.copy()
    now[peak] = 1
    before[max(peak - 1, 0)] = peak > 0
    random = np.random.default_rng(0)
    gradients = random.normal(size=steps) * 10.0 ** random.integers(-2, 3, steps)
    params = random.normal(size=steps)
    probed = _updates(
        optimizer,
        np.stack([now, before, zeros, gradients]),
        np.stack([zeros, zeros, ones, params]),
    )
    if not np.isfinite(probed).all() or not probed[0, peak]:
        return None
    ratio = max(probed[1, peak] / probed[0, peak], 0.0)
    decay = probed[2, peak] / constant[peak]
    for momentum, nesterov in ((ratio, 0.0), ((ratio + np.sqrt(ratio**2 + 4 * ratio)) / 2, 1.0)):
        if momentum >= 1:
            continue
        unit = _responses(ones, momentum, nesterov)
        found = GradientDescent(
            -constant / unit, np.array(momentum), np.array(nesterov), np.array(decay)
        )
        pulled = gradients + decay * params
        expected = -found.learning_rate * _responses(pulled, momentum, nesterov)
        if np.abs(expected - probed[3]).max() <= 1e-4 * np.abs(expected).max():
            return found
    return None


def _responses(gradients: np.ndarray, momentum: float, nesterov: float) -> np.ndarray:
    """The moves of gradient descent at rate −1, one a step."""
    velocity = lfilter([1.0], [1.0, -momentum], gradients)  # Σ_s m^(t−s) g_s
    return np.where(nesterov, gradients + momentum * velocity, velocity)


def _updates(
    optimizer: optax.GradientTransformation, gradients: np.ndarray, params: np.ndarray
) -> np.ndarray:
    """The updates of a scalar parameter, for several sequences of gradients and parameters."""

    def run(gradients: Array, params: Array) -> Array:
        def step(state: optax.OptState, pair: tuple[Array, Array]) -> tuple[optax.OptState, Array]:
            gradient, at = ({"body": value[None]} for value in pair)
            update, state = optimizer.update(gradient, state, at)
            return state, update["body"][0]

        return jax.lax.scan(step, optimizer.init({"body": params[:1]}), (gradients, params))[1]

    with jax.enable_x64(True):  # for momentum close to 1
        return np.asarray(jax.jit(jax.vmap(run))(gradients, params), float)
