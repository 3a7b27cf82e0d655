"""The empirical kernel against the exact one, its standard error and its spectrum."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linearize import (
    Achlioptas,
    CountSketch,
    Identity,
    LinearTangent,
    Network,
    empirical_ntk,
    exact_ntk,
    kernel_trace,
    linearize,
    spectrum,
)
from sde import Examples, Problem, Replay, SquaredError
from tests import networks

MODES = ["linear", "head_exact"]


def square(value: Any) -> np.ndarray:
    """Θ as a matrix."""
    size = value.shape[0] * value.shape[1]
    return np.asarray(value, float).reshape(size, size)


# Exact features


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_identity_gives_the_exact_kernel(x64: None, mode: Any, bias: bool) -> None:
    network, x = networks.perceptron(bias=bias)
    kernel = empirical_ntk(linearize(network, x, Identity(), mode=mode, checked=True))
    np.testing.assert_allclose(kernel.value, exact_ntk(network, x), rtol=1e-10, atol=1e-12)
    assert not kernel.standard_error.any()


@pytest.mark.parametrize("trainable", ["*kernel", "head/*", "head/kernel"])
def test_frozen_parameters_are_not_in_the_kernel(x64: None, trainable: str) -> None:
    given, x = networks.perceptron()
    network = Network.from_function(given.function, given.params, head="head", trainable=trainable)
    for projection in [Identity()] + [CountSketch(16)] * trainable.startswith("head"):
        kernel = empirical_ntk(linearize(network, x, projection, mode="head_exact", checked=True))
        np.testing.assert_allclose(kernel.value, exact_ntk(network, x), rtol=1e-10, atol=1e-12)
        assert not kernel.standard_error.any()  # the head's part is exact in any projection


def test_exact_kernel_couples_the_gradients_of_outputs(x64: None) -> None:
    network, x = networks.perceptron()
    value = exact_ntk(network, x)

    def gradient(sample: int, output: int) -> Any:
        return jax.grad(lambda p: network.apply(p, x)[sample, output])(network.params)

    for i, a, j, b in [(0, 0, 0, 0), (1, 2, 7, 0)]:
        products = jax.tree.map(lambda u, v: (u * v).sum(), gradient(i, a), gradient(j, b))
        expected = float(sum(jax.tree.leaves(products)))
        assert float(value[i, a, j, b]) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("projection", [CountSketch(32), Achlioptas(32), Identity()])
@pytest.mark.parametrize("mode", MODES)
def test_kernel_is_symmetric_and_positive_semi_definite(mode: Any, projection: Any) -> None:
    network, x = networks.perceptron()
    kernel = empirical_ntk(linearize(network, x, projection, mode=mode, checked=True))
    matrix = square(kernel.value)
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-5)
    assert np.linalg.eigvalsh(matrix).min() > -1e-5 * np.trace(matrix)


def test_fewer_directions_lower_the_kernel() -> None:
    """Projecting feature space takes a positive semi-definite part away."""
    network, x = networks.perceptron()
    whole = square(exact_ntk(network, x))
    part = linearize(network, x, Identity(), directions=jnp.eye(8)[:, :3], checked=True)
    lost = whole - square(empirical_ntk(part).value)
    assert np.linalg.eigvalsh(lost).min() > -1e-5 * np.trace(whole)
    assert np.trace(lost) > 0.01 * np.trace(whole)


# The trace


@pytest.mark.parametrize("projection", [Identity(), CountSketch(32)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_trace_is_that_of_the_kernel(x64: None, mode: Any, bias: bool, projection: Any) -> None:
    network, x = networks.perceptron(bias=bias)
    model = linearize(network, x, projection, mode=mode, checked=True)
    expected = np.trace(square(empirical_ntk(model).value))
    np.testing.assert_allclose(kernel_trace(model), expected, rtol=1e-10)


@pytest.mark.parametrize("trainable", ["*kernel", "head/*", "head/kernel"])
def test_trace_leaves_frozen_parameters_out(x64: None, trainable: str) -> None:
    given, x = networks.perceptron()
    network = Network.from_function(given.function, given.params, head="head", trainable=trainable)
    model = linearize(network, x, Identity(), mode="head_exact", checked=True)
    np.testing.assert_allclose(kernel_trace(model), np.trace(square(exact_ntk(network, x))))


def test_trace_with_fewer_directions_than_features(x64: None) -> None:
    network, x = networks.perceptron()
    model = linearize(network, x, Identity(), directions=jnp.eye(8)[:, :3], checked=True)
    expected = np.trace(square(empirical_ntk(model).value))
    np.testing.assert_allclose(kernel_trace(model), expected, rtol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_trace_at_other_parameters_is_that_of_the_gradients_there(x64: None, mode: Any) -> None:
    network, x = networks.perceptron()
    model = linearize(network, x, Identity(), mode=mode, checked=True)
    params = jax.tree.map(lambda leaf: leaf + 0.3 * jnp.sin(7 * leaf), model.initial())
    gradients = jax.tree.leaves(jax.jacrev(model)(params))
    expected = sum(float(jnp.square(gradient).sum()) for gradient in gradients)
    np.testing.assert_allclose(kernel_trace(model.at(params)), expected, rtol=1e-10)
    assert abs(expected - float(kernel_trace(model))) > 0.01 * expected or mode == "linear"


# Standard errors

SEEDS, COLUMNS = 150, 256


def deviations(kind: Any, width: int) -> np.ndarray:
    """(Estimate − exact)/standard error of every entry above the diagonal, (seeds, entries).

    `width` inputs make one tensor of gradients, projected as `linearize` does.
    """
    rows = jax.random.normal(jax.random.key(0), (12, width))
    exact = square(np.asarray(rows @ rows.T).reshape(4, 3, 4, 3))
    above = np.triu_indices(12)
    found = []
    for seed in range(SEEDS):
        projected = kind(COLUMNS, seed).bind(jnp.zeros(width))(rows).reshape(4, 3, COLUMNS)
        model = LinearTangent(jnp.zeros((4, 3)), projected, jnp.zeros(COLUMNS), exact=False)
        kernel = empirical_ntk(model)
        error = square(kernel.value) - exact
        found.append((error / square(kernel.standard_error))[above])
    return np.stack(found)


def test_standard_error_is_calibrated_for_achlioptas() -> None:
    found = deviations(Achlioptas, 500)
    covered = (np.abs(found) < 2).mean(1)  # one share a seed: entries are correlated
    uncertainty = covered.std(ddof=1) / SEEDS**0.5
    assert uncertainty < 0.01
    assert abs(covered.mean() - 0.9545) < 3 * uncertainty + 0.005  # nearly normal at k = 256
    assert np.sqrt((found**2).mean()) == pytest.approx(1, abs=0.05)


def test_standard_error_is_conservative_for_count_sketch() -> None:
    found = deviations(CountSketch, 500)
    assert (np.abs(found) < 2).mean() > 0.9545 - 0.005
    assert np.sqrt((found**2).mean()) < 1.02
    # A coordinate meets itself without error, so the bound is loose where there are few of them.
    assert np.sqrt((deviations(CountSketch, 3) ** 2).mean()) < 0.95


# Spectrum


def linear_problem() -> tuple[LinearTangent, Any, Any]:
    network, x = networks.perceptron()
    model = linearize(network, x, Identity(), mode="linear", checked=True)
    targets = SquaredError().targets(np.arange(len(x)) % 3, 3)
    return model, targets, spectrum(empirical_ntk(model))


def test_spectrum_is_that_of_the_hessian_of_squared_error() -> None:
    """Descending; the same nonzero eigenvalues as GᵀG/N, the curvature by the parameters."""
    model, targets, values = linear_problem()
    assert (jnp.diff(values) <= 0).all()
    objective, examples = SquaredError(), Examples(model, targets)

    def loss(body: jax.Array) -> jax.Array:
        return examples.losses({"body": body}, objective).mean()

    hessian = jax.hessian(loss)(model.body_initial)
    expected = jnp.linalg.eigvalsh(hessian)[::-1][: len(values)]
    np.testing.assert_allclose(values[: len(expected)], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("share", "stable"), [(0.98, True), (1.02, False)])
def test_spectrum_tells_the_stability_limit_of_gradient_descent(share: float, stable: bool) -> None:
    """Full-batch gradient descent on squared error is stable while η·λ < 2."""
    model, targets, values = linear_problem()
    optimizer = optax.sgd(share * 2 / float(values[0]))
    problem = Problem(Examples(model, targets), SquaredError(), optimizer, model.samples)
    curve = Replay().solve(problem, np.arange(0, 401, 10)).train.loss[0]
    if stable:
        assert (np.diff(curve) <= 1e-6).all()
        assert curve[-1] < curve[0]
    else:
        assert curve[-1] > 1e6 * curve[0]
