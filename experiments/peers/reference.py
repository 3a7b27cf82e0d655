"""The curves of neural-tangents, to be run in an environment of its own, see README.md.

    python reference.py INPUTS.npz CURVES.npz

Times are steps of training; each optimizer is an array, (learning rate, momentum).
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import neural_tangents as nt
import numpy as np

jax.config.update("jax_enable_x64", True)


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Nats per sample, the mean over samples."""
    return -(targets * jax.nn.log_softmax(outputs)).sum(-1).mean()


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Half the squared distance, the mean over samples."""
    return jnp.square(outputs - targets).sum(-1).mean() / 2


def main(source: str, target: str) -> None:
    """Solve every case."""
    given = {name: jnp.asarray(array) for name, array in np.load(source).items()}
    kernel, targets = given["kernel_train"], given["targets_train"]
    curves: dict[str, np.ndarray] = {}

    def add(name: str, loss: Callable[..., jax.Array], flow: Callable[..., Any]) -> None:
        train, unseen = flow(
            given["times"], given["outputs_train"], given["outputs_unseen"], given["kernel_unseen"]
        )
        curves[f"{name} train"] = jax.vmap(loss, (0, None))(train, targets)
        curves[f"{name} unseen"] = jax.vmap(loss, (0, None))(unseen, given["targets_unseen"])
        curves[f"{name} outputs"] = unseen.astype(jnp.float32)

    for loss in (cross_entropy, squared_error):
        for optimizer in ("plain", "momentum"):
            rate, momentum = (float(value) for value in given[optimizer])
            # A momentum of 0 would be an equation of second order; None is plain descent.
            flow = nt.predict.gradient_descent(
                loss, kernel, targets, rate, momentum or None, trace_axes=()
            )
            add(f"{loss.__name__} {optimizer} gradient_descent", loss, flow)
    # The closed form is that of the mean over samples and outputs, a smaller loss.
    rate = float(given["plain"][0]) * targets.shape[1]
    flow = nt.predict.gradient_descent_mse(kernel, targets, rate, trace_axes=())
    add("squared_error plain gradient_descent_mse", squared_error, flow)
    np.savez_compressed(target, **curves)


if __name__ == "__main__":
    main(*sys.argv[1:])
