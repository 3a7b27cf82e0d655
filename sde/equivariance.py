"""What an optimizer does not tell apart: the two kinds that can be replayed on few coordinates."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from linearize.errors import first_line
from linearize.types import Params

_STEPS = 4
_PATIENCE = 16
"""Rounds of so many steps given to an optimizer that does not move in the first."""


@lru_cache(maxsize=256)  # asked again wherever an optimizer is used
def is_rotation_equivariant(optimizer: optax.GradientTransformation) -> bool:
    """Probe an optimizer: do rotated gradients and parameters give rotated updates?

    True for gradient descent with momentum, Nesterov, clipping by the global norm, weight decay and
    schedules. False for Adam and all others that treat coordinates or tensors one by one, masks of
    the head's kernel or bias and of matrices or vectors among them.

    Raises:
        ValueError: the optimizer does not run on the tree of a tangent model (it masks by name).
    """
    start, gradients, random = _probe()
    rotation = np.linalg.qr(random.normal(size=(start.size, start.size)))[0]
    plain, rotated = _both(
        optimizer, (start, gradients), (rotation @ start, gradients @ rotation.T)
    )
    return _same(plain @ rotation.T, rotated, 1e-3)


@lru_cache(maxsize=256)
def is_coordinate_wise(optimizer: optax.GradientTransformation) -> bool:
    """Probe an optimizer: does it treat coordinates one by one, free of their gradients' scale?

    True for Adam, AdamW, RMSprop, Lion and sign descent with schedules and decoupled weight decay:
    permuted coordinates give permuted updates, and a coordinate whose gradients are all c times as
    large, c > 0, moves as before. False where gradients are clipped by their global norm, where ε
    (or Adagrad's first accumulator) is as large as they are, and where nothing moves.

    Raises:
        ValueError: the optimizer does not run on the tree of a tangent model (it masks by name).
    """
    start, gradients, random = _probe()
    order = random.permutation(start.size)
    scale = 10 ** random.uniform(-1, 1, start.size)
    plain, changed = _both(
        optimizer, (start, gradients), (start[order], gradients[:, order] * scale)
    )
    return bool(plain.any()) and _same(plain[:, order], changed, 1e-2)


def _probe() -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Parameters, gradients of a few steps, and more randomness."""
    random = np.random.default_rng(0)
    size = len(ravel_pytree(_tree())[0])
    start = random.normal(size=size)
    # Small and large gradients, so that clipping is seen on both sides of its threshold.
    gradients = random.normal(size=(_STEPS, size)) * np.array([[0.01], [1.0], [100.0], [0.1]])
    return start, gradients, random


def _same(expected: np.ndarray, updates: np.ndarray, tolerance: float) -> bool:
    distance = np.linalg.norm(expected - updates, axis=1)
    return bool((distance <= tolerance * np.linalg.norm(expected, axis=1) + 1e-12).all())


def _both(
    optimizer: optax.GradientTransformation, *cases: tuple[np.ndarray, np.ndarray]
) -> list[np.ndarray]:
    """The updates in each case of (parameters, gradients)."""
    try:
        found = [_updates(optimizer, *case) for case in cases]
        if any(updates.any() for updates in found):
            return found
        # It gathers gradients at first, or its schedule rests.
        patient = optimizer._replace(update=jax.jit(optimizer.update))
        rounds = [(start, np.tile(gradients, (_PATIENCE, 1))) for start, gradients in cases]
        return [_updates(patient, *case) for case in rounds]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        msg = (
            "optimizer: it does not run on another tree than the network's own, so it cannot be "
            f"replayed ({first_line(error)}); give one without masks by name"
        )
        raise ValueError(msg) from error


def _updates(
    optimizer: optax.GradientTransformation, start: np.ndarray, gradients: np.ndarray
) -> np.ndarray:
    unravel = ravel_pytree(_tree())[1]
    params = unravel(jnp.asarray(start, jnp.float32))
    state = optimizer.init(params)
    updates = []
    for gradient in gradients:
        update, state = optimizer.update(unravel(jnp.asarray(gradient, jnp.float32)), state, params)
        params = optax.apply_updates(params, update)
        updates.append(np.asarray(ravel_pytree(update)[0], float))
    return np.stack(updates)


def _tree() -> Params:
    """The parameters of a small tangent model: names, a matrix and vectors for masks to tell."""
    head = {"kernel": jnp.zeros((2, 3), jnp.float32), "bias": jnp.zeros(3, jnp.float32)}
    return {"head": head, "body": jnp.zeros(4, jnp.float32)}
