"""Tangent features against explicit Jacobians."""

from __future__ import annotations

from dataclasses import replace
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
    ScaledSketch,
    body_features,
    linearize,
)
from linearize.network import merge
from tests import networks
from tests.linearize.tangents import (
    SKETCH,
    assert_same,
    exact,
    explicit_jacobian,
    feature_jacobian,
    projected,
    rebuilt,
)


@pytest.fixture(params=list(networks.CASES))
def name(request: pytest.FixtureRequest, x64: None) -> str:
    return request.param


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


def test_only_the_span_of_directions_matters(x64: None) -> None:
    network, x = networks.perceptron()
    given = jax.random.normal(jax.random.key(0), (8, 3))
    mixed = given @ jax.random.normal(jax.random.key(1), (3, 3))
    a = linearize(network, x, Identity(), directions=given, checked=True)
    b = linearize(network, x, Identity(), directions=np.asarray(mixed), checked=True)
    assert_same(a.output_jacobian(), b.output_jacobian())


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
