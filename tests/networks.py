"""Small networks, each with an explicit forward pass of its body as the oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from linearize import Network
from linearize.network import merge

OUTPUTS = 3


class Convolutional(nn.Module):
    """Two convolutions and a mean over pixels."""

    def setup(self) -> None:
        self.conv1 = nn.Conv(4, (3, 3))
        self.conv2 = nn.Conv(5, (3, 3), strides=(2, 2))
        self.head = nn.Dense(OUTPUTS)

    def features(self, x: jax.Array) -> jax.Array:
        return nn.relu(self.conv2(nn.relu(self.conv1(x)))).mean(axis=(1, 2))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))


class Residual(nn.Module):
    """A pre-activation residual block with group normalisation; the head has no bias."""

    def setup(self) -> None:
        self.stem = nn.Conv(4, (3, 3))
        self.norm1 = nn.GroupNorm(num_groups=2)
        self.conv1 = nn.Conv(4, (3, 3), use_bias=False)
        self.norm2 = nn.GroupNorm(num_groups=2)
        self.conv2 = nn.Conv(4, (3, 3), use_bias=False)
        self.head = nn.Dense(OUTPUTS, use_bias=False)

    def features(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        branch = self.conv1(nn.relu(self.norm1(x)))
        x = x + self.conv2(nn.relu(self.norm2(branch)))
        return nn.relu(x).mean(axis=(1, 2))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))


class Depthwise(nn.Module):
    """A convolution of each channel by itself, a dense head."""

    def setup(self) -> None:
        self.body = nn.Conv(4, (3, 3), feature_group_count=2)
        self.head = nn.Dense(OUTPUTS)

    def features(self, x: jax.Array) -> jax.Array:
        return nn.relu(self.body(x)).mean((1, 2))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))


class Transformer(nnx.Module):
    """One block of attention over tokens, written out: the framework's softmax is float32."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Param(jax.random.normal(rngs.params(), (7, 6)))
        self.norm1 = nnx.LayerNorm(6, rngs=rngs)
        self.attention = nnx.Linear(6, 18, rngs=rngs)
        self.norm2 = nnx.LayerNorm(6, rngs=rngs)
        self.mlp = nnx.List([nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, 6, rngs=rngs)])
        self.head = nnx.Linear(6, OUTPUTS, rngs=rngs)

    def features(self, tokens: jax.Array) -> jax.Array:
        x = self.embed[...][tokens]
        query, key, value = jnp.split(self.attention(self.norm1(x)), 3, axis=-1)
        weights = jax.nn.softmax(query @ key.swapaxes(1, 2) / 6**0.5)
        x = x + weights @ value
        x = x + self.mlp[1](nnx.gelu(self.mlp[0](self.norm2(x))))
        return x.mean(axis=1)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.head(self.features(tokens))


@dataclass(frozen=True)
class Case:
    """A network, inputs, and its body h written out.

    Attributes:
        network: the network.
        inputs: five samples.
        hidden: (all parameters, inputs) -> h, shape (samples, features).
    """

    network: Network
    inputs: jax.Array
    hidden: Callable[[Any, jax.Array], jax.Array]


def linen(module: nn.Module) -> Case:
    x = jax.random.normal(jax.random.key(1), (5, 5, 5, 2))
    variables = randomized(jax.jit(module.init)(jax.random.key(0), x))

    @jax.jit
    def hidden(params: Any, inputs: jax.Array) -> jax.Array:
        return module.apply({"params": params}, inputs, method="features")

    return Case(Network.from_linen(module, variables, head="head"), x, hidden)


def transformer() -> Case:
    model = Transformer(nnx.Rngs(0))
    definition, params, state = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def hidden(values: Any, inputs: jax.Array) -> jax.Array:
        restored = nnx.clone(params)
        nnx.replace_by_pure_dict(restored, values)
        return nnx.merge(definition, restored, nnx.clone(state)).features(inputs)

    network = Network.from_nnx(model, head="head")
    tokens = jax.random.randint(jax.random.key(1), (5, 4), 0, 7)
    return Case(replace(network, params=randomized(network.params)), tokens, hidden)


CASES: dict[str, Callable[[], Case]] = {
    "convolutional": lambda: linen(Convolutional()),
    "residual": lambda: linen(Residual()),
    "transformer": transformer,
}


@cache
def double(name: str) -> Case:
    """A case in float64 (under the `x64` fixture)."""

    def widen(leaf: jax.Array) -> jax.Array:
        return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    case = CASES[name]()
    network = replace(case.network, params=jax.tree.map(widen, case.network.params))
    return replace(case, network=network, inputs=widen(case.inputs))


@jax.jit
def randomized(params: Any) -> Any:
    """The parameters plus a little noise, so that no bias is zero and no scale is one."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noisy = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape, leaf.dtype)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, noisy)


def perceptron(
    *, inputs: int = 5, width: int = 8, samples: int = 12, bias: bool = True
) -> tuple[Network, jax.Array]:
    """A two-layer tanh network from a plain function, and samples, in the default precision."""
    return _perceptron(inputs, width, samples, bias, jax.config.jax_enable_x64)


@cache
def _perceptron(
    inputs: int, width: int, samples: int, bias: bool, _x64: bool
) -> tuple[Network, jax.Array]:
    keys = jax.random.split(jax.random.key(0), 5)
    head = {"kernel": 0.5 * jax.random.normal(keys[1], (width, OUTPUTS))}
    if bias:
        head["bias"] = 0.1 * jax.random.normal(keys[2], (OUTPUTS,))
    body = {
        "kernel": jax.random.normal(keys[0], (inputs, width)) / inputs**0.5,
        "bias": 0.1 * jax.random.normal(keys[3], (width,)),
    }
    network = Network.from_function(
        evaluate_perceptron, {"body": body, "head": head}, head="head", name="perceptron"
    )
    return network, jax.random.normal(keys[4], (samples, inputs))


def hidden_perceptron(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["body"]["kernel"] + params["body"]["bias"])


def evaluate_perceptron(params: Any, x: jax.Array) -> jax.Array:
    head = params["head"]
    return hidden_perceptron(params, x) @ head["kernel"] + head.get("bias", 0.0)


def full(network: Network) -> Any:
    """All parameters, trainable and frozen."""
    return merge(network.params, network.frozen)
