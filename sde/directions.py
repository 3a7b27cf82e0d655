"""The few directions of feature space that a head will read while it trains."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from sde.objective import Objective
from sde.replay import Examples, Grid, Orders, observe


def head_directions(
    pilot: Examples,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    orders: Orders,
    grid: Grid,
    count: int,
) -> Float[Array, "features directions"]:
    """The principal directions of W(t), the head's kernel, along the training of a pilot model.

    Only Wᵀ Q Qᵀ h enters the outputs: directions that W(t) never reads can be left out.

    Args:
        pilot: a `HeadExactTangent`: few samples with all directions, or many with none (the head
            alone).
        objective: as for `replay`.
        optimizer: as for `replay`.
        orders: as for `replay`.
        grid: the steps at which W is looked at.
        count: q; fewer are returned where feature space has fewer.

    Returns:
        Q, orthonormal columns.
    """
    kernels = observe(
        pilot, objective, optimizer, orders, grid, lambda params, _: params["head"]["kernel"]
    )
    stacked = jnp.moveaxis(kernels, 2, 0).reshape(kernels.shape[2], -1)
    left, _, _ = jnp.linalg.svd(jnp.nan_to_num(stacked), full_matrices=False)
    return left[:, :count]
