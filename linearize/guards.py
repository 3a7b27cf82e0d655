"""What a network must be for a forecast to mean anything, checked on a few samples."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linearize.errors import first_line
from linearize.network import Network, merge, with_head
from linearize.types import Inputs

_TOLERANCE = 1e-3  # of the largest output; float32 convolutions differ by ~1e-5 between batch sizes


def check(network: Network, samples: Inputs) -> int:
    """Hold a network against the assumptions of linearisation; returns its number of outputs.

    Args:
        network: the network.
        samples: at least two samples; the first four are used.

    Raises:
        ValueError: fewer than two samples, wrong input shape, outputs that are not finite or not
            (samples, outputs), outputs that depend on the other samples of the batch (BatchNorm in
            training mode) or change from call to call (dropout), a head in which the network is
            not affine.
    """
    few = jax.tree.map(lambda leaf: jnp.asarray(leaf[:4]), samples)
    count = _output_count(network, few)
    if network.head is not None and network.head_kernel(network.params).shape[1] != count:
        _refuse_head(network)
    together = _probe(network, few)
    if not np.isfinite(together.outputs).all():
        msg = f"network: {network.name} returns NaN or infinite outputs; check weights and inputs"
        raise ValueError(msg)
    # The last sample: its place in the batch changes as well as its company.
    alone = _probe(network, jax.tree.map(lambda leaf: leaf[-1:], few))
    if not _close(together.outputs, np.concatenate([together.outputs[:, :-1], alone.outputs], 1)):
        again = _probe(network, few)
        _refuse(network, deterministic=_close(together.outputs, again.outputs))
    if not _close(together.outputs, together.affine):
        _refuse_head(network)
    return count


def _output_count(network: Network, few: Inputs) -> int:
    samples = len(jax.tree.leaves(few)[0])
    if samples < 2:
        msg = f"samples: got {samples}; expected at least 2, to see whether they interact"
        raise ValueError(msg)
    full = merge(network.params, network.frozen)
    try:
        outputs = jax.eval_shape(network.function, full, few)
    except Exception as error:
        msg = first_line(error, limit=None)
        if not msg.startswith(("module: ", "model: ")):
            msg = f"inputs: {network.name} does not accept shape {_shapes(few)}: {msg[:200]}"
        raise ValueError(msg) from error
    single = isinstance(outputs, jax.ShapeDtypeStruct)
    if not single or outputs.ndim != 2 or outputs.shape[0] != samples:
        msg = (
            f"network: {network.name} maps inputs {_shapes(few)} to {_shapes(outputs)}; "
            "expected one array (samples, outputs)"
        )
        raise ValueError(msg)
    return outputs.shape[1]


class _Probe(NamedTuple):
    """Outputs with the given head and, if there is one, with a random head.

    Attributes:
        outputs: f(x).
        affine: Wᵀh(x) + b, the same where the network is affine in its head.
    """

    outputs: Float[Array, "heads samples outputs"]
    affine: Float[Array, "heads samples outputs"]


def _probe(network: Network, inputs: Inputs) -> _Probe:
    def evaluate(inputs: Inputs) -> _Probe:
        full = merge(network.params, network.frozen)
        given = network.function(full, inputs)
        if network.head is None:
            return _Probe(given[None], given[None])
        kernel, bias = network.head_kernel(network.params), network.head_bias(network.params)
        random = np.random.default_rng(0)
        drawn = jnp.asarray(random.normal(size=kernel.shape), kernel.dtype)
        shift = None if bias is None else jnp.asarray(random.normal(size=bias.shape), bias.dtype)
        other = network.function(with_head(full, network.head, drawn, shift), inputs)
        features = network.features(network.params, inputs, jnp.eye(len(kernel)))
        affine = [_affine(features, kernel, bias), _affine(features, drawn, shift)]
        return _Probe(jnp.stack([given, other]), jnp.stack(affine))

    found = jax.jit(evaluate)(inputs)  # traced anew each time, so that hidden randomness shows
    return jax.tree.map(np.asarray, found)


def _affine(features: Array, kernel: Array, bias: Array | None) -> Array:
    return features @ kernel + (0 if bias is None else bias)


def _close(a: Any, b: Any) -> bool:
    scale = np.abs(a).max(axis=(1, 2), keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool((np.abs(a - b) <= _TOLERANCE * scale).all())


def _refuse(network: Network, *, deterministic: bool) -> None:
    if deterministic:
        msg = (
            f"network: in {network.name} a sample's output depends on the others of its batch "
            "(BatchNorm in training mode?) or on its place in it (dropout with a fixed key?); "
            "use inference mode, for example train=False"
        )
    else:
        msg = (
            f"network: {network.name} returns different outputs for the same inputs (dropout?); "
            "make it deterministic, for example deterministic=True or model.eval()"
        )
    raise ValueError(msg)


def _refuse_head(network: Network) -> None:
    msg = (
        f"head: {network.name} is not affine in {network.head and network.head.kernel!r}; "
        "name the last dense layer, or pass head=None to linearise everything"
    )
    raise ValueError(msg)


def _shapes(inputs: Inputs) -> str:
    shapes = [leaf.shape for leaf in jax.tree.leaves(inputs)]
    return str(shapes[0]) if len(shapes) == 1 else str(shapes)
