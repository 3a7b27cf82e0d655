"""Sharpness, noise mass and critical rates against explicit matrices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from linearize import Identity, TangentModel, empirical_ntk, kernel_trace, linearize
from sde import CrossEntropy, Examples, GradientDescent, Problem, SquaredError, stability
from sde.stability import critical_step, noise_mass, sharpness
from tests import networks

SAMPLES, BATCH, STEPS = 12, 4, 30
OBJECTIVES = {"squared error": SquaredError(), "cross-entropy": CrossEntropy(0.1)}
OPTIMIZERS = {
    "plain": optax.sgd(0.1),
    "heavy ball": optax.sgd(0.1, momentum=0.7),
    "nesterov": optax.sgd(0.1, momentum=0.7, nesterov=True),
}


def model(mode: Any) -> TangentModel:
    network, x = networks.perceptron(samples=SAMPLES, width=4)
    return linearize(network, x, Identity(), mode=mode, checked=True)


def problem(mode: Any, objective: str, optimizer: Any = OPTIMIZERS["plain"]) -> Problem:
    tangent, goal = model(mode), OBJECTIVES[objective]
    labels = np.random.default_rng(0).integers(0, 3, SAMPLES)
    return Problem(Examples(tangent, goal.targets(labels, 3)), goal, optimizer, BATCH)


def jacobian(tangent: TangentModel) -> np.ndarray:
    """By all parameters, (samples, outputs, parameters)."""
    flat, unravel = ravel_pytree(tangent.initial())
    return np.asarray(jax.jacobian(lambda vector: tangent(unravel(vector)))(flat))


def gauss_newton(given: Problem) -> np.ndarray:
    rows = jacobian(given.train.model)
    outputs = np.asarray(given.train.model(given.train.model.initial()))
    total = np.zeros((rows.shape[2],) * 2)
    for row, f in zip(rows, outputs, strict=True):
        weights = np.exp(f - f.max()) / np.exp(f - f.max()).sum()
        curved = np.eye(len(f))
        if isinstance(given.objective, CrossEntropy):
            curved = np.diag(weights) - np.outer(weights, weights)
        total += row.T @ curved @ row / len(outputs)
    return total


CASES = [(mode, objective) for mode in ("linear", "head_exact") for objective in OBJECTIVES]


@pytest.mark.parametrize(("mode", "objective"), CASES)
def test_sharpness_is_the_largest_eigenvalue(mode: str, objective: str) -> None:
    given = problem(mode, objective)
    expected = np.linalg.eigvalsh(gauss_newton(given))[-1]
    assert sharpness(given) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("mode", ["linear", "head_exact"])
def test_the_trace_of_the_kernel(mode: str) -> None:
    tangent = model(mode)
    kernel = np.asarray(empirical_ntk(tangent).value)
    expected = np.trace(kernel.reshape(3 * SAMPLES, 3 * SAMPLES))
    assert float(kernel_trace(tangent)) == pytest.approx(expected, rel=1e-5)
    assert float(kernel_trace(tangent)) == pytest.approx(np.sum(jacobian(tangent) ** 2), rel=1e-5)


@pytest.mark.parametrize("mode", ["linear", "head_exact"])
@pytest.mark.parametrize("sampling", ["epochs", "independent"])
def test_the_noise_mass(mode: str, sampling: Any) -> None:
    given = replace(problem(mode, "squared error"), sampling=sampling)
    descent = GradientDescent(np.array([0.05, 0.2, 0.1]), np.array(0.6), np.zeros(()), np.zeros(()))
    trace = np.sum(jacobian(given.train.model) ** 2)
    without_return = (SAMPLES - BATCH) / (SAMPLES - 1)
    expected = 0.2 / 0.4 * trace / (2 * SAMPLES * BATCH * 3) * without_return
    assert noise_mass(given, descent) == pytest.approx(expected, rel=1e-5)
    assert noise_mass(replace(given, batch_size=SAMPLES), descent) == 0


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("nesterov", [0.0, 1.0])
def test_the_critical_step_is_where_the_companion_matrix_leaves_the_unit_circle(
    momentum: float, nesterov: float
) -> None:
    descent = GradientDescent(np.ones(1), np.array(momentum), np.array(nesterov), np.zeros(()))
    edge = critical_step(descent)

    def radius(step: float) -> float:
        # (z, v) with η = 1 and the curvature `step`: v' = m v + h z, moved by v' or h z + m v'.
        velocity = np.array([step, momentum])
        moved = np.array([step, 0.0]) + momentum * velocity if nesterov else velocity
        matrix = np.stack([np.array([1.0, 0.0]) - moved, velocity])
        return float(np.abs(np.linalg.eigvals(matrix)).max())

    assert radius(edge) == pytest.approx(1, abs=1e-6)
    assert all(radius(share * edge) < 1 for share in (0.05, 0.3, 0.9, 0.999))
    assert all(radius(share * edge) > 1 for share in (1.001, 1.1, 3.0))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_critical_rate_of_a_quadratic(name: str, decay: float) -> None:
    optimizer = optax.chain(optax.add_decayed_weights(decay), OPTIMIZERS[name])
    given = problem("linear", "squared error", optimizer)
    found = stability(given, STEPS)
    assert found is not None
    matrix = gauss_newton(given)
    largest = np.linalg.eigvalsh(matrix)[-1]
    m = 0.0 if name == "plain" else 0.7
    edge = 2 * (1 + m) / (1 + 2 * m * (name == "nesterov"))
    assert found.critical_learning_rate == pytest.approx(edge / (largest + decay), rel=2e-3)
    assert found.learning_rate == pytest.approx(0.1, rel=1e-5)
    assert found.effective_learning_rate == pytest.approx(0.1 / (1 - m), rel=1e-4)
    assert found.margin == pytest.approx(found.critical_learning_rate / 0.1, rel=1e-4)
    assert found.sharpness == pytest.approx(largest, rel=2e-3)


def test_no_rule_is_known_for_clipping() -> None:
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    assert stability(problem("linear", "squared error", clipped), STEPS) is None


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_along_its_path_a_head_only_gets_sharper_in_the_report(objective: str) -> None:
    given = problem("head_exact", objective)
    found = stability(given, STEPS)
    assert found is not None
    assert found.sharpness >= sharpness(given)
    descent = GradientDescent(np.array([0.1]), np.zeros(()), np.zeros(()), np.zeros(()))
    assert found.noise_mass >= 0.999 * noise_mass(given, descent)


@pytest.mark.parametrize(("mode", "objective"), CASES)
def test_a_rate_that_diverges_still_has_a_critical_one(mode: str, objective: str) -> None:
    gentle = stability(problem(mode, objective, optax.sgd(1e-3)), STEPS)
    assert gentle is not None
    for rate in (1e2, 1e8) if mode == "linear" else (1e4,):
        found = stability(problem(mode, objective, optax.sgd(rate)), STEPS)
        assert found is not None
        assert np.isfinite([found.critical_learning_rate, found.noise_mass]).all()
        assert found.margin < 1
        # The path is another one, on which the head grows, but the scale is the same.
        assert 0.05 < found.critical_learning_rate / gentle.critical_learning_rate < 1.1


@pytest.mark.parametrize("mode", ["linear", "head_exact"])
def test_a_model_begun_elsewhere_is_the_same_function(mode: str) -> None:
    tangent = model(mode)
    flat, unravel = ravel_pytree(tangent.initial())
    there, further = (
        unravel(flat + 0.5 * jax.random.normal(jax.random.key(seed), flat.shape)) for seed in (0, 1)
    )
    moved = tangent.at(there)
    jax.tree.map(np.testing.assert_array_equal, moved.initial(), there)
    for params in (tangent.initial(), there, further):
        np.testing.assert_allclose(moved(params), tangent(params), rtol=1e-4, atol=1e-5)
    back = moved.at(tangent.initial())
    np.testing.assert_allclose(back(further), tangent(further), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["linear", "head_exact"])
def test_a_problem_begun_elsewhere(mode: str) -> None:
    given = problem(mode, "cross-entropy")
    params = jax.tree.map(lambda leaf: leaf + 0.3, given.train.model.initial())
    elsewhere = given.at(params)
    np.testing.assert_allclose(
        elsewhere.train.losses(params, given.objective),
        given.train.losses(params, given.objective),
        rtol=1e-4,
    )
    # The Jacobian of the head-exact model is that of the new head.
    expected = np.linalg.eigvalsh(gauss_newton(elsewhere))[-1]
    assert sharpness(elsewhere) == pytest.approx(expected, rel=2e-3)
    assert jnp.array_equal(elsewhere.train.targets, given.train.targets)
