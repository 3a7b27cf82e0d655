"""The size of each parameter's gradient, by which coordinate-wise optimizers scale their steps."""

import jax
import numpy as np
from jaxtyping import Array, Float

from linearize.batches import weighted_batches
from linearize.network import Pullback
from linearize.types import Inputs, Params


def gradient_moments(
    pull: Pullback,
    params: Params,
    samples: Inputs,
    cotangents: Float[Array, "samples outputs"],
    *,
    batch: int,
) -> Params:
    """E g², where g is the gradient of Σ ⟨values, cotangents⟩ over a minibatch, per parameter.

    Args:
        pull: the `pullback` of a function of parameters and samples.
        params: pytree of arrays.
        samples: inputs, samples on the leading axis.
        cotangents: the gradient of the loss by the values.
        batch: samples per minibatch; the mean is over all of them, and the last may be smaller.

    Returns:
        A tree like `params`. It costs one forward and one backward pass per sample.
    """
    gradients = (
        pull(params, inputs, weights)
        for inputs, weights in weighted_batches(samples, cotangents, batch)
    )
    # NumPy: jax.numpy would compile programs for each shape of tensor.
    with np.errstate(over="ignore", invalid="ignore"):
        squares = [jax.tree.map(np.square, gradient) for gradient in gradients]
        return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *squares)
