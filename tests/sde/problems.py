"""Tiny problems for every solver: two tangent models, two losses, five optimizers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from linearize import HeadExactTangent, Identity, LinearTangent, linearize
from sde import (
    CrossEntropy,
    Curve,
    Diffusion,
    Examples,
    Problem,
    Replay,
    Solver,
    Spectral,
    SquaredError,
    Trajectory,
)
from tests import networks

SAMPLES, HELD_OUT, OUTPUTS, COLUMNS, STEPS = 64, 32, 3, 12, 40
GRID = np.array([0, 1, 2, 5, 8, 17, 30, STEPS])
SOLVERS: dict[str, Solver] = {"replay": Replay(), "sde": Diffusion(), "spectral": Spectral()}
OBJECTIVES = {"squared error": SquaredError(), "cross-entropy": CrossEntropy(0.1)}
OPTIMIZERS = {
    "plain": optax.sgd(0.5),
    "heavy ball": optax.sgd(0.1, momentum=0.8),
    "nesterov": optax.sgd(0.1, momentum=0.8, nesterov=True),
    "weight decay": optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.2, momentum=0.5)),
    "cosine": optax.sgd(optax.cosine_decay_schedule(0.3, STEPS), momentum=0.5),
}


@cache
def _linear(_x64: bool) -> LinearTangent:
    """Features with a spectrum, a start that is not zero, noise that no weight explains."""
    random = np.random.default_rng(0)
    scales = np.arange(1, COLUMNS + 1) ** -0.5
    features = random.normal(size=(SAMPLES + HELD_OUT, OUTPUTS, COLUMNS)) * scales
    return LinearTangent(
        outputs_initial=jnp.asarray(0.5 * random.normal(size=features.shape[:2]), float),
        jacobian=jnp.asarray(0.7 * features, float),
        body_initial=jnp.asarray(random.normal(size=COLUMNS), float),
        exact=True,
    )


@cache
def _head_exact(_x64: bool) -> HeadExactTangent:
    network, x = networks.perceptron(samples=SAMPLES + HELD_OUT, width=5)
    model = linearize(network, x, Identity(), checked=True)
    assert isinstance(model, HeadExactTangent)
    return model


def problem(
    model: str = "linear", objective: str = "squared error", optimizer: Any = "plain", **more: Any
) -> Problem:
    """Full batches, unless it is asked for something else."""
    make = _linear if model == "linear" else _head_exact
    tangent, goal = make(bool(jax.config.jax_enable_x64)), OBJECTIVES[objective]
    truth = np.asarray(tangent(tangent.initial()))
    truth = truth + np.random.default_rng(1).normal(size=truth.shape)
    targets = goal.targets(truth.argmax(1), OUTPUTS)
    both = Examples(tangent, targets)
    seen, unseen = both.take(slice(SAMPLES)), both.take(slice(SAMPLES, None))
    settings = {"batch_size": SAMPLES, "validation": unseen} | more
    chosen = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    return Problem(seen, goal, chosen, **settings)


def with_optimizers(given: Problem) -> list[Problem]:
    return [replace(given, optimizer=optimizer) for optimizer in OPTIMIZERS.values()]


def arrays(trajectory: Trajectory) -> list[np.ndarray]:
    curves: list[Curve] = [trajectory.train, trajectory.curve("validation")]
    return [values for curve in curves for values in (curve.loss, curve.accuracy)]


def assert_same(got: Trajectory, expected: Trajectory, rtol: float) -> None:
    np.testing.assert_array_equal(got.steps, expected.steps)
    for a, b in zip(arrays(got), arrays(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol)
