"""The few directions of feature space that a head will read while it trains."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from sde.problem import Problem
from sde.rollout import Grid
from sde.training import observe


def head_directions(pilot: Problem, grid: Grid, count: int) -> Float[Array, "features directions"]:
    """The principal directions of W(t), the head's kernel, along the training of a pilot model.

    Only Wᵀ Q Qᵀ h enters the outputs: directions that W(t) never reads can be left out.

    Args:
        pilot: of a `HeadExactTangent`: few samples with all directions, or many with none (the
            head alone).
        grid: the steps at which W is looked at.
        count: q; fewer are returned where feature space has fewer.

    Returns:
        Q, orthonormal columns.
    """
    kernels = observe(pilot, grid, lambda _, params: params["head"]["kernel"])
    stacked = jnp.moveaxis(kernels, 2, 0).reshape(kernels.shape[2], -1)
    left, _, _ = jnp.linalg.svd(jnp.nan_to_num(stacked), full_matrices=False)
    return left[:, :count]
