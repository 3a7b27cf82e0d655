"""The eigenmodes of a linear tangent model with squared error, and full-batch training of each."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Float

from linearize import LinearTangent
from sde.descent import GradientDescent
from sde.objective import SquaredError
from sde.problem import Problem
from sde.rollout import Grid

_RESOLVED = 1e-10
"""Eigenvalues below this share of the largest are rounding."""
_LARGE = float(np.finfo(np.float32).max)
"""What a position is cut off at; the loss is infinite long before."""


class Modes(NamedTuple):
    """The eigenvectors u_j of a quadratic problem and what the outputs are along them.

    Attributes:
        curvature: h_j = λ_j/N.
        slope: the gradient of the loss along u_j at the start.
        loss_initial: the loss at the start.
        origin: u_jᵀθ₀, what weight decay pulls to zero.
        readouts: J u_j on each set, the outputs that a unit of z_j adds.
    """

    curvature: Float[Any, " modes"]
    slope: Float[Any, " modes"]
    loss_initial: Float[Any, ""]
    origin: Float[Any, " modes"]
    readouts: list[Float[Any, "samples outputs modes"]]


def not_quadratic(problem: Problem) -> str | None:
    """What makes a problem another one than a quadratic, and what to do instead."""
    if not isinstance(problem.train.model, LinearTangent):
        return "needs a linear tangent model; use mode='linear', or solver='replay'"
    if not isinstance(problem.objective, SquaredError):
        return "needs loss='squared_error'; use solver='replay'"
    return None


def eigenmodes(problem: Problem) -> Modes:
    """Diagonalise a linear tangent model with squared error; O(k²·NC + k³).

    Where the initial weights have a part that no sample sees, which only weight decay moves, that
    part is one more mode, of curvature 0.

    Raises:
        ValueError: another problem.
    """
    model = problem.train.model
    obstacle = not_quadratic(problem)
    if obstacle is not None or not isinstance(model, LinearTangent):
        msg = f"solver: 'spectral' {obstacle}"
        raise ValueError(msg)
    features = np.asarray(model.jacobian, float).reshape(-1, model.jacobian.shape[-1])
    rows, columns = features.shape
    if columns <= rows:
        eigenvalues, vectors = scipy.linalg.eigh(features.T @ features)
    else:
        eigenvalues, left = scipy.linalg.eigh(features @ features.T)
        vectors = features.T @ left / np.sqrt(np.maximum(eigenvalues, np.finfo(float).tiny))
    seen = eigenvalues > _RESOLVED * eigenvalues[-1]
    vectors, eigenvalues = vectors[:, seen], eigenvalues[seen]
    weights = np.asarray(model.body_initial, float)
    unseen = weights - vectors @ (vectors.T @ weights)
    norm = np.linalg.norm(unseen)
    if norm > 1e-6 * np.linalg.norm(weights):
        vectors = np.column_stack([vectors, unseen / norm])
        eigenvalues = np.append(eigenvalues, 0.0)
    residuals = np.asarray(model.outputs_initial - problem.train.targets, float).ravel()
    return Modes(
        curvature=jnp.asarray(eigenvalues / problem.samples),
        slope=jnp.asarray(vectors.T @ (features.T @ residuals) / problem.samples),
        loss_initial=jnp.asarray(residuals @ residuals / (2 * problem.samples)),
        origin=jnp.asarray(vectors.T @ weights),
        readouts=[
            examples.model.output_jacobian() @ jnp.asarray(vectors) for examples in problem.sets
        ],
    )


def closed_form(
    modes: Modes, descent: GradientDescent, grid: Grid
) -> Float[np.ndarray, "grid modes"]:
    """The positions of full-batch training at a constant rate: powers of a 3 × 3 matrix a mode."""
    rate, momentum = float(descent.learning_rate[0]), float(descent.momentum)
    decay = float(descent.weight_decay)
    curvature = np.asarray(modes.curvature, float) + decay
    slope = np.asarray(modes.slope, float) + decay * np.asarray(modes.origin, float)
    # One step maps (z, v, 1) to (z − η s, m v + g, 1), s = v or, for Nesterov, g + m v.
    gradient = np.stack([curvature, np.zeros_like(slope), slope], axis=1)
    kept = np.broadcast_to(np.eye(3), (len(slope), 3, 3))
    velocity = gradient + momentum * kept[:, 1]
    moved = gradient + momentum * velocity if descent.nesterov else velocity
    step = np.stack([kept[:, 0] - rate * moved, velocity, kept[:, 2]], axis=1)
    state = np.zeros((len(slope), 3, 1))
    state[:, 2] = 1
    positions = []
    with np.errstate(over="ignore", invalid="ignore"):  # beyond stability
        for length in np.diff(grid, prepend=0):
            state = np.linalg.matrix_power(step, int(length)) @ state
            positions.append(state[:, 0, 0])
    return np.clip(positions, -_LARGE, _LARGE)
