"""What a network must be for a forecast to mean anything, checked on a few samples."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from linearize.network import Network, merge, with_head
from linearize.types import Inputs

_TOLERANCE = 1e-3  # of the largest output; float32 convolutions differ by ~1e-5 between batch sizes
_ROUNDINGS = 8  # as many roundings are forgiven too: they count in half precision


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
    outputs = _output_count(network, few)
    together = _probe(network, few)
    if not all(jnp.isfinite(values).all() for values in together.outputs):
        msg = f"network: {network.name} returns NaN or infinite outputs; check weights and inputs"
        raise ValueError(msg)
    # The last sample, so that its place in the batch changes as well as its company.
    alone = _probe(network, jax.tree.map(lambda leaf: leaf[-1:], few))
    if not _all_close(together.outputs, [_with_last(*pair) for pair in zip(*(together.outputs, alone.outputs), strict=True)]):
        _refuse(network, deterministic=_all_close(together.outputs, _probe(network, few).outputs))
    if not _all_close(together.outputs, together.affine):
        _refuse_head(network)
    return outputs
