"""Feature movements against explicit Jacobians."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from linearize import feature_movement
from linearize.network import merge
from tests import networks

SAMPLES, WIDTH = 12, 8
COTANGENTS = jax.random.normal(jax.random.key(7), (SAMPLES, WIDTH))


def jacobian() -> jax.Array:
    """Of the features by the body: (samples, features, parameters)."""
    network, x = networks.perceptron(samples=SAMPLES, width=WIDTH)
    flat, unravel = ravel_pytree(network.body(network.params))

    def hidden(vector: jax.Array) -> jax.Array:
        return network.features(merge(unravel(vector), network.params), x, jnp.eye(WIDTH))

    return jax.jacrev(hidden)(flat)


@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("batch", [1, 5, 12, 40])
def test_features_move_as_one_step_of_the_body_has_it(batch: int, signs: bool) -> None:
    """The samples are one batch, however many are looked at together."""
    network, x = networks.perceptron(samples=SAMPLES, width=WIDTH)
    gradient = jnp.einsum("nd,ndk->k", COTANGENTS, jacobian())
    moved = jacobian() @ -(jnp.sign(gradient) if signs else gradient)
    steps = jnp.stack([-COTANGENTS, COTANGENTS])
    back, forth = feature_movement(network, x, steps, batch=batch, signs=signs)
    np.testing.assert_allclose(forth, moved / jnp.linalg.norm(moved), atol=1e-5)
    np.testing.assert_array_equal(back, -forth)


@pytest.mark.parametrize("cotangent", [0.0, np.nan])
def test_nothing_moves_where_there_is_no_gradient(cotangent: float) -> None:
    network, x = networks.perceptron(samples=SAMPLES, width=WIDTH)
    got = feature_movement(network, x, jnp.full((1, SAMPLES, WIDTH), cotangent), batch=4)
    np.testing.assert_array_equal(got, 0)
