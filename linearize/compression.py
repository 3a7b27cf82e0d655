"""Fewer columns for the same kernel."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_limits

from linearize.tangent import HeadExactTangent, LinearTangent


def compress(
    model: HeadExactTangent | LinearTangent, *, tolerance: float = 0.05
) -> HeadExactTangent | LinearTangent:
    """Keep the principal directions of a tangent model's projected features.

    The features G become G V, where V spans the leading right singular vectors of G. The kernel
    G Gᵀ loses at most `tolerance` of its trace, the part that training moves last, and a simulated
    step costs in proportion to the columns that are left. Exact features stay as they are.

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
    rows = np.asarray(model.jacobian).reshape(-1, model.jacobian.shape[-1])
    # Several BLAS threads took 27 times as long as one for these, where a core had other work.
    with threadpool_limits(1, user_api="blas"):
        kept = jnp.asarray(_leading_directions(rows, tolerance))
    jacobian, body = model.jacobian @ kept, model.body_initial @ kept
    if isinstance(model, LinearTangent):
        return replace(model, jacobian=jacobian, body_initial=body)
    return replace(model, jacobian=jacobian, body_initial=body, origin=model.origin @ kept)


def _leading_directions(rows: np.ndarray, tolerance: float) -> np.ndarray:
    """The fewest orthonormal columns V with ‖G V‖² ≥ (1 − tolerance)‖G‖² for the rows of G."""
    eigenvalues, directions = scipy.linalg.eigh(rows.T @ rows, driver="evd")  # ascending
    lost = np.cumsum(np.maximum(eigenvalues, 0))
    return directions[:, lost > tolerance * lost[-1]]
