"""Whether an optimizer commutes with rotations of parameter space, as the replay needs."""

import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from linearize.errors import first_line
from linearize.types import Params

_STEPS = 4


def is_rotation_equivariant(optimizer: optax.GradientTransformation) -> bool:
    """Probe an optimizer: do rotated gradients and parameters give rotated updates?

    True for gradient descent with momentum, Nesterov, clipping by the global norm, weight decay and
    schedules. False for Adam and all others that treat coordinates or tensors one by one, masks of
    the head's kernel or bias and of matrices or vectors among them.

    Raises:
        ValueError: the optimizer does not run on the tree of a tangent model (it masks by name).
    """
    random = np.random.default_rng(0)
    size = len(ravel_pytree(_tree())[0])
    rotation = np.linalg.qr(random.normal(size=(size, size)))[0]
    start = random.normal(size=size)
    # Small and large gradients, so that clipping is seen on both sides of its threshold.
    gradients = random.normal(size=(_STEPS, size)) * np.array([[0.01], [1.0], [100.0], [0.1]])
    try:
        plain = _updates(optimizer, start, gradients)
        rotated = _updates(optimizer, rotation @ start, gradients @ rotation.T)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        msg = (
            "optimizer: it does not run on another tree than the network's own, so it cannot be "
            f"replayed ({first_line(error)}); give one without masks by name"
        )
        raise ValueError(msg) from error
    distance = np.linalg.norm(plain @ rotation.T - rotated, axis=1)
    return bool((distance <= 1e-3 * np.linalg.norm(plain, axis=1) + 1e-12).all())


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
