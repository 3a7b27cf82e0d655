"""The empirical neural tangent kernel at the pretrained weights, from features or exactly."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from linearize.network import Network, paths
from linearize.tangent import HeadExactTangent, TangentModel
from linearize.types import Inputs


class Kernel(NamedTuple):
    """An estimate of Θ = J Jᵀ.

    Attributes:
        value: Θ; entry (i, a, j, b) couples output a of sample i and output b of sample j.
        standard_error: of each entry, from the random projection; zero where features are exact.
            An upper bound for `CountSketch`, exact for `Achlioptas`.
    """

    value: Float[Array, "samples outputs samples outputs"]
    standard_error: Float[Array, "samples outputs samples outputs"]


@jax.jit
def empirical_ntk(model: TangentModel) -> Kernel:
    """Θ of a tangent model at its initial parameters.

    For two vectors a, b and k columns, var ⟨Sa, Sb⟩ ≤ (‖a‖²‖b‖² + ⟨a, b⟩²)/k; the norms are those
    estimated. The head's own part of a `HeadExactTangent` is exact.
    """
    rows = model.output_jacobian()
    n, c, k = rows.shape
    flat = rows.reshape(n * c, k)
    body = flat @ flat.T
    if model.exact or k == 0:
        error = jnp.zeros_like(body)
    else:
        norms = jnp.diag(body)
        error = jnp.sqrt((norms[:, None] * norms[None, :] + body**2) / k)
    shape = (n, c, n, c)
    return Kernel(body.reshape(shape) + _head_part(model), error.reshape(shape))


@jax.jit
def kernel_trace(model: TangentModel) -> Float[Array, ""]:
    """The trace of Θ of a tangent model at its initial parameters, without forming Θ."""
    trace = jnp.square(model.output_jacobian()).sum()
    if isinstance(model, HeadExactTangent):
        norms = (
            jnp.square(model.features(model.initial())).sum() + model.samples * model.bias_trains
        )
        trace = trace + model.kernel_initial.shape[1] * norms
    return trace


def exact_ntk(network: Network, samples: Inputs) -> Float[Array, "n c n c"]:
    """Θ from the explicit Jacobian of all trainable parameters: the oracle, O(N·C·D) memory."""
    jacobian = jax.jit(jax.jacrev(network.apply))(network.params, samples)
    parts = [
        jnp.tensordot(flat, flat, axes=(2, 2))
        for leaf in paths(jacobian).values()
        for flat in [leaf.reshape(*leaf.shape[:2], -1)]
    ]
    return sum(parts[1:], start=parts[0])


@jax.jit
def spectrum(kernel: Kernel) -> Float[Array, " modes"]:
    """Eigenvalues of Θ/N, descending: η·λ < 2 is the stability limit of gradient descent."""
    samples, outputs = kernel.value.shape[:2]
    matrix = kernel.value.reshape(samples * outputs, samples * outputs)
    return jnp.linalg.eigvalsh(matrix)[::-1] / samples


def _head_part(model: TangentModel) -> Array | float:
    if not isinstance(model, HeadExactTangent):
        return 0.0
    features = model.features(model.initial())
    gram = features @ features.T + float(model.bias_trains)
    return jnp.einsum("nm,ab->namb", gram, jnp.eye(model.kernel_initial.shape[1]))
