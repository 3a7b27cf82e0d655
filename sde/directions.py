"""The way of a head, and the few directions of feature space that it reads while it trains."""

from functools import partial

import jax
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
    left, sizes = _principal(path, centred=centred)
    held = np.cumsum(np.square(sizes, dtype=float))
    return left[:, : min(most, 1 + int((held < kept * held[-1]).sum()))]


@partial(jax.jit, static_argnames="centred")
def _principal(path: Array, *, centred: bool) -> tuple[Array, Array]:
    """Left singular vectors and singular values of all W(t) side by side, each of norm 1."""
    path = jnp.nan_to_num(path)
    if centred:
        path -= path.mean(-1, keepdims=True)
    norms = jnp.linalg.norm(path, axis=(2, 3), keepdims=True)
    alike = path / jnp.where(norms > 0, norms, 1)
    stacked = jnp.moveaxis(alike, 2, 0).reshape(path.shape[2], -1)
    left, sizes, _ = jnp.linalg.svd(stacked, full_matrices=False)
    return left, sizes


def moved_directions(
    directions: Float[Array, "features directions"],
    movements: Float[Array, "moves features"],
    most: int,
    *,
    kept: float = 1.0,
) -> Float[Array, "features more"]:
    """Directions, and with them the principal ones along which features move off their span.

    Behind a ReLU it takes a feature's own movement to tell how it bends, and what the head reads
    of it is not enough: the fewer directions it reads, the more of the movement is off them.

    Args:
        directions: orthonormal columns, such as `head_directions`.
        movements: see `linearize.feature_movement`.
        most: q; those given stay, even where they are more.
        kept: of the squared norm of the movements; no more are added once they keep that.

    Returns:
        Q, orthonormal columns.
    """
    off = movements - (movements @ directions) @ directions.T
    _, sizes, right = jnp.linalg.svd(off, full_matrices=False)
    squares = np.square(sizes, dtype=float)
    left = squares.sum() - np.concatenate([[0.0], np.cumsum(squares)[:-1]])
    allowed = (1 - kept) * float(jnp.square(movements).sum())
    added = min(int((left > allowed).sum()), max(most - directions.shape[1], 0))
    return jnp.linalg.qr(jnp.concatenate([directions, right[:added].T], axis=1))[0]
