"""Every assumption of linearisation, broken on purpose: one line that names the cause."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from linearize import Network, check
from tests import networks

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (6, 5))


@contextmanager
def refused(message: str) -> Iterator[None]:
    with pytest.raises(ValueError, match=message) as caught:
        yield
    assert "\n" not in str(caught.value)


def plain(
    outputs: Callable[[Any, jax.Array], Any], *, zeros: bool = False, head: str | None = "head"
) -> Network:
    """A network of one hidden layer; `outputs` maps (parameters, hidden) to what it returns."""
    kernel = jnp.zeros((8, 3)) if zeros else jax.random.normal(KEY, (8, 3))
    params = {
        "body": jax.random.normal(KEY, (5, 8)),
        "head": {"kernel": kernel, "bias": jnp.zeros(3)},
    }
    return Network.from_function(
        lambda p, x: outputs(p, jnp.tanh(x @ p["body"])), params, head=head, name="plain"
    )


def dense(params: Any, hidden: jax.Array) -> jax.Array:
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


# What passes


@pytest.mark.parametrize("name", list(networks.CASES))
def test_good_networks_pass_and_tell_their_outputs(name: str) -> None:
    case = networks.CASES[name]()
    assert check(case.network, case.inputs) == networks.OUTPUTS


@pytest.mark.parametrize("zeros", [True, False])
def test_head_may_be_zero(zeros: bool) -> None:
    assert check(plain(dense, zeros=zeros), X) == 3


def test_head_may_be_absent_and_samples_numpy() -> None:
    assert check(plain(dense, head=None), np.asarray(X)) == 3


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_precise_enough(dtype: Any) -> None:
    network, x = networks.perceptron(width=64)
    half = replace(network, params=jax.tree.map(lambda leaf: leaf.astype(dtype), network.params))
    assert check(half, x.astype(dtype)) == networks.OUTPUTS


# Samples that interact, outputs that change

INTERACTION = r"^network: in plain a sample's output depends on the others .*train=False$"


def normalize(hidden: jax.Array) -> jax.Array:
    return (hidden - hidden.mean(0)) / (hidden.std(0) + 1e-3)


@pytest.mark.parametrize("zeros", [True, False])  # a zero head hides it from the outputs
def test_function_that_normalises_over_the_batch(zeros: bool) -> None:
    network = plain(lambda p, hidden: dense(p, normalize(hidden)), zeros=zeros)
    with refused(INTERACTION):
        check(network, X)


def test_batch_normalisation_without_a_head() -> None:
    with refused(INTERACTION):
        check(plain(lambda p, hidden: dense(p, normalize(hidden)), head=None), X)


def test_dropout_with_a_fixed_key() -> None:
    def drop(params: Any, hidden: jax.Array) -> jax.Array:
        return dense(params, hidden * jax.random.bernoulli(KEY, 0.5, hidden.shape))

    with refused(r"on its place in it \(dropout with a fixed key\?\)"):
        check(plain(drop), X)


@pytest.mark.parametrize("zeros", [True, False])
def test_randomness_that_is_not_in_the_arguments(zeros: bool) -> None:
    calls = itertools.count()

    def drop(params: Any, hidden: jax.Array) -> jax.Array:
        key = jax.random.key(next(calls))
        return dense(params, hidden * jax.random.bernoulli(key, 0.5, hidden.shape))

    with refused(r"^network: plain returns different outputs for the same inputs \(dropout\?\); "):
        check(plain(drop, zeros=zeros), X)


class Normalized(nn.Module):
    """Linen, with batch normalisation and dropout."""

    @nn.compact
    def __call__(self, x: jax.Array, *, averages: bool = True, drops: bool = False) -> jax.Array:
        x = nn.BatchNorm(use_running_average=averages)(nn.Dense(8)(x))
        x = nn.Dropout(0.5, deterministic=not drops)(nn.relu(x))
        return nn.Dense(3, name="head")(x)


@pytest.fixture(scope="module")
def normalized() -> tuple[nn.Module, Any]:
    module = Normalized()
    return module, module.init(KEY, X)


def test_linen_in_inference_mode(normalized: Any) -> None:
    assert check(Network.from_linen(*normalized, head="head", averages=True), X) == 3


def test_linen_batch_normalisation_in_training_mode(normalized: Any) -> None:
    message = r"^module: Normalized changes its state .*\(BatchNorm in training mode\?\).*train=Fal"
    with refused(message):
        check(Network.from_linen(*normalized, head="head", averages=False), X)


def test_linen_that_returns_its_state_too(normalized: Any) -> None:
    network = Network.from_linen(*normalized, head="head", averages=False, mutable=["batch_stats"])
    with refused(
        r"^network: Normalized maps inputs \(4, 5\) to \[.*expected one array \(samples, o"
    ):
        check(network, X)


def test_linen_dropout_without_a_key(normalized: Any) -> None:
    message = r"^module: Normalized draws random numbers .*\(dropout\?\); .*train=False$"
    with refused(message):
        check(Network.from_linen(*normalized, head="head", drops=True), X)


def test_linen_dropout_with_a_fixed_key(normalized: Any) -> None:
    network = Network.from_linen(*normalized, head="head", drops=True, rngs={"dropout": KEY})
    with refused(r"dropout with a fixed key\?"):
        check(network, X)


class Stateful(nnx.Module):
    """NNX, with batch normalisation or dropout."""

    def __init__(self, rngs: nnx.Rngs, *, normalizes: bool) -> None:
        self.body = nnx.Linear(5, 8, rngs=rngs)
        layer = nnx.BatchNorm(8, rngs=rngs) if normalizes else nnx.Dropout(0.5, rngs=rngs)
        self.layer = layer
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.layer(self.body(x)))


@pytest.mark.parametrize("normalizes", [True, False])
def test_nnx_must_be_in_eval_mode(normalizes: bool) -> None:
    model = Stateful(nnx.Rngs(0), normalizes=normalizes)
    changed = "layer/mean" if normalizes else "layer/rngs/count"
    with refused(rf"^model: Stateful changes '{changed}' while .*; call model.eval\(\) first$"):
        check(Network.from_nnx(model, head="head"), X)
    model.eval()
    assert check(Network.from_nnx(model, head="head"), X) == 3


# Shapes and values


def test_values_must_be_finite() -> None:
    message = r"^network: plain returns NaN or infinite outputs; check weights and inputs$"
    with refused(message):
        check(plain(dense), X.at[0, 0].set(jnp.nan))
    with refused(message):
        check(plain(lambda p, hidden: dense(p, hidden) / 0.0, head=None), X)


@pytest.mark.parametrize(
    ("outputs", "shape"),
    [
        (lambda p, hidden: dense(p, hidden)[:, None], r"\(4, 1, 3\)"),
        (lambda p, hidden: dense(p, hidden)[:, 0], r"\(4,\)"),
        (lambda p, hidden: dense(p, hidden).sum(), r"\(\)"),
        (lambda p, hidden: dense(p, hidden)[:2], r"\(2, 3\)"),
        (lambda p, hidden: (dense(p, hidden), hidden), r"\[\(4, 3\), \(4, 8\)\]"),
        (lambda p, hidden: {"logits": dense(p, hidden)}, r"\(4, 3\)"),
    ],
    ids=["tokens", "vector", "scalar", "fewer", "tuple", "dictionary"],
)
@pytest.mark.parametrize("head", ["head", None])
def test_outputs_are_one_matrix(outputs: Any, shape: str, head: str | None) -> None:
    message = rf"^network: plain maps inputs \(4, 5\) to {shape}; expected one array \(samples, out"
    with refused(message):
        check(plain(outputs, head=head), X)


@pytest.mark.parametrize("x", [X[:, :3], X[:, None], X[:, 0], {"x": X}])
def test_inputs_of_another_shape(x: Any) -> None:
    def function(params: Any, x: jax.Array) -> jax.Array:
        samples, width = x.shape
        return x.reshape(samples, width) @ params

    network = Network.from_function(function, jnp.ones((5, 3)), name="plain")
    with refused(r"^inputs: plain does not accept shape \(4"):
        check(network, x)


def test_inputs_of_another_shape_in_linen(normalized: Any) -> None:
    message = r"^inputs: Normalized does not accept shape \(4, 3\): For parameter \"kernel\" in "
    with refused(message):
        check(Network.from_linen(*normalized, head="head"), X[:, :3])


@pytest.mark.parametrize("count", [0, 1])
def test_one_sample_cannot_show_interaction(count: int) -> None:
    with refused(rf"^samples: got {count}; expected at least 2, to see whether they interact$"):
        check(plain(dense), X[:count])


# The head

NOT_AFFINE = r"^head: plain is not affine in '.*'; name the last dense layer, or pass head=None"


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize(
    "outputs",
    [
        lambda p, hidden: jnp.tanh(dense(p, hidden)),
        lambda p, hidden: jax.nn.log_softmax(dense(p, hidden)),
        lambda p, hidden: 2 * dense(p, hidden),  # the bias counts twice
        lambda p, hidden: dense(p, hidden) + 1,
        lambda p, hidden: dense(p, hidden) + hidden @ p["body"].T @ p["body"][:, :3],
    ],
    ids=["tanh", "log-softmax", "scaled", "shifted", "skip"],
)
def test_network_is_affine_in_its_head(outputs: Any, zeros: bool) -> None:
    with refused(NOT_AFFINE):
        check(plain(outputs, zeros=zeros), X)


def test_head_is_the_last_layer() -> None:
    def deep(params: Any, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ params["first"]) @ params["square"] @ params["last"]

    params = {
        "first": jax.random.normal(KEY, (5, 8)),  # of another width than the outputs
        "square": jax.random.normal(KEY, (8, 3)),  # of the same
        "last": jax.random.normal(KEY, (3, 3)),
    }
    for head, affine in [("first", False), ("square", False), ("last", True)]:
        network = Network.from_function(deep, params, head=head, name="plain")
        if affine:
            assert check(network, X) == 3
        else:
            with refused(NOT_AFFINE):
                check(network, X)


def test_head_that_is_read_transposed() -> None:
    params = {"body": jax.random.normal(KEY, (5, 8)), "head": jax.random.normal(KEY, (3, 8))}
    network = Network.from_function(
        lambda p, x: jnp.tanh(x @ p["body"]) @ p["head"].T, params, head="head", name="plain"
    )
    with refused(NOT_AFFINE):
        check(network, X)
