"""What a network must be for a forecast to mean anything, checked on a few samples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from linearize.network import Network
from linearize.types import Inputs

_TOLERANCE = 1e-3  # of the largest output; float32 convolutions differ by ~1e-5 between batch sizes


def check(network: Network, samples: Inputs) -> int:
    """Hold a network against the assumptions of linearisation; returns its number of outputs.

    Args:
        network: the network.
        samples: at least two samples; the first four are used.

    Raises:
        ValueError: wrong input shape, outputs that are not finite or not (samples, outputs),
            outputs that depend on the other samples of the batch (BatchNorm in training mode) or
            change from call to call (dropout), a head in which the network is not affine.
    """
    few = jax.tree.map(lambda leaf: jnp.asarray(leaf[:4]), samples)
    together = _probe(network, few)
    outputs = together.outputs
    if outputs.ndim != 2 or len(outputs) != len(jax.tree.leaves(few)[0]):
        msg = (
            f"network: {network.name} maps inputs {_shapes(few)} to {outputs.shape}; "
            "expected (samples, outputs)"
        )
        raise ValueError(msg)
    if not jnp.isfinite(outputs).all():
        msg = f"network: {network.name} returns NaN or infinite outputs; check weights and inputs"
        raise ValueError(msg)
    alone = _probe(network, jax.tree.map(lambda leaf: leaf[:1], few))
    if not _close(outputs[:1], alone.outputs):
        _refuse(network, deterministic=_close(outputs, _probe(network, few).outputs))
    if not (_close(*together.bias) and _close(*together.kernel)):
        msg = (
            f"head: {network.name} is not affine in {network.head and network.head.kernel!r}; "
            "name the last dense layer, or pass head=None to linearise everything"
        )
        raise ValueError(msg)
    return outputs.shape[1]


class _Probe(NamedTuple):
    """Outputs, and two pairs that agree where the network is affine in its head.

    Attributes:
        outputs: f(x; W, b).
        bias: f(x; W, 0) + b and f(x; W, b).
        kernel: f(x; W', 0) and f(x; I, 0)·W', for some W'.
    """

    outputs: Array
    bias: tuple[Array, Array]
    kernel: tuple[Array, Array]


def _probe(network: Network, inputs: Inputs) -> _Probe:
    def evaluate(inputs: Inputs) -> _Probe:
        params = network.params
        outputs = network.apply(params, inputs)
        if network.head is None:
            return _Probe(outputs, (outputs, outputs), (outputs, outputs))
        kernel, bias = network.head_kernel(params), network.head_bias(params)
        random = jax.random.normal(jax.random.key(0), kernel.shape, kernel.dtype)
        shifted = network.features(params, inputs, kernel) + (0 if bias is None else bias)
        read = network.features(params, inputs, jnp.eye(len(kernel))) @ random
        return _Probe(outputs, (shifted, outputs), (network.features(params, inputs, random), read))

    try:
        return jax.jit(evaluate)(inputs)  # traced anew each time, so that hidden randomness shows
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError) as error:
        text = str(error).strip() or repr(error)
        if text.startswith("module: "):
            raise
        msg = (
            f"inputs: {network.name} does not accept shape {_shapes(inputs)}: "
            f"{text.splitlines()[0][:200]}"
        )
        raise ValueError(msg) from error


def _close(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(jnp.abs(a - b).max() <= _TOLERANCE * jnp.abs(a).max())


def _refuse(network: Network, *, deterministic: bool) -> None:
    if deterministic:
        msg = (
            f"network: in {network.name} a sample's output depends on the others of its batch "
            "(BatchNorm in training mode?); use running averages, for example train=False"
        )
    else:
        msg = (
            f"network: {network.name} returns different outputs for the same inputs (dropout?); "
            "make it deterministic, for example deterministic=True or model.eval()"
        )
    raise ValueError(msg)


def _shapes(inputs: Inputs) -> str:
    shapes = [leaf.shape for leaf in jax.tree.leaves(inputs)]
    return str(shapes[0]) if len(shapes) == 1 else str(shapes)
