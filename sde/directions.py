"""The way of a head, and the few directions of feature space that it reads while it trains."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from linearize.types import Params
from sde.problem import Problem
from sde.rollout import Grid
from sde.training import observe


def head_path(pilot: Problem, grid: Grid) -> Float[Array, "seeds grid features outputs"]:
    """W(t), the head's kernel, along the training of a pilot model.

    Args:
        pilot: of a `HeadExactTangent`: few samples with all directions, or many with none (the
            head alone).
        grid: the steps at which W is looked at.
    """
    return observe(pilot, grid, head_kernel)


def head_kernel(_: Problem, params: Params) -> Float[Array, "features outputs"]:
    """W, as an observation."""
    return params["head"]["kernel"]


def head_directions(
    path: Float[Array, "seeds grid features outputs"], count: int
) -> Float[Array, "features directions"]:
    """The principal directions of W(t).

    Only Wᵀ Q Qᵀ h enters the outputs: directions that W(t) never reads can be left out.

    Args:
        path: from `head_path`.
        count: q; fewer are returned where feature space has fewer.

    Returns:
        Q, orthonormal columns.
    """
    stacked = jnp.moveaxis(path, 2, 0).reshape(path.shape[2], -1)
    left, _, _ = jnp.linalg.svd(jnp.nan_to_num(stacked), full_matrices=False)
    return left[:, :count]
