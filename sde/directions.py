"""The way of a head, and the few directions of feature space that it reads while it trains."""

import jax.numpy as jnp
import numpy as np
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
    path: Float[Array, "seeds grid features outputs"],
    most: int,
    *,
    kept: float = 1.0,
    centred: bool = False,
) -> Float[Array, "features directions"]:
    """The principal directions of W(t), each W(t) counting alike.

    Only Wᵀ Q Qᵀ h enters the outputs: directions that W(t) never reads can be left out. A fresh
    head may be a hundredth of the trained one, and it is read from first to last where the body
    moves faster than the head.

    Args:
        path: from `head_path`.
        most: q; fewer are returned where feature space has fewer.
        kept: of the squared norm of W(t) in the mean; fewer are returned where they keep that.
        centred: leave out what all outputs have in common, see `Objective.relative`.

    Returns:
        Q, orthonormal columns.
    """
    path = jnp.nan_to_num(path)
    if centred:
        path -= path.mean(-1, keepdims=True)
    norms = jnp.linalg.norm(path, axis=(2, 3), keepdims=True)
    alike = path / jnp.where(norms > 0, norms, 1)
    stacked = jnp.moveaxis(alike, 2, 0).reshape(path.shape[2], -1)
    left, sizes, _ = jnp.linalg.svd(stacked, full_matrices=False)
    held = np.cumsum(np.square(sizes, dtype=float))
    return left[:, : min(most, 1 + int((held < kept * held[-1]).sum()))]
