"""Fewer columns for the same kernel."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from linearize.tangent import HeadExactTangent, LinearTangent

_FIRST_RANK = 512
"""Of the randomised decomposition; doubled until the tolerance is met."""


def compress(
    model: HeadExactTangent | LinearTangent, *, tolerance: float = 0.05
) -> HeadExactTangent | LinearTangent:
    """Keep the principal directions of a tangent model's projected features.

    The features G become G V, where V spans the leading right singular vectors of G, found by a
    randomised decomposition (Halko et al., 2011) where few are enough. The kernel G Gᵀ loses at
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
    total, rank = np.square(rows, dtype=float).sum(), _FIRST_RANK
    while tolerance and 2 * rank <= min(rows.shape):  # beyond, the exact decomposition costs less
        _, values, vectors = randomized_svd(rows, rank, n_iter=2, random_state=0)
        captured = np.cumsum(np.square(values, dtype=float))
        if captured[-1] >= (1 - tolerance) * total:
            return vectors[: np.searchsorted(captured, (1 - tolerance) * total) + 1].T
        rank *= 2
    eigenvalues, directions = scipy.linalg.eigh(rows.T @ rows, driver="evd")  # ascending
    lost = np.cumsum(np.maximum(eigenvalues, 0))
    return directions[:, lost > tolerance * lost[-1]]
