"""Tangent features against explicit Jacobians, and the models made of them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from linearize import (
    Achlioptas,
    CountSketch,
    HeadExactTangent,
    Identity,
    LinearTangent,
    Network,
    ScaledSketch,
    body_features,
    linearize,
)
from linearize.network import merge
from tests import networks


@pytest.fixture(params=list(networks.CASES))
def name(request: pytest.FixtureRequest, x64: None) -> str:
    return request.param


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


# The features


def test_linear_features_are_the_explicit_jacobian(name: str) -> None:
    network, inputs = networks.double(name).network, networks.double(name).inputs
    model = exact(name, "linear")
    assert isinstance(model, LinearTangent)
    assert_same(
        model.jacobian, explicit_jacobian(lambda p: network.apply(p, inputs), network.params)
    )
    assert_same(model.outputs_initial, jax.jit(network.apply)(network.params, inputs))
    np.testing.assert_array_equal(model.body_initial, ravel_pytree(network.params)[0])
    assert model.exact


def test_head_exact_features_are_the_explicit_jacobian_of_the_body(name: str) -> None:
    case, network = networks.double(name), networks.double(name).network
    model = exact(name, "head_exact")
    assert isinstance(model, HeadExactTangent)
    hidden = case.hidden(network.params, case.inputs)
    assert_same(model.features_initial, hidden)
    np.testing.assert_array_equal(model.directions, np.eye(hidden.shape[1]))
    assert_same(model.jacobian, feature_jacobian(name))
    body = ravel_pytree(network.body(network.params))[0]
    np.testing.assert_array_equal(model.body_initial, body)
    assert model.exact


def test_grouped_convolutions_are_differentiated_row_by_row_to_the_same() -> None:
    case = networks.linen(networks.Depthwise())
    network, x = case.network, case.inputs
    model = linearize(network, x, Identity(), checked=True)
    body = explicit_jacobian(
        lambda body: case.hidden(merge(body, network.params), x), network.body(network.params)
    )
    assert_same(model.jacobian, body, 1e-5)
    assert_same(model.features_initial, case.hidden(network.params, x), 1e-5)
    linear = linearize(network, x, Identity(), mode="linear", checked=True)
    whole = explicit_jacobian(lambda params: network.apply(params, x), network.params)
    assert_same(linear.jacobian, whole, 1e-5)


@pytest.mark.parametrize("count", [1, 4])  # fewer and more than the outputs
def test_head_exact_features_along_given_directions(name: str, count: int) -> None:
    case = networks.double(name)
    features = case.hidden(case.network.params, case.inputs).shape[1]
    given = jax.random.normal(jax.random.key(3), (features, count))
    model = linearize(case.network, case.inputs, Identity(), directions=given, checked=True)
    basis = model.directions
    assert_same(basis.T @ basis, jnp.eye(count))
    assert_same(basis @ (basis.T @ given), given)  # the same span
    assert_same(model.jacobian, jnp.einsum("dq,ndp->nqp", basis, feature_jacobian(name)))


@pytest.mark.parametrize("projection", [CountSketch(16, seed=1), Achlioptas(16, seed=1)])
@pytest.mark.parametrize("mode", ["linear", "head_exact"])
def test_projected_features_are_the_projection_of_exact_ones(
    x64: None, projection: Any, mode: Any
) -> None:
    network, x = networks.perceptron()
    whole = linearize(network, x[:2], Identity(), mode=mode, checked=True)
    model = linearize(network, x[:2], projection, mode=mode, checked=True)
    params = network.params if mode == "linear" else network.body(network.params)
    flat, unravel = ravel_pytree(params)
    project = projection.bind(params)
    rows = jax.vmap(unravel)(whole.jacobian.reshape(-1, flat.size))
    assert_same(model.jacobian.reshape(-1, 16), project(rows), 1e-6)
    origin = project(jax.tree.map(lambda leaf: leaf[None], params))[0]
    np.testing.assert_allclose(model.body_initial, origin, rtol=1e-6)
    assert not model.exact


@pytest.mark.parametrize(("width", "exact"), [(8, True), (300, False)])
def test_only_large_networks_are_projected_by_default(width: int, exact: bool) -> None:
    network, x = networks.perceptron(width=width)
    model = linearize(network, x[:2], mode="linear", checked=True)
    assert model.exact == exact
    columns = network.parameter_count if exact else CountSketch().columns
    assert model.jacobian.shape == (2, networks.OUTPUTS, columns)
    assert columns <= network.parameter_count


# The models


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


def test_only_the_span_of_directions_matters(x64: None) -> None:
    network, x = networks.perceptron()
    given = jax.random.normal(jax.random.key(0), (8, 3))
    mixed = given @ jax.random.normal(jax.random.key(1), (3, 3))
    a = linearize(network, x, Identity(), directions=given, checked=True)
    b = linearize(network, x, Identity(), directions=np.asarray(mixed), checked=True)
    assert_same(a.output_jacobian(), b.output_jacobian())


@pytest.mark.parametrize("mode", ["linear", "head_exact"])
def test_output_jacobian_is_the_gradient_of_the_model_by_its_body(mode: Any) -> None:
    model = projected(mode)
    start = model.initial()
    expected = jax.jacrev(lambda body: model({**start, "body": body}))(start["body"])
    np.testing.assert_allclose(model.output_jacobian(), expected, rtol=1e-4, atol=1e-6)


def test_directions_may_be_a_function_of_the_model_whose_head_alone_moves() -> None:
    network, x = networks.perceptron()
    seen: list[HeadExactTangent] = []

    def find(still: HeadExactTangent) -> jax.Array:
        seen.append(still)
        return jnp.eye(8)[:, :2]

    model = linearize(network, x, Identity(), directions=find, checked=True)
    (still,) = seen
    assert isinstance(still, HeadExactTangent)
    assert still.samples == len(x)
    assert still.body_initial.size == 0
    assert still.jacobian.shape == (len(x), 0, 0)
    params = jax.tree.map(lambda leaf: 2 * leaf, still.initial())
    expected = networks.evaluate_perceptron({**network.params, "head": params["head"]}, x)
    np.testing.assert_allclose(still(params), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jnp.abs(model.directions), jnp.eye(8)[:, :2], atol=1e-6)


# How features move off the directions


def test_features_move_as_the_movements_do(x64: None) -> None:
    """Two directions tell all features where these move in two ways only."""
    network, x = networks.perceptron()
    ways = jax.random.normal(jax.random.key(0), (2, 8))
    moves = jax.random.normal(jax.random.key(1), (20, 2)) @ ways
    model = linearize(
        network, x, Identity(), directions=jnp.eye(8)[:, :2], movements=moves, checked=True
    )
    assert isinstance(model, HeadExactTangent)
    assert_same(model.directions.T @ model.lift, jnp.eye(2))
    assert_same(moves @ model.directions @ model.lift.T, moves, 0.02)


def test_outputs_that_read_the_directions_do_not_depend_on_the_movements(x64: None) -> None:
    network, x = networks.perceptron()
    given = network.head_kernel(network.params)
    moves = jax.random.normal(jax.random.key(1), (20, 8))
    a = linearize(network, x, Identity(), directions=given, checked=True)
    b = linearize(network, x, Identity(), directions=given, movements=moves, checked=True)
    a, b = (replace(model, nonnegative=False) for model in (a, b))
    assert jnp.abs(a.lift - b.lift).max() > 0.1
    assert_same(a(far(a, 1.0)), b(far(b, 1.0)))


@pytest.mark.parametrize("moves", [np.zeros((5, 8)), np.zeros((0, 8))])
def test_movements_of_nothing_leave_the_directions(moves: np.ndarray) -> None:
    network, x = networks.perceptron()
    given = jnp.eye(8)[:, :3]
    model = linearize(network, x, SKETCH, directions=given, movements=moves, checked=True)
    np.testing.assert_array_equal(model.lift, model.directions)


def test_movements_of_another_feature_space_are_refused() -> None:
    network, x = networks.perceptron()
    with pytest.raises(ValueError, match=r"movements: got shape \(5, 3\); expected \(moves, 8\)"):
        linearize(network, x, SKETCH, movements=np.zeros((5, 3)), checked=True)


# A projection that depends on the network


@pytest.mark.parametrize("mode", ["linear", "head_exact"])
def test_the_projection_may_be_found_from_the_head_alone(mode: Any) -> None:
    seen = []
    network, x = networks.perceptron()

    def find(still: HeadExactTangent | None) -> CountSketch:
        seen.append(still)
        return SKETCH

    model = linearize(network, x, find, mode=mode, checked=True)
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(projected(mode)), strict=True):
        np.testing.assert_array_equal(a, b)
    (still,) = seen
    if mode == "linear":
        assert still is None
    else:
        assert isinstance(still, HeadExactTangent)
        assert still.jacobian.shape == (len(x), 0, 0)
        np.testing.assert_array_equal(still.kernel_initial, network.params["head"]["kernel"])


def test_movements_and_then_the_projection_are_found_after_the_directions() -> None:
    asked = []
    network, x = networks.perceptron()

    def directions(still: HeadExactTangent) -> jax.Array:
        asked.append("directions")
        return jnp.eye(8)[:, :2]

    def movements(still: HeadExactTangent) -> jax.Array:
        asked.append("movements")
        return still.features_initial

    def projection(still: HeadExactTangent | None) -> Identity:
        asked.append("projection")
        return Identity()

    model = linearize(
        network, x, projection, directions=directions, movements=movements, checked=True
    )
    assert asked == ["directions", "movements", "projection"]
    assert model.exact


def test_where_weights_lie_in_a_scaled_sketch_is_their_point() -> None:
    network, x = networks.perceptron()
    body = network.body(network.params)
    sketch = ScaledSketch(jax.tree.map(jnp.square, body), 16, bins=4)
    model = linearize(network, x, sketch, checked=True)
    np.testing.assert_array_equal(model.body_initial, jax.jit(sketch.point)(body))
    assert model.jacobian.shape[2] == sketch.columns
    assert not model.exact


# The same models at other parameters


def other(params: Any, seed: int = 0) -> Any:
    """Parameters somewhere else."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [
        leaf + jax.random.normal(key, leaf.shape, leaf.dtype)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)


def tangent(mode: Any, directions: Any = None, trainable: Any = None) -> Any:
    """The tangent model of the perceptron in float64."""
    network, x = rebuilt(trainable)
    return linearize(network, x, Identity(), mode=mode, directions=directions, checked=True)


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


# Samples, memory, progress


@pytest.mark.parametrize("index", [np.array([7, 0, 3]), slice(2, 6)])
@pytest.mark.parametrize("mode", ["linear", "head_exact"])
def test_take_is_linearising_the_subset(mode: Any, index: Any) -> None:
    network, x = networks.perceptron()
    taken = projected(mode).take(index)
    direct = linearize(network, x[index], SKETCH, mode=mode, checked=True)
    assert taken.samples == direct.samples == len(x[index])
    for a, b in zip(jax.tree.leaves(taken), jax.tree.leaves(direct), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_memory_bounds_the_samples_at_once_and_not_the_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, x = networks.perceptron()
    x, expected = x[:7], projected("linear").take(slice(7))
    # The CPU goes one sample at a time whatever the bound; accelerators fill it.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    raw = networks.OUTPUTS * 4 * network.parameter_count  # bytes of one sample's Jacobian
    for memory_bytes, chunk in [(1, 1), (2 * 3 * raw, 3), (2**28, 7)]:
        ticks: list[tuple[int, int]] = []
        model = linearize(
            network,
            x,
            SKETCH,
            mode="linear",
            memory_bytes=memory_bytes,
            checked=True,
            progress=lambda done, total, ticks=ticks: ticks.append((done, total)),
        )
        assert ticks == [(min(i + chunk, 7), 7) for i in range(0, 7, chunk)]
        for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_body_features_do_not_depend_on_the_batch() -> None:
    network, x = networks.perceptron()
    expected = networks.hidden_perceptron(network.params, x)
    for batch in (1, 5, 256):
        got = body_features(network, x, batch=batch)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_inputs_may_be_a_tree() -> None:
    network, x = networks.perceptron()
    split = replace(
        network, function=lambda p, i: network.function(p, jnp.concatenate([i["a"], i["b"]], 1))
    )
    model = linearize(split, {"a": x[:, :2], "b": x[:, 2:]}, SKETCH)
    np.testing.assert_allclose(
        model.jacobian, projected("head_exact").jacobian, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("mode", ["linear", "head_exact"])
def test_models_pass_through_jit(mode: Any) -> None:
    network, x = networks.perceptron()
    got = jax.jit(lambda m: m.take(slice(0, 3))(m.initial()))(projected(mode))
    expected = network.apply(network.params, x)[:3]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


# Which parameters train


def rebuilt(trainable: Any, *, bias: bool = True) -> tuple[Network, jax.Array]:
    network, x = networks.perceptron(bias=bias)
    return Network.from_function(
        network.function, network.params, head="head", trainable=trainable
    ), x


def test_mode_is_head_exact_where_the_head_trains() -> None:
    assert isinstance(linearize(*rebuilt(None), checked=True), HeadExactTangent)
    assert isinstance(linearize(*rebuilt("body/*"), checked=True), LinearTangent)
    network, x = networks.perceptron()
    assert isinstance(linearize(replace(network, head=None), x, checked=True), LinearTangent)


def test_frozen_head_linearises_the_body_alone(x64: None) -> None:
    network, x = rebuilt("body/*")
    model = linearize(network, x, Identity(), checked=True)
    jacobian = explicit_jacobian(
        lambda body: network.function({**networks.full(network), "body": body}, x),
        network.params["body"],
    )
    assert_same(model.jacobian, jacobian)


@pytest.mark.parametrize("projection", [Identity(), CountSketch(16)])
def test_frozen_body_leaves_the_head_alone(projection: Any) -> None:
    network, x = rebuilt("head/*")
    model = linearize(network, x, projection, checked=True)
    assert isinstance(model, HeadExactTangent)
    assert model.initial()["body"].size == 0
    params = {"head": {"kernel": jnp.ones((8, 3)), "bias": jnp.ones(3)}, "body": jnp.zeros(0)}
    expected = network.apply({"body": network.params["body"], "head": params["head"]}, x)
    np.testing.assert_allclose(model(params), expected, rtol=1e-5)


@pytest.mark.parametrize(("trainable", "bias"), [(None, False), ("*kernel", True)])
def test_bias_that_does_not_train_is_no_parameter(trainable: Any, bias: bool) -> None:
    network, x = rebuilt(trainable, bias=bias)
    model = linearize(network, x, checked=True)
    assert isinstance(model, HeadExactTangent)
    assert not model.bias_trains
    assert model.initial()["head"].keys() == {"kernel"}
    np.testing.assert_allclose(
        model(model.initial()), network.apply(network.params, x), rtol=1e-5, atol=1e-6
    )


# Errors


def test_head_exact_needs_a_trainable_head() -> None:
    network, x = rebuilt("body/*")
    with pytest.raises(ValueError, match=r"^mode: 'head_exact' needs a trainable head .*'linear'$"):
        linearize(network, x, mode="head_exact", checked=True)
    with pytest.raises(ValueError, match=r"^mode: 'head_exact' needs a trainable head"):
        linearize(replace(network, head=None), x, mode="head_exact", checked=True)


@pytest.mark.parametrize("shape", [(7, 2), (8, 0)])
def test_directions_must_be_of_this_feature_space(shape: tuple[int, int]) -> None:
    network, x = networks.perceptron()
    with pytest.raises(ValueError, match=r"^directions: got shape .*; expected \(8, q\), q at "):
        linearize(network, x, directions=jnp.ones(shape), checked=True)


def test_network_is_checked_unless_it_was_before() -> None:
    network, x = networks.perceptron()
    mixing = replace(network, function=lambda p, i: network.function(p, i - i.mean(0)))
    with pytest.raises(ValueError, match="depends on the others of its batch"):
        linearize(mixing, x)
    assert linearize(mixing, x, checked=True).samples == len(x)
