"""A network around its weights: its features, its Jacobian and what they make, a tangent model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linearize.batches import map_batches
from linearize.guards import check
from linearize.jacobian import Jacobian, projected_jacobian
from linearize.network import Network
from linearize.projection import CountSketch, Identity, Projection
from linearize.tangent import HeadExactTangent, LinearTangent
from linearize.types import Inputs, Progress

Mode = Literal["head_exact", "linear"]
Directions = (
    Float[Array | np.ndarray, "features directions"]
    | Callable[[HeadExactTangent], Float[Array, "features directions"]]
)
Movements = (
    Float[Array | np.ndarray, "moves features"]
    | Callable[[HeadExactTangent], Float[Array, "moves features"]]
)
_Project = Callable[[HeadExactTangent | None], Projection]
_Differentiate = Callable[..., Jacobian]

_RIDGE = 1e-3
"""Of the mean square of movements along a direction."""


def linearize(
    network: Network,
    samples: Inputs,
    projection: Projection | _Project | None = None,
    *,
    mode: Mode | None = None,
    directions: Directions | None = None,
    movements: Movements | None = None,
    memory_bytes: int = 2**29,
    checked: bool = False,
    progress: Progress | None = None,
) -> HeadExactTangent | LinearTangent:
    """Linearise a network around its weights on some samples.

    Args:
        network: the network; its trainable parameters are what training will move.
        samples: inputs, samples on the leading axis.
        projection: of parameter space; by default `CountSketch()`, and `Identity()` for networks
            with no more parameters than it has columns. Or a function that makes it from the model
            in which only the head moves (None where the mode is ``"linear"``).
        mode: ``"head_exact"`` (default where the network has a trainable head) or ``"linear"``,
            the plain tangent model of the paper.
        directions: Q for ``"head_exact"``, or a function that finds it from the model in which only
            the head moves; all of feature space by default. Only its span matters.
        movements: how features move as the body trains (see `feature_movement`), or a function that
            finds it after the directions; by default only along the directions.
        memory_bytes: bound on the raw Jacobians held at once (at least one sample's). The result
            itself takes samples × directions × k numbers, or samples × outputs × k.
        checked: the network has passed `check` already; it is not checked again.
        progress: called with (samples done, samples in all).

    Returns:
        The tangent model on these samples. One sample costs one forward and one backward pass per
        direction (or output).

    Raises:
        ValueError: the network fails a guard (see `check`), an unknown mode, ``"head_exact"``
            without a trainable head, directions of another feature space.
    """
    if not checked:
        check(network, samples)
    exact_head = network.head is not None and network.is_trainable(network.head.kernel)
    if mode is None:
        mode = "head_exact" if exact_head else "linear"
    differentiate = partial(
        projected_jacobian, samples=samples, memory_bytes=memory_bytes, progress=progress
    )
    if mode == "linear":
        return _linear_tangent(network, differentiate, _chosen(projection, network, None))
    if mode != "head_exact":
        msg = f"mode: got {mode!r}; expected 'head_exact' or 'linear'"
        raise ValueError(msg)
    if not exact_head:
        msg = f"mode: 'head_exact' needs a trainable head in {network.name}; use mode='linear'"
        raise ValueError(msg)
    still = _still_body(network, body_features(network, samples))
    if not jax.tree.leaves(network.body(network.params)):
        return still
    if callable(directions):
        directions = directions(still)
    orthonormal = _orthonormal(still, directions)
    if callable(movements):
        movements = movements(still)
    return _moving_body(
        network,
        still,
        orthonormal,
        _lift(orthonormal, movements),
        differentiate,
        _chosen(projection, network, still),
    )


def body_features(
    network: Network, samples: Inputs, *, batch: int = 256
) -> Float[Array, "samples features"]:
    """h(x), the inputs of the head, by forward passes over batches of samples."""
    basis = jnp.asarray(np.eye(network.head_kernel(network.params).shape[0]), float)
    forward = jax.jit(lambda params, inputs: network.features(params, inputs, basis))
    return map_batches(partial(forward, network.params), samples, batch)


def _chosen(
    projection: Projection | _Project | None, network: Network, still: HeadExactTangent | None
) -> Projection:
    if projection is None:
        small = network.parameter_count <= CountSketch.columns
        return Identity() if small else CountSketch()
    return projection if isinstance(projection, Projection) else projection(still)


def _linear_tangent(
    network: Network, differentiate: _Differentiate, projection: Projection
) -> LinearTangent:
    at = differentiate(network.apply, network.params, projection=projection)
    return LinearTangent(at.values, at.rows, at.origin, exact=isinstance(projection, Identity))


def _still_body(network: Network, features: Array) -> HeadExactTangent:
    """The model in which only the head moves."""
    kernel, bias = network.head_kernel(network.params), network.head_bias(network.params)
    head = network.head
    return HeadExactTangent(
        features_initial=features,
        jacobian=jnp.zeros((features.shape[0], 0, 0), features.dtype),
        directions=jnp.zeros((features.shape[1], 0), features.dtype),
        lift=jnp.zeros((features.shape[1], 0), features.dtype),
        origin=jnp.zeros(0, features.dtype),
        body_initial=jnp.zeros(0, features.dtype),
        kernel_initial=kernel,
        bias_initial=jnp.zeros(kernel.shape[1], kernel.dtype) if bias is None else bias,
        bias_trains=head is not None and head.bias is not None and network.is_trainable(head.bias),
        nonnegative=bool((np.asarray(features) >= 0).all()),
        exact=True,
    )


def _moving_body(
    network: Network,
    still: HeadExactTangent,
    directions: Array,
    lift: Array,
    differentiate: _Differentiate,
    projection: Projection,
) -> HeadExactTangent:
    body = network.body(network.params)
    at = differentiate(network.features_by_body(directions), body, projection=projection)
    return replace(
        still,
        jacobian=at.rows,
        directions=directions,
        lift=lift,
        origin=at.origin,
        body_initial=at.origin,
        exact=isinstance(projection, Identity),
    )


def _orthonormal(still: HeadExactTangent, directions: Any) -> Array:
    features = still.features_initial.shape[1]
    if directions is None:
        return jnp.eye(features, dtype=still.features_initial.dtype)
    if directions.ndim != 2 or directions.shape[0] != features or directions.shape[1] < 1:
        msg = f"directions: got shape {directions.shape}; expected ({features}, q), q at least 1"
        raise ValueError(msg)
    return jnp.linalg.qr(jnp.asarray(directions))[0]


def _lift(directions: Array, movements: Any) -> Array:
    """L: by least squares over the movements, where they lie off the directions."""
    if movements is None:
        return directions
    if movements.ndim != 2 or movements.shape[1] != len(directions):
        msg = f"movements: got shape {movements.shape}; expected (moves, {len(directions)})"
        raise ValueError(msg)
    return _least_squares(directions, jnp.asarray(movements))


@jax.jit
def _least_squares(directions: Array, moves: Array) -> Array:
    along = moves @ directions
    moment, count = along.T @ along, along.shape[1]
    ridge = _RIDGE * jnp.trace(moment) / count + np.finfo(np.float32).tiny
    lift = jnp.linalg.solve(moment + ridge * jnp.eye(count), along.T @ moves).T
    return directions + lift - directions @ (directions.T @ lift)
