"""Tangent models of small networks, and explicit Jacobians to hold them against."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from linearize import (
    CountSketch,
    Identity,
    Network,
    linearize,
)
from linearize.network import merge
from tests import networks


@cache
def exact(name: str, mode: Any) -> Any:
    """The tangent model of a case in float64, with all directions and no projection."""
    case = networks.double(name)
    return linearize(case.network, case.inputs, Identity(), mode=mode, checked=True)


SKETCH = CountSketch(32)


@cache
def projected(mode: Any) -> Any:
    """The tangent model of the perceptron in float32, projected."""
    network, x = networks.perceptron()
    return linearize(network, x, SKETCH, mode=mode, checked=True)


def explicit_jacobian(function: Any, params: Any) -> jax.Array:
    """By reverse mode over the flattened parameters: (samples, outputs, parameters)."""
    flat, unravel = ravel_pytree(params)
    return jax.jit(jax.jacrev(lambda vector: function(unravel(vector))))(flat)


@cache
def feature_jacobian(name: str) -> jax.Array:
    """J_h, of the oracle's body by the body's parameters: (samples, features, parameters)."""
    case = networks.double(name)
    network = case.network
    return explicit_jacobian(
        lambda body: case.hidden(merge(body, network.params), case.inputs),
        network.body(network.params),
    )


def assert_same(got: Any, expected: Any, tolerance: float = 1e-10) -> None:
    error = jnp.abs(got - expected).max() / jnp.abs(expected).max()
    assert error <= tolerance


def rebuilt(trainable: Any, *, bias: bool = True) -> tuple[Network, jax.Array]:
    network, x = networks.perceptron(bias=bias)
    return Network.from_function(
        network.function, network.params, head="head", trainable=trainable
    ), x


def tangent(mode: Any, directions: Any = None, trainable: Any = None) -> Any:
    """The tangent model of the perceptron in float64."""
    network, x = rebuilt(trainable)
    return linearize(network, x, Identity(), mode=mode, directions=directions, checked=True)
