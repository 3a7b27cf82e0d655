"""An optimizer's state after some steps of a network, as that of the network's tangent model."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from linearize import Network, Projection
from linearize.types import Params


class _Kind(NamedTuple):
    """How a part of the state follows from gradients: as which power, and of either sign alike."""

    degree: int
    even: bool


def carried(
    optimizer: optax.GradientTransformation,
    state: optax.OptState,
    network: Network,
    params: Params,
    projection: Projection,
) -> optax.OptState:
    """What the state would be, had the gradients been those of the tangent model.

    Averages of gradients are projected as these are; averages of their squares become what they are
    expected to be over the random signs of the projection. Which is which is found by probing.

    Args:
        optimizer: one that treats coordinates one by one.
        state: its state in training the network.
        network: the network.
        params: of the tangent model.
        projection: of the body's parameters.
    """
    slots, form = _parts(optimizer.init(params), params)
    parts, _ = _parts(state, network.params)

    def within(part: Params, kind: _Kind) -> Params:
        if "head" not in params:
            return {"body": _projected(part, kind, projection)}
        body = params["body"]
        if body.size:
            body = _projected(network.body(part), kind, projection)
        head = {"kernel": network.head_kernel(part), "bias": network.head_bias(part)}
        return {"head": {name: head[name] for name in params["head"]}, "body": body}

    kinds = _kinds(optimizer, params)
    found = [
        within(part, kind) if _alike(slot, params) else part
        for slot, part, kind in zip(slots, parts, kinds, strict=True)
    ]
    return jax.tree.unflatten(form, found)


def _projected(body: Params, kind: _Kind, projection: Projection) -> Array:
    if kind.even and kind.degree:
        power = 2 / kind.degree
        squares = jax.tree.map(lambda leaf: np.asarray(leaf) ** power, body)
        return projection.variance(squares) ** (1 / power)
    if not kind.degree:  # moves, not gradients
        return projection.point(body)
    return projection.bind(body)(jax.tree.map(lambda leaf: leaf[None], body))[0]


def _parts(state: optax.OptState, params: Params) -> tuple[list[Any], Any]:
    """A state's trees like the parameters, its other leaves, and how they are put together."""
    return jax.tree.flatten(state, is_leaf=lambda node: _alike(node, params))


def _alike(tree: Any, other: Any) -> bool:
    structure: Any = jax.tree.structure(tree)
    return structure == jax.tree.structure(other)


def _kinds(optimizer: optax.GradientTransformation, params: Params) -> list[_Kind]:
    """Of the parts of the optimizer's state."""

    def after(gradient: float) -> list[float]:
        start = jax.tree.map(lambda _: jnp.ones(1), params)
        slope = jax.tree.map(lambda _: jnp.full(1, gradient), params)
        state = optimizer.update(slope, optimizer.init(start), start)[1]
        return [float(jnp.ravel(jax.tree.leaves(part)[0])[0]) for part in _parts(state, params)[0]]

    return [
        _Kind(round(np.log10(abs(large / small))) if small and large else 0, small == opposite)
        for small, large, opposite in zip(after(1.0), after(10.0), after(-1.0), strict=True)
    ]
