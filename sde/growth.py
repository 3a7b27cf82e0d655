"""A kernel that grows while features form.

Training moves the features that the kernel is made of: its part from the body shrinks at first,
then grows many times over. To first order that is a factor γ(t) on the body's part of the kernel.
"""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from linearize.types import Params


def grown(
    optimizer: optax.GradientTransformation, growth: Float[Array, " steps"]
) -> optax.GradientTransformation:
    """An optimizer under which a frozen tangent model trains as one whose kernel grows.

    With a kernel γ(t) times that of the frozen model, a move of the body's parameters changes the
    outputs γ(t) times as much.

    Args:
        optimizer: of the tangent model.
        growth: γ at each step; its last value holds from then on.
    """

    def scaled(body: Array, count: Array) -> Array:
        return body * growth[jnp.minimum(count, len(growth) - 1)]

    def init(params: Params) -> tuple[Array, Any]:
        return jnp.zeros((), jnp.int32), optimizer.init(params)

    def update(
        gradient: Params, state: tuple[Array, Any], params: Params | None = None
    ) -> tuple[Params, tuple[Array, Any]]:
        count, inner = state
        updates, inner = optimizer.update(gradient, inner, params)
        return {**updates, "body": scaled(updates["body"], count)}, (count + 1, inner)

    return optax.GradientTransformation(init, update)
