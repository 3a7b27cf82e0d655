"""Which parameters train, where the head is, and what it reads."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearize import Head, Network
from linearize.network import merge, paths
from tests import networks

PATHS = {"body/bias", "body/kernel", "head/bias", "head/kernel"}


def build(params: Any = None, **arguments: Any) -> Network:
    given = networks.perceptron()[0].params if params is None else params
    return Network.from_function(networks.evaluate_perceptron, given, **arguments)


# Which parameters train


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        (None, PATHS),
        ("*", PATHS),
        ("head/*", {"head/bias", "head/kernel"}),
        (["head/*", "*/bias"], {"head/bias", "head/kernel", "body/bias"}),
        (("body/kernel",), {"body/kernel"}),
        (lambda path: path.endswith("kernel"), {"body/kernel", "head/kernel"}),
        (
            {"body": {"kernel": False, "bias": True}, "head": {"kernel": True, "bias": False}},
            {"body/bias", "head/kernel"},
        ),
        (
            {
                "body": {"kernel": np.True_, "bias": np.False_},
                "head": {"kernel": jnp.array(False), "bias": jnp.array(False)},
            },
            {"body/kernel"},
        ),
    ],
    ids=["all", "star", "pattern", "patterns", "tuple", "predicate", "mask", "array mask"],
)
def test_trainable_splits_the_parameters(trainable: Any, expected: set[str]) -> None:
    network, x = build(trainable=trainable), networks.perceptron()[1]
    assert paths(network.params).keys() == expected
    assert paths(network.frozen).keys() == PATHS - expected
    assert {path for path in PATHS if network.is_trainable(path)} == expected
    assert network.parameter_count == sum(paths(network.params)[path].size for path in expected)
    # Both keep the user's tree; what is not theirs is None.
    given = networks.perceptron()[0].params
    for part in (network.params, network.frozen):
        assert part.keys() == given.keys()
        assert all(part[layer].keys() == given[layer].keys() for layer in given)
    assert network.params["body"]["kernel"] is None or network.frozen["body"]["kernel"] is None
    everything = networks.full(network)
    assert jax.tree.structure(everything) == jax.tree.structure(given)
    np.testing.assert_array_equal(
        network.apply(network.params, x), networks.evaluate_perceptron(given, x)
    )


def test_apply_reads_the_parameters_it_is_given() -> None:
    network, x = build(trainable="head/*"), networks.perceptron()[1]
    moved = jax.tree.map(lambda leaf: leaf + 1, network.params)
    expected = networks.evaluate_perceptron(merge(moved, network.frozen), x)
    np.testing.assert_array_equal(network.apply(moved, x), expected)


def test_gradients_of_frozen_parameters_do_not_exist() -> None:
    network, x = build(trainable="*/bias"), networks.perceptron()[1]
    gradient = jax.grad(lambda params: network.apply(params, x).sum())(network.params)
    assert gradient["body"]["kernel"] is None
    assert gradient["head"]["bias"].shape == (networks.OUTPUTS,)


@pytest.mark.parametrize("pattern", ["haed/*", ["head/*", "haed/*"], "HEAD/*"])
def test_pattern_must_match_a_parameter(pattern: Any) -> None:
    message = r"^trainable: pattern '(haed|HEAD)/\*' matches no parameter; there are 'body/bias', "
    with pytest.raises(ValueError, match=message):
        build(trainable=pattern)


@pytest.mark.parametrize(
    "trainable",
    [lambda path: False, [], {"body": {"kernel": 0, "bias": 0}, "head": {"kernel": 0, "bias": 0}}],
    ids=["predicate", "no pattern", "mask"],
)
def test_something_must_train(trainable: Any) -> None:
    message = r"^trainable: selects none of the 4 parameters; there are 'body/bias', "
    with pytest.raises(ValueError, match=message):
        build(trainable=trainable)


@pytest.mark.parametrize(
    "mask",
    [{"body": True, "head": False}, {"head": {"kernel": True, "bias": True}}, True],
    ids=["prefix", "part", "leaf"],
)
def test_mask_must_be_like_the_parameters(mask: Any) -> None:
    message = r"^trainable: the mask's tree differs from that of params; give one boolean a leaf$"
    with pytest.raises(ValueError, match=message):
        build(trainable=mask)


def test_long_lists_of_names_are_cut() -> None:
    many = {f"layer{i:02}": jnp.zeros(1) for i in range(12)}
    with pytest.raises(ValueError, match=r"'layer07' and 4 more$"):
        build(many, trainable="none")


@pytest.mark.parametrize("leaf", [np.arange(3), np.array([True]), 3])
def test_parameters_are_floating_point(leaf: Any) -> None:
    message = r"^params: 'steps' is (int|bool)\w*; expected floating point \(keep it as state\)$"
    with pytest.raises(ValueError, match=message):
        build({"kernel": jnp.ones((2, 2)), "steps": leaf})


def test_parameters_may_be_numpy_arrays_in_nested_containers() -> None:
    params = [{"w": np.ones((2, 3), np.float32)}, (np.zeros(3, np.float32),)]
    network = Network.from_function(lambda p, x: x @ p[0]["w"] + p[1][0], params, trainable="0/*")
    assert paths(network.params).keys() == {"0/w"}
    np.testing.assert_array_equal(network.apply(network.params, np.ones((1, 2))), [[2, 2, 2]])


# The head


@pytest.mark.parametrize("bias", [True, False])
def test_head_is_found_by_its_subtree(bias: bool) -> None:
    network = build(networks.perceptron(bias=bias)[0].params, head="head")
    assert network.head == Head("head/kernel", "head/bias" if bias else None)
    params = network.params
    np.testing.assert_array_equal(network.head_kernel(params), params["head"]["kernel"])
    if bias:
        np.testing.assert_array_equal(network.head_bias(params), params["head"]["bias"])
    else:
        assert network.head_bias(params) is None
    assert paths(network.body(params)).keys() == {"body/kernel", "body/bias"}


@pytest.mark.parametrize("name", ["model/head", "head", "/head/"])
def test_head_may_be_nested(name: str) -> None:
    params = {"model": networks.perceptron()[0].params, "ahead": jnp.zeros((2, 2))}
    assert build(params, head=name).head == Head("model/head/kernel", "model/head/bias")


def test_head_may_be_a_single_matrix() -> None:
    params = {"body": jnp.zeros((5, 8)), "head": jnp.zeros((8, 3))}
    assert build(params, head="head").head == Head("head", None)


def test_frozen_head_is_still_the_head() -> None:
    network = build(head="head", trainable="body/*")
    kernel = networks.perceptron()[0].params["head"]["kernel"]
    np.testing.assert_array_equal(network.head_kernel(network.params), kernel)
    assert not network.is_trainable("head/kernel")


@pytest.mark.parametrize("name", ["classifier", "hea", ""])
def test_head_must_be_there(name: str) -> None:
    message = rf"^head: no parameters under '{name}'; the affine layers are 'body', 'head'$"
    with pytest.raises(ValueError, match=message):
        build(head=name)


@pytest.mark.parametrize(
    "extra",
    [
        {"kernel2": jnp.ones((3, 3))},
        {"scale": jnp.ones(3)},
        {"filter": jnp.ones((1, 1, 3))},
    ],
    ids=["two matrices", "two vectors", "a filter"],
)
def test_head_is_one_matrix_and_at_most_one_vector(extra: Any) -> None:
    params = networks.perceptron()[0].params
    message = (
        r"^head: 'head' holds 'head/.*; expected one matrix \(features, outputs\) "
        r"and at most one vector \(outputs,\)$"
    )
    with pytest.raises(ValueError, match=message):
        build({**params, "head": {**params["head"], **extra}}, head="head")


def test_what_needs_a_head_says_so() -> None:
    network, x = build(name="headless"), networks.perceptron()[1]
    message = r"^head: headless was built without one; pass head='NAME' when building it$"
    with pytest.raises(ValueError, match=message):
        network.features(network.params, x, jnp.eye(8))
    with pytest.raises(ValueError, match=message):
        network.head_kernel(network.params)
    assert paths(network.body(network.params)).keys() == PATHS


# What the head reads


@pytest.mark.parametrize("count", [1, 3, 4, 7])  # less, as many, more than the outputs
@pytest.mark.parametrize("bias", [True, False])
def test_features_are_those_of_an_explicit_forward_pass(count: int, bias: bool) -> None:
    network, x = networks.perceptron(bias=bias)
    directions = jax.random.normal(jax.random.key(0), (8, count))
    expected = networks.hidden_perceptron(network.params, x) @ directions
    got = network.features(network.params, x, directions)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_features_do_not_read_the_head() -> None:
    network, x = networks.perceptron()
    lost = {**network.params, "head": jax.tree.map(lambda a: a * jnp.nan, network.params["head"])}
    np.testing.assert_array_equal(
        network.features(lost, x, jnp.eye(8)), network.features(network.params, x, jnp.eye(8))
    )


def test_outputs_are_affine_in_features() -> None:
    network, x = networks.perceptron()
    features = network.features(network.params, x, jnp.eye(8))
    expected = features @ network.head_kernel(network.params) + network.head_bias(network.params)
    np.testing.assert_allclose(network.apply(network.params, x), expected, rtol=1e-5, atol=1e-6)


def test_merge_undoes_the_split() -> None:
    assert merge({"a": 1, "b": None}, {"a": None, "b": 2}) == {"a": 1, "b": 2}
