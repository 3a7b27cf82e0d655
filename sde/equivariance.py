"""Whether an optimizer commutes with rotations of parameter space, as the replay needs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

_SIZE = 6
_STEPS = 4


def is_rotation_equivariant(optimizer: optax.GradientTransformation) -> bool:
    """Probe an optimizer: do rotated gradients and parameters give rotated updates?

    True for gradient descent with momentum, Nesterov, clipping by the global norm, weight decay and
    schedules. False for Adam and all others that treat coordinates or tensors one by one.

    Raises:
        ValueError: the optimizer does not run on a tree of two vectors (it masks by name or shape).
    """
    random = np.random.default_rng(0)
    rotation = np.linalg.qr(random.normal(size=(2 * _SIZE, 2 * _SIZE)))[0]
    start = random.normal(size=2 * _SIZE)
    # Small and large gradients, so that clipping is seen on both sides of its threshold.
    gradients = random.normal(size=(_STEPS, 2 * _SIZE)) * np.array([[0.01], [1.0], [100.0], [0.1]])
    try:
        plain = _updates(optimizer, start, gradients)
        rotated = _updates(optimizer, rotation @ start, gradients @ rotation.T)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
        msg = (
            "optimizer: it does not run on a plain tree of vectors, so it cannot be replayed "
            f"({first}); give one without masks by name or shape"
        )
        raise ValueError(msg) from error
    distance = np.linalg.norm(plain @ rotation.T - rotated, axis=1)
    return bool((distance <= 1e-3 * np.linalg.norm(plain, axis=1) + 1e-12).all())


def _updates(
    optimizer: optax.GradientTransformation, start: np.ndarray, gradients: np.ndarray
) -> np.ndarray:
    def tree(vector: np.ndarray) -> dict[str, jax.Array]:
        first, second = jnp.asarray(vector[:_SIZE]), jnp.asarray(vector[_SIZE:])
        return {"first": first, "second": second}

    params = tree(start)
    state = optimizer.init(params)
    updates = []
    for gradient in gradients:
        update, state = optimizer.update(tree(gradient), state, params)
        params = optax.apply_updates(params, update)
        updates.append(np.concatenate([update["first"], update["second"]]))
    return np.stack(updates)
