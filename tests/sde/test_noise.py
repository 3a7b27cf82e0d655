"""The noise of minibatches against counts over many real orders."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linearize import LinearTangent
from sde import Examples, Problem, SquaredError, minibatch_order
from sde.minibatch import Sampling, independent_order
from sde.noise import BatchNoise

ORDERS = {"epochs": minibatch_order, "independent": independent_order}
COUNT = 20000


def noise(samples: int, batch_size: int, sampling: Sampling) -> BatchNoise:
    model = LinearTangent(
        jnp.zeros((samples, 1)), jnp.ones((samples, 1, 1)), jnp.zeros(1), exact=True
    )
    examples = Examples(model, jnp.zeros((samples, 1)))
    return BatchNoise.of(
        Problem(examples, SquaredError(), optax.sgd(0.1), batch_size, sampling=sampling)
    )


@cache
def counted(samples: int, batch_size: int, sampling: Sampling, steps: int) -> np.ndarray:
    """Covariance of the weights of a sample between steps, over orders and samples."""
    seeds = 1500
    weights = np.zeros((seeds, steps, samples))
    for seed in range(seeds):
        order = ORDERS[sampling](samples, batch_size, steps, seed)
        for step, batch in enumerate(order):
            weights[seed, step, batch] = 1 / batch_size
    weights -= 1 / samples
    return np.einsum("rsi,rti->st", weights, weights) / (seeds * samples)


def simulated(
    given: BatchNoise, samples: int, spans: list[float], begin: float = 0.0
) -> np.ndarray:
    """The increments over consecutive spans, (count, spans), of one sample's process."""
    keys = jax.random.split(jax.random.key(1), len(spans))
    level, time, found = jnp.zeros(COUNT), begin, []
    for key, span in zip(keys, spans, strict=True):
        normals = jax.random.normal(key, (2, COUNT))
        level, change = given.increment(level, jnp.asarray(time), jnp.asarray(span), normals)
        found.append(change)
        time += span
    return np.stack(found, axis=1)


def weights_covariance(given: BatchNoise, samples: int, increments: np.ndarray) -> np.ndarray:
    """Of √(intensity/N)·(x_i − x̄); subtracting the mean of N leaves (N − 1)/N."""
    moment = increments.T @ increments / len(increments)
    return given.intensity / samples * moment * (samples - 1) / samples


SIZES = [(12, 4), (12, 6), (13, 4), (11, 3), (10, 7)]


@pytest.mark.parametrize("sampling", ["epochs", "independent"])
@pytest.mark.parametrize(("samples", "batch_size"), SIZES)
def test_covariance_between_steps_is_that_of_real_orders(
    samples: int, batch_size: int, sampling: Any
) -> None:
    """Two epochs and a bit: the variance, the memory within an epoch, none beyond it."""
    steps = 2 * (samples // batch_size) + 1
    given = noise(samples, batch_size, sampling)
    got = weights_covariance(given, samples, simulated(given, samples, [1.0] * steps))
    expected = counted(samples, batch_size, sampling, steps)
    variance = (samples - batch_size) / (samples * batch_size * samples)
    np.testing.assert_allclose(np.diag(expected), variance, rtol=1e-9)
    np.testing.assert_allclose(np.diag(got), variance, rtol=0.05)
    np.testing.assert_allclose(got, expected, atol=0.05 * variance)


@pytest.mark.parametrize(("samples", "batch_size"), SIZES)
def test_the_variance_of_a_step_is_that_of_drawing_without_replacement(
    samples: int, batch_size: int
) -> None:
    """(N − B)/((N − 1)·B), the factor of Stability.noise_mass, however batches are drawn."""
    for sampling in ("epochs", "independent"):
        found = noise(samples, batch_size, sampling).variance()
        assert found == pytest.approx((samples - batch_size) / ((samples - 1) * batch_size))


@pytest.mark.parametrize(("samples", "batch_size"), [(12, 4), (12, 3), (12, 1)])
def test_batches_of_an_epoch_make_up_for_each_other(samples: int, batch_size: int) -> None:
    """Where B divides N: −variance/(E − 1) between steps, and nothing is left of the epoch."""
    batches = samples // batch_size
    given = noise(samples, batch_size, "epochs")
    increments = simulated(given, samples, [1.0] * (2 * batches))
    for epoch in (increments[:, :batches], increments[:, batches:]):
        np.testing.assert_allclose(epoch.sum(1), 0, atol=1e-5)
        moment = epoch.T @ epoch / COUNT
        expected = np.full((batches, batches), -1 / (batches - 1))
        np.fill_diagonal(expected, 1)
        np.testing.assert_allclose(moment / np.diag(moment).mean(), expected, atol=0.04)


@pytest.mark.parametrize(
    "spans",
    [
        [0.5] * 8,
        [0.25] * 4 + [1.0] + [0.5, 1.5],
        [2.0, 2.0],
        [1.5, 1.0, 1.5],
        [2.5, 3.5, 6.0],
        [4.0, 4.0],
        [7.0, 5.0],
        [0.75, 9.5, 1.75],
    ],
    ids=str,
)
@pytest.mark.parametrize(("samples", "batch_size"), [(12, 4), (13, 4), (9, 2)])
def test_any_stride_has_the_covariance_of_the_steps_in_it(
    samples: int, batch_size: int, spans: list[float]
) -> None:
    """Fractions of a step and spans across the ends of epochs, against the bridge's formula."""
    given = noise(samples, batch_size, "epochs")
    got = simulated(given, samples, spans)
    ends = np.cumsum([0.0, *spans])
    restart, period = float(given.restart), float(given.period)

    def bridged(a: float, b: float, c: float, d: float) -> float:
        """cov(X_b − X_a, X_d − X_c) within one bridge."""
        overlap = max(min(b, d) - max(a, c), 0.0)
        return overlap - (b - a) * (d - c) / period

    expected = np.zeros((len(spans), len(spans)))
    for i in range(len(spans)):
        for j in range(len(spans)):
            for epoch in range(int(ends[-1] // restart) + 1):
                low, high = epoch * restart, (epoch + 1) * restart
                a, b, c, d = (np.clip(ends[k], low, high) for k in (i, i + 1, j, j + 1))
                expected[i, j] += bridged(a, b, c, d)
    moment = got.T @ got / COUNT
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(moment, expected, atol=0.05 * scale.max())


@pytest.mark.parametrize("spans", [[0.5, 0.5, 1.0], [3.0, 0.25], [2.5, 2.5]], ids=str)
def test_independent_batches_are_a_brownian_motion(spans: list[float]) -> None:
    got = simulated(noise(12, 4, "independent"), 12, spans)
    np.testing.assert_allclose(got.T @ got / COUNT, np.diag(spans), atol=0.05 * max(spans))


@pytest.mark.parametrize("sampling", ["epochs", "independent"])
def test_full_batches_are_silent(sampling: Any) -> None:
    given = noise(12, 12, sampling)
    assert given.intensity == 0
    assert given.variance() == 0
    assert np.isfinite(simulated(given, 12, [1.0, 1.0, 0.5, 3.0])).all()


def test_a_single_batch_an_epoch_remembers_nothing() -> None:
    """More than half of the samples in a batch: an epoch is one step."""
    given = noise(10, 7, "epochs")
    got = simulated(given, 10, [1.0] * 3)
    moment = got.T @ got / COUNT
    np.testing.assert_allclose(moment / moment[0, 0], np.eye(3), atol=0.05)
