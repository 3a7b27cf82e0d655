"""Second moments of minibatch gradients against gradients written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from linearize import gradient_moments, pullback
from tests import networks

SAMPLES = 12
COTANGENTS = jax.random.normal(jax.random.key(7), (SAMPLES, networks.OUTPUTS))


def explicit(batches: list[np.ndarray]) -> np.ndarray:
    """The gradient of each minibatch from its own samples' Jacobians, squared and averaged."""
    network, x = networks.perceptron(samples=SAMPLES)
    flat, unravel = ravel_pytree(network.params)
    jacobian = jax.jacrev(lambda vector: network.apply(unravel(vector), x))(flat)
    gradients = [np.einsum("nc,nck->k", COTANGENTS[index], jacobian[index]) for index in batches]
    return np.square(gradients).mean(0)


def moments(batch: int) -> Any:
    network, x = networks.perceptron(samples=SAMPLES)
    return gradient_moments(pullback(network.apply), network.params, x, COTANGENTS, batch=batch)


@pytest.mark.parametrize("batch", [1, 4, 5, 8, 12, 40])
def test_moments_are_those_of_each_minibatch(batch: int) -> None:
    """The last minibatch is smaller where the samples do not go round."""
    index = np.arange(SAMPLES)
    expected = explicit([index[i : i + batch] for i in range(0, SAMPLES, batch)])
    got = ravel_pytree(moments(batch))[0]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6 * expected.max())


def test_moments_are_a_tree_like_the_parameters() -> None:
    network, _ = networks.perceptron(samples=SAMPLES)
    assert jax.tree.structure(moments(4)) == jax.tree.structure(network.params)
    shapes = jax.tree.map(lambda a, b: a.shape == b.shape, moments(4), network.params)
    assert all(jax.tree.leaves(shapes))


def test_a_parameter_that_nothing_depends_on_has_none() -> None:
    network, x = networks.perceptron(samples=SAMPLES)
    params = {**network.params, "unused": jnp.ones(2), "frozen": None}
    found = gradient_moments(
        pullback(lambda p, inputs: network.function({k: p[k] for k in ("body", "head")}, inputs)),
        params,
        x,
        COTANGENTS,
        batch=4,
    )
    np.testing.assert_array_equal(found["unused"], np.zeros(2))
    assert found["frozen"] is None
    np.testing.assert_array_equal(found["head"]["bias"], moments(4)["head"]["bias"])


def test_inputs_may_be_a_tree() -> None:
    network, x = networks.perceptron(samples=SAMPLES)
    split = replace(
        network, function=lambda p, i: network.function(p, jnp.concatenate([i["a"], i["b"]], 1))
    )
    inputs = {"a": x[:, :2], "b": x[:, 2:]}
    got = gradient_moments(pullback(split.apply), split.params, inputs, COTANGENTS, batch=5)
    expected = ravel_pytree(moments(5))[0]
    np.testing.assert_allclose(ravel_pytree(got)[0], expected, rtol=1e-4, atol=1e-6)
