"""How features move when the body takes a step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linearize.batches import map_batches, weighted_batches
from linearize.network import Network
from linearize.types import Inputs


def feature_movement(
    network: Network,
    samples: Inputs,
    cotangents: Float[Array, "steps samples features"],
    *,
    batch: int,
    signs: bool = False,
) -> Float[Array, "steps samples features"]:
    """J_h of steps of the body down its gradient, to first order, each from where it is.

    Args:
        network: the network; its body trains.
        samples: inputs, samples on the leading axis.
        cotangents: the gradient of the loss by the features, for each step.
        batch: samples at a time.
        signs: step by the signs of the gradient, as Adam's first step does.

    Returns:
        Movements, of size 1 in each step, or 0 where nothing moves. A step costs two forward
        passes, one backward pass and one of forward differentiation per sample.
    """
    body = network.body(network.params)

    def move(cotangents: np.ndarray) -> np.ndarray:
        parts = [
            network.features_pullback(body, inputs, weights)
            for inputs, weights in weighted_batches(samples, cotangents, batch)
        ]
        # NumPy: jax.numpy would compile programs for each shape of tensor.
        with np.errstate(over="ignore", invalid="ignore"):
            gradient = jax.tree.map(lambda *leaves: np.sum(leaves, axis=0), *parts)
            step = jax.tree.map(lambda leaf: -np.sign(leaf) if signs else -leaf, gradient)
            push = partial(network.features_pushforward, body, step)
            moved = np.asarray(map_batches(push, samples, batch))
            size = np.linalg.norm(moved)
        return moved / size if 0 < size < np.inf else np.zeros_like(moved)

    return jnp.asarray(np.stack([move(each) for each in np.asarray(cotangents)]))
