"""Fewer columns for the same kernel."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import scipy.linalg

from linearize.tangent import HeadExactTangent, LinearTangent


def compress(
    model: HeadExactTangent | LinearTangent, *, tolerance: float = 0.05
) -> HeadExactTangent | LinearTangent:
    """Keep the principal directions of a tangent model's projected features.

    The features become G V, where V spans the leading eigenvectors of GᵀG. The kernel G Gᵀ loses at
    most `tolerance` of its trace, the part that training moves last, and a simulated step costs in
    proportion to the columns that are left. Exact features stay as they are.

    Args:
        model: on all samples that will be compared; V depends on them.
        tolerance: the share of the trace to give up, in [0, 1).

    Raises:
        ValueError: a tolerance outside of its range.
    """
    if not 0 <= tolerance < 1:
        msg = f"tolerance: got {tolerance}; expected 0 <= tolerance < 1"
        raise ValueError(msg)
    if model.exact or model.jacobian.size == 0:
        return model
    rows = model.jacobian.reshape(-1, model.jacobian.shape[-1])
    values, vectors = scipy.linalg.eigh(np.asarray(rows.T @ rows))  # ascending
    lost = np.cumsum(np.maximum(values, 0))
    kept = jnp.asarray(vectors[:, lost > tolerance * lost[-1]])
    return replace(model, jacobian=model.jacobian @ kept, body_initial=model.body_initial @ kept)
