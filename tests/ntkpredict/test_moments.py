"""An optimizer's state after first steps, as that of the tangent model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntkpredict as ntp
from linearize import CountSketch, Identity, ScaledSketch, linearize
from linearize.projection import Achlioptas
from ntkpredict.moments import carried
from ntkpredict.step import TrainingStep

OPTIMIZERS = {
    "adam": optax.adam(0.01),
    "adamw": ntp.Plan.adamw(0.01).optimizer,
    "amsgrad": optax.amsgrad(0.01),
    "adabelief": optax.adabelief(0.01),
    "adamax": optax.adamax(0.01),
    "rmsprop": optax.rmsprop(0.01, momentum=0.9),
    "lion": optax.lion(0.01),
    "scheduled": optax.adam(optax.cosine_decay_schedule(0.01, 100)),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01)),
}


def trained(optimizer, network, data, steps=5):
    """The state of the optimizer."""
    step = TrainingStep(network, data, ntp.Plan(optimizer, batch_size=8))
    state = step.initial()
    for i in range(steps):
        state, _ = step(state, np.arange(8 * i, 8 * i + 8))
    return state.optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_every_coordinate_it_is_the_same(mlp, data, name):
    """But for where they are."""
    optimizer = OPTIMIZERS[name]
    state = trained(optimizer, mlp, data)
    params = linearize(mlp, data.train[0], Identity()).initial()
    found = carried(optimizer, state, mlp, params, Identity())
    assert jax.tree.structure(found) == jax.tree.structure(optimizer.init(params))
    expected = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, dict))
    leaves = jax.tree.leaves(found, is_leaf=lambda node: isinstance(node, dict))
    for got, real in zip(leaves, expected, strict=True):
        if not isinstance(real, dict):
            np.testing.assert_array_equal(got, real)
            continue
        np.testing.assert_allclose(got["body"], real["body"].ravel(), rtol=1e-5)
        jax.tree.map(np.testing.assert_array_equal, got["head"], real["head"])


@pytest.mark.parametrize("make", [ntp.Plan.adamw, ntp.Plan.sgd])
def test_of_the_plain_tangent_model(mlp, data, make):
    optimizer = make(0.01).optimizer
    state = trained(optimizer, mlp, data)
    params = linearize(mlp, data.train[0], Identity(), mode="linear").initial()
    found = carried(optimizer, state, mlp, params, Identity())
    for got, real in zip(*(parts_of(each) for each in (found, state)), strict=True):
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(real)])
        np.testing.assert_allclose(got["body"], flat, rtol=1e-5)


def test_of_a_model_whose_body_is_still(frozen_mlp, data):
    optimizer = optax.adam(0.01)
    state = trained(optimizer, frozen_mlp, data)
    params = linearize(frozen_mlp, data.train[0]).initial()
    found = carried(optimizer, state, frozen_mlp, params, Identity())
    for got, real in zip(*(parts_of(each) for each in (found, state)), strict=True):
        assert got["body"].size == 0
        jax.tree.map(np.testing.assert_array_equal, got["head"], real["head"])


def test_averages_of_gradients_are_projected_and_those_of_squares_are_variances(mlp, data):
    optimizer = optax.adam(0.01)
    state = trained(optimizer, mlp, data)
    (adam, *_) = state
    sketch = ScaledSketch({"body": np.asarray(adam.nu["body"])}, 16, bins=4)
    params = linearize(mlp, data.train[0], sketch).initial()
    (found, *_) = carried(optimizer, state, mlp, params, sketch)
    first = jax.tree.map(lambda leaf: leaf[None], mlp.body(adam.mu))
    np.testing.assert_allclose(
        found.mu["body"], sketch.bind(mlp.body(adam.mu))(first)[0], rtol=1e-5
    )
    np.testing.assert_allclose(found.nu["body"], sketch.variance(mlp.body(adam.nu)), rtol=1e-5)


def test_an_average_of_sizes_is_a_deviation(mlp, data):
    """Adamax keeps |g|: of a sum of random signs, the root of the sum of squares."""
    optimizer = optax.adamax(0.01)
    state = trained(optimizer, mlp, data)
    (adamax, *_) = state
    sketch = CountSketch(8)
    params = linearize(mlp, data.train[0], sketch).initial()
    (found, *_) = carried(optimizer, state, mlp, params, sketch)
    squares = sketch.variance({"body": np.square(adamax.nu["body"]), "head": None})
    np.testing.assert_allclose(found.nu["body"], np.sqrt(squares), rtol=1e-5)


def parts_of(state):
    return [node for node in jax.tree.leaves(state, is_leaf=is_dict) if is_dict(node)]


def is_dict(node):
    return isinstance(node, dict)


TREE = {"a": np.linspace(1, 2, 300, dtype=np.float32), "b": np.ones((4, 5), np.float32)}


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: CountSketch(16, seed),
        lambda seed: Achlioptas(16, seed),
        lambda seed: ScaledSketch(jax.tree.map(np.square, TREE), 16, bins=4, seed=seed),
        lambda _: Identity(),
    ],
    ids=["count", "achlioptas", "scaled", "identity"],
)
def test_the_variance_of_a_projection_is_that_over_its_signs(make):
    """Independent gradients, projected by one draw: their mean square is the variance."""
    random, projection = np.random.default_rng(0), make(3)
    rows = jax.tree.map(lambda leaf: leaf * random.choice([-1.0, 1.0], (4000, *leaf.shape)), TREE)
    rows = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), rows)
    squares = np.square(np.asarray(projection.bind(TREE)(rows))).mean(0)
    expected = np.asarray(projection.variance(jax.tree.map(np.square, TREE)))
    rtol = 0.5 if isinstance(projection, Achlioptas) else 0.15  # the mean over its draws
    np.testing.assert_allclose(squares, expected, rtol=rtol)
