"""How features move when the body takes a step."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from linearize.batches import batches, map_batches
from linearize.network import Network, merge
from linearize.types import Inputs, Params


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
    basis, body = jnp.eye(cotangents.shape[2]), network.body(network.params)

    def read(body: Params, inputs: Inputs) -> Array:
        return network.features(merge(body, network.params), inputs, basis)

    @jax.jit
    def pull(body: Params, inputs: Inputs, cotangents: Array) -> Params:
        return jax.vjp(lambda values: read(values, inputs), body)[1](cotangents)[0]

    @jax.jit
    def push(body: Params, step: Params, inputs: Inputs) -> Array:
        return jax.jvp(lambda values: read(values, inputs), (body,), (step,))[1]

    def move(cotangents: Array) -> Array:
        parts = [
            pull(body, inputs, weights.at[place.stop - place.start :].set(0))  # no repetitions
            for (inputs, weights), place in batches((samples, cotangents), batch)
        ]
        gradient = jax.tree.map(lambda *leaves: sum(leaves), *parts)
        step = jax.tree.map(lambda leaf: -jnp.sign(leaf) if signs else -leaf, gradient)
        moved = map_batches(partial(push, body, step), samples, batch)
        size = jnp.linalg.norm(moved)
        return jnp.where((size > 0) & jnp.isfinite(size), moved / size, 0)

    return jnp.stack([move(each) for each in cotangents])
