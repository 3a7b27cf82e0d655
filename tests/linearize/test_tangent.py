"""The tangent models as functions of their parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from linearize import (
    HeadExactTangent,
    Identity,
    linearize,
)
from linearize.network import merge
from tests import networks
from tests.linearize.tangents import (
    SKETCH,
    assert_same,
    exact,
    projected,
    tangent,
)


@pytest.fixture(params=list(networks.CASES))
def name(request: pytest.FixtureRequest, x64: None) -> str:
    return request.param


def test_linear_model_is_the_first_order_expansion(name: str) -> None:
    network, inputs = networks.double(name).network, networks.double(name).inputs
    moved = networks.randomized(network.params)
    change = jax.tree.map(jnp.subtract, moved, network.params)
    apply = jax.jit(lambda params: network.apply(params, inputs))
    value, tangent = jax.jvp(apply, (network.params,), (change,))
    assert_same(exact(name, "linear")({"body": ravel_pytree(moved)[0]}), value + tangent)


def test_head_exact_model_is_exact_in_the_head_and_first_order_in_the_body(name: str) -> None:
    case, network = networks.double(name), networks.double(name).network
    model = exact(name, "head_exact")
    body = network.body(network.params)
    moved = networks.randomized(body)
    change = jax.tree.map(jnp.subtract, moved, body)
    hidden, tangent = jax.jvp(
        lambda b: case.hidden(merge(b, network.params), case.inputs), (body,), (change,)
    )
    head = jax.tree.map(lambda leaf: 3 * leaf + 1, model.initial()["head"])
    got = model({"head": head, "body": ravel_pytree(moved)[0]})
    features = hidden + tangent
    assert model.nonnegative == (hidden.min() >= 0)
    if model.nonnegative:
        shrunk = hidden * np.exp(tangent / np.where(hidden > 0, hidden, np.inf))
        features = np.where(tangent < 0, shrunk, features)
    assert_same(got, features @ head["kernel"] + head.get("bias", 0.0))


@pytest.fixture
def behind_relu(x64: None) -> HeadExactTangent:
    """Features of four samples, one of them dead, and six parameters that move them."""
    network, x = networks.perceptron()
    model = linearize(network, x[:4], Identity(), checked=True)
    assert isinstance(model, HeadExactTangent)
    features = jnp.maximum(model.features_initial, 0)
    assert (features == 0).any()
    return replace(model, features_initial=features, nonnegative=True)


def far(model: HeadExactTangent, size: float) -> dict[str, Any]:
    """Parameters whose body has moved at random."""
    params = model.initial()
    return {**params, "body": params["body"] + size * networks.randomized(params["body"])}


@pytest.mark.parametrize("size", [0.1, 1e3])
def test_features_behind_a_relu_do_not_fall_below_zero(
    behind_relu: HeadExactTangent, size: float
) -> None:
    moved = behind_relu.features(far(behind_relu, size))
    assert (moved >= 0).all()
    linear = replace(behind_relu, nonnegative=False).features(far(behind_relu, size))
    assert (linear < 0).any()
    assert (moved >= linear - 1e-9).all()


def test_sensitivity_is_how_much_of_a_move_features_make(behind_relu: HeadExactTangent) -> None:
    params = far(behind_relu, 0.5)
    linear = replace(behind_relu, nonnegative=False)
    way = {**params, "body": jnp.ones_like(params["body"])}
    still = jax.tree.map(jnp.zeros_like, way["head"])
    moves = [
        jax.jvp(model.features, (params,), ({"head": still, "body": way["body"]},))[1]
        for model in (behind_relu, linear)
    ]
    assert_same(moves[0], behind_relu.sensitivity(params) * moves[1])


def test_derivatives_are_numbers_where_features_are_dead(behind_relu: HeadExactTangent) -> None:
    params = behind_relu.initial()

    def loss(params: Any) -> Any:
        return jnp.square(behind_relu(params)).sum()

    jvp = jax.jvp(jax.grad(loss), (params,), (params,))[1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jvp))


def test_seen_from_elsewhere_the_function_is_the_same(behind_relu: HeadExactTangent) -> None:
    there = far(behind_relu, 0.5)
    seen = behind_relu.at(there)
    assert_same(seen(seen.initial()), behind_relu(there))
    assert_same(seen(far(behind_relu, 1.0)), behind_relu(far(behind_relu, 1.0)))
    outputs = jax.jacrev(lambda body: behind_relu({**there, "body": body}))(there["body"])
    assert_same(seen.output_jacobian(), outputs)


@pytest.mark.parametrize("mode", ["linear", "head_exact"])
def test_error_of_the_model_is_of_second_order(x64: None, mode: Any) -> None:
    network, x = networks.perceptron()
    change = jax.tree.map(jnp.sin, network.params)
    model = linearize(network, x, Identity(), mode=mode, checked=True)

    def error(size: float) -> float:
        params = jax.tree.map(lambda leaf, step: leaf + size * step, network.params, change)
        body = params if mode == "linear" else network.body(params)
        head = {} if mode == "linear" else {"head": params["head"]}
        got = model({"body": ravel_pytree(body)[0], **head})
        return float(jnp.abs(got - network.apply(params, x)).max())

    sizes = np.array([1e-2, 5e-3, 2.5e-3])
    order = np.polyfit(np.log(sizes), np.log([error(size) for size in sizes]), 1)[0]
    assert order == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("mode", ["linear", "head_exact"])
def test_initial_outputs_are_those_of_the_network(mode: Any) -> None:
    network, x = networks.perceptron()
    model = projected(mode)
    np.testing.assert_allclose(
        model(model.initial()), network.apply(network.params, x), rtol=1e-5, atol=1e-6
    )


def test_outputs_that_read_the_directions_do_not_depend_on_the_movements(x64: None) -> None:
    network, x = networks.perceptron()
    given = network.head_kernel(network.params)
    moves = jax.random.normal(jax.random.key(1), (20, 8))
    a = linearize(network, x, Identity(), directions=given, checked=True)
    b = linearize(network, x, Identity(), directions=given, movements=moves, checked=True)
    a, b = (replace(model, nonnegative=False) for model in (a, b))
    assert jnp.abs(a.lift - b.lift).max() > 0.1
    assert_same(a(far(a, 1.0)), b(far(b, 1.0)))


@pytest.mark.parametrize("mode", ["linear", "head_exact"])
def test_output_jacobian_is_the_gradient_of_the_model_by_its_body(mode: Any) -> None:
    model = projected(mode)
    start = model.initial()
    expected = jax.jacrev(lambda body: model({**start, "body": body}))(start["body"])
    np.testing.assert_allclose(model.output_jacobian(), expected, rtol=1e-4, atol=1e-6)


def other(params: Any, seed: int = 0) -> Any:
    """Parameters somewhere else."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [
        leaf + jax.random.normal(key, leaf.shape, leaf.dtype)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)


KINDS = {
    "linear": lambda: tangent("linear"),
    "head_exact": lambda: tangent("head_exact"),
    "few_directions": lambda: tangent("head_exact", jax.random.normal(jax.random.key(5), (8, 3))),
    "frozen_bias": lambda: tangent("head_exact", trainable="*kernel"),
    "head_alone": lambda: tangent("head_exact", trainable="head/*"),
}


@pytest.fixture(params=list(KINDS))
def model(request: pytest.FixtureRequest, x64: None) -> Any:
    return KINDS[request.param]()


def test_at_other_parameters_the_function_is_the_same(model: Any) -> None:
    params = other(model.initial())
    moved = model.at(params)
    assert type(moved) is type(model)
    for seed in range(1, 4):
        elsewhere = other(params, seed)
        assert_same(moved(elsewhere), model(elsewhere))
    assert_same(moved(moved.initial()), model(params))


def test_at_other_parameters_training_begins_there_with_the_same_jacobian(model: Any) -> None:
    params = other(model.initial())
    moved = model.at(params)
    assert jax.tree.structure(moved.initial()) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, moved.initial(), params)
    np.testing.assert_array_equal(moved.jacobian, model.jacobian)
    assert moved.samples == model.samples
    assert moved.exact == model.exact


def test_at_other_parameters_the_output_jacobian_is_the_gradient_there(model: Any) -> None:
    params = other(model.initial())
    expected = jax.jacrev(lambda body: model({**params, "body": body}))(params["body"])
    np.testing.assert_allclose(model.at(params).output_jacobian(), expected, rtol=1e-9, atol=1e-12)


def test_at_the_initial_parameters_nothing_changes(model: Any) -> None:
    there_and_back = model.at(other(model.initial())).at(model.initial())
    for same in (model.at(model.initial()), there_and_back):
        for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(model), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_at_and_take_commute(model: Any) -> None:
    params, index = other(model.initial()), np.array([7, 0, 3])
    one, two = model.at(params).take(index), model.take(index).at(params)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_at_passes_through_jit(model: Any) -> None:
    params = other(model.initial())
    got = jax.jit(lambda m, p: m.at(p)(m.initial()))(model, params)
    assert_same(got, model(model.initial()))


@pytest.mark.parametrize("index", [np.array([7, 0, 3]), slice(2, 6)])
@pytest.mark.parametrize("mode", ["linear", "head_exact"])
def test_take_is_linearising_the_subset(mode: Any, index: Any) -> None:
    network, x = networks.perceptron()
    taken = projected(mode).take(index)
    direct = linearize(network, x[index], SKETCH, mode=mode, checked=True)
    assert taken.samples == direct.samples == len(x[index])
    for a, b in zip(jax.tree.leaves(taken), jax.tree.leaves(direct), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["linear", "head_exact"])
def test_models_pass_through_jit(mode: Any) -> None:
    network, x = networks.perceptron()
    got = jax.jit(lambda m: m.take(slice(0, 3))(m.initial()))(projected(mode))
    expected = network.apply(network.params, x)[:3]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
