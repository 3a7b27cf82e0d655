"""The size of each parameter's gradient, by which coordinate-wise optimizers scale their steps."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linearize.batches import batches
from linearize.types import Inputs, Outputs, Params


def gradient_moments(
    function: Callable[[Params, Inputs], Outputs],
    params: Params,
    samples: Inputs,
    cotangents: Float[Array, "samples outputs"],
    *,
    batch: int,
) -> Params:
    """E g², where g is the gradient of Σ ⟨function, cotangents⟩ over a minibatch, per parameter.

    Args:
        function: (params, samples) -> values.
        params: pytree of arrays.
        samples: inputs, samples on the leading axis.
        cotangents: the gradient of the loss by the function's values.
        batch: samples per minibatch; the mean is over all of them, and the last may be smaller.

    Returns:
        A tree like `params`. It costs one forward and one backward pass per sample.
    """

    @jax.jit
    def squares(params: Params, inputs: Inputs, cotangents: Array) -> Params:
        gradient = jax.vjp(lambda p: function(p, inputs), params)[1](cotangents)[0]
        return jax.tree.map(jnp.square, gradient)

    parts = [
        squares(params, inputs, weights.at[place.stop - place.start :].set(0))  # no repetitions
        for (inputs, weights), place in batches((samples, cotangents), batch)
    ]
    # NumPy: jax.numpy would compile programs for each shape of tensor.
    return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *parts)
