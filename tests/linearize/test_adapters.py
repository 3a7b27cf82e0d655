"""A network gives the outputs of its framework, and leaves the user's objects alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.core import FrozenDict

from linearize import Head, Network, check, linearize
from linearize.network import paths
from tests import networks

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (6, 5))


class Linen(nn.Module):
    """Batch normalisation, whose averages are state."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = True) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train, name="norm")(nn.Dense(8, name="body")(x))
        return nn.Dense(3, name="head")(nn.relu(x))


class Nnx(nnx.Module):
    """The same, with dropout and a list of layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(5, 8, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        x = self.norm(x)
        for layer in self.layers:
            x = self.dropout(nnx.relu(layer(x)))
        return x

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))


@pytest.fixture(scope="module")
def variables() -> Any:
    """With averages that a batch has moved."""
    given = Linen().init(KEY, X)
    state = Linen().apply(given, X, mutable=["batch_stats"])[1]
    return {"params": networks.randomized(given["params"]), **state}


@pytest.fixture
def model() -> Nnx:
    """Trained for a step, then in inference mode."""
    model = Nnx(nnx.Rngs(0))
    model(X)
    model.eval()
    return model


def values(tree: Any) -> list[np.ndarray]:
    def value(leaf: Any) -> np.ndarray:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return np.asarray(jax.random.key_data(leaf))
        return np.asarray(leaf)

    return [value(leaf) for leaf in jax.tree.leaves(tree)]


def assert_unchanged(before: list[np.ndarray], tree: Any) -> None:
    for a, b in zip(before, values(tree), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", list(networks.CASES))
def test_features_are_those_of_an_explicit_forward_pass(name: str) -> None:
    case = networks.CASES[name]()
    expected = case.hidden(case.network.params, case.inputs)
    features = jax.jit(case.network.features)
    got = features(case.network.params, case.inputs, jnp.eye(expected.shape[1]))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


# Linen


@pytest.mark.parametrize("freeze", [dict, FrozenDict])
def test_linen_gives_the_outputs_of_flax(variables: Any, freeze: Any) -> None:
    network = Network.from_linen(Linen(), freeze(variables), head="head", train=False)
    expected = Linen().apply(variables, X, train=False)
    np.testing.assert_allclose(network.apply(network.params, X), expected, rtol=1e-6)
    assert network.head == Head("head/kernel", "head/bias")
    assert network.name == "Linen"


def test_linen_state_is_no_parameter(variables: Any) -> None:
    network = Network.from_linen(Linen(), variables, train=False, name="mine")
    size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert network.parameter_count == size
    assert network.name == "mine"


def test_linen_trains_what_it_is_told(variables: Any) -> None:
    network = Network.from_linen(Linen(), variables, trainable="norm/*", train=False)
    assert paths(network.params).keys() == {"norm/scale", "norm/bias"}
    expected = Linen().apply(variables, X, train=False)
    np.testing.assert_allclose(network.apply(network.params, X), expected, rtol=1e-6)


def test_linen_leaves_the_variables_alone(variables: Any) -> None:
    before = values(variables)
    linearize(Network.from_linen(Linen(), variables, head="head", train=False), X)
    assert_unchanged(before, variables)


def test_linen_needs_parameters(variables: Any) -> None:
    message = r"^variables: no 'params' collection, got \['batch_stats'\]; pass what init returned$"
    with pytest.raises(ValueError, match=message):
        Network.from_linen(Linen(), {"batch_stats": variables["batch_stats"]})


# NNX


def test_nnx_gives_the_outputs_of_flax(model: Nnx) -> None:
    network = Network.from_nnx(model, head="head")
    np.testing.assert_allclose(network.apply(network.params, X), model(X), rtol=1e-6)
    np.testing.assert_allclose(
        network.features(network.params, X, jnp.eye(8)), model.features(X), rtol=1e-5, atol=1e-6
    )
    assert network.head == Head("head/kernel", "head/bias")
    assert network.name == "Nnx"


def test_nnx_parameters_are_the_variables_of_that_kind(model: Nnx) -> None:
    network = Network.from_nnx(model, trainable=["layers/1/*", "norm/scale"], name="mine")
    assert paths(network.params).keys() == {"layers/1/kernel", "layers/1/bias", "norm/scale"}
    everything = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert network.parameter_count == 8 * 8 + 8 + 5
    assert len(jax.tree.leaves(networks.full(network))) == len(everything)
    assert network.name == "mine"


def test_nnx_reads_the_parameters_it_is_given(model: Nnx) -> None:
    network = Network.from_nnx(model)
    moved = jax.tree.map(lambda leaf: leaf + 0.1, network.params)
    got = network.apply(moved, X)
    nnx.update(model, jax.tree.map(lambda leaf: leaf + 0.1, nnx.state(model, nnx.Param)))
    np.testing.assert_allclose(got, model(X), rtol=1e-5)


def test_nnx_leaves_the_model_alone(model: Nnx) -> None:
    before = values(nnx.state(model))
    linearize(Network.from_nnx(model, head="head"), X)
    assert_unchanged(before, nnx.state(model))


def test_nnx_leaves_a_model_alone_that_it_refuses(model: Nnx) -> None:
    model.train()
    before = values(nnx.state(model))
    network = Network.from_nnx(model, head="head")
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        check(network, X)
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        network.apply(network.params, X)
    assert_unchanged(before, nnx.state(model))


def test_nnx_network_stays_as_it_was_built(model: Nnx) -> None:
    network = Network.from_nnx(model)
    expected = model(X)
    model.train()
    model(X + 1)
    np.testing.assert_allclose(network.apply(network.params, X), expected, rtol=1e-6)


# Any function


def test_function_is_called_as_it_is() -> None:
    network, x = networks.perceptron()
    np.testing.assert_array_equal(
        network.apply(network.params, x), networks.evaluate_perceptron(network.params, x)
    )
    before = values(network.params)
    linearize(network, x, checked=True)
    assert_unchanged(before, network.params)
