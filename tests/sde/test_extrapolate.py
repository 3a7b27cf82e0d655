import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linearize import LinearTangent
from sde import (
    Examples,
    SquaredError,
    extrapolated_replay,
    log_grid,
    minibatch_order,
    replay,
)

SAMPLES, SUBSET, BATCH, STEPS = 1280, 480, 80, 100
OBJECTIVE, OPTIMIZER = SquaredError(), optax.sgd(0.2, momentum=0.5)


def regression(seed: int, samples: int) -> Examples:
    """A linear problem with a power-law spectrum and label noise."""
    random = np.random.default_rng(seed)
    scales = np.arange(1, 101) ** -0.5
    features = random.normal(size=(samples, 1, 100)) * scales
    truth = np.random.default_rng((seed, 1)).normal(size=100)
    targets = features @ truth + 0.5 * random.normal(size=(samples, 1))
    model = LinearTangent(
        outputs_initial=jnp.zeros((samples, 1)),
        jacobian=jnp.asarray(features, jnp.float32),
        body_initial=jnp.zeros(100),
        exact=True,
    )
    return Examples(model, jnp.asarray(targets, jnp.float32))


def orders(samples: int) -> np.ndarray:
    return np.stack([minibatch_order(samples, BATCH, STEPS, seed) for seed in range(2)])


SUBSETS = (orders(SUBSET), orders(SUBSET // 2))


@pytest.fixture(scope="module")
def curves():
    grid = log_grid(STEPS)
    rows = []
    for seed in range(12):
        every, fresh = regression(seed, SAMPLES), regression(seed, 2 * SAMPLES)
        fresh = fresh.take(slice(SAMPLES, None))
        full = replay(every, OBJECTIVE, OPTIMIZER, orders(SAMPLES), grid, validation=fresh)
        part = every.take(slice(SUBSET))
        naive = replay(part, OBJECTIVE, OPTIMIZER, orders(SUBSET), grid, validation=fresh)
        better = extrapolated_replay(
            part, SAMPLES, OBJECTIVE, OPTIMIZER, SUBSETS, grid, validation=fresh
        )
        means = [curves.mean() for curves in (full, naive, better)]
        rows.append([(c.train.loss[0], c.validation.loss[0]) for c in means])
    return np.mean(rows, axis=0)  # (full | naive | extrapolated, train | validation, grid)


@pytest.mark.parametrize("split", [0, 1], ids=["train", "validation"])
def test_extrapolation_removes_most_of_the_bias_of_a_subset(curves, split):
    full, naive, better = curves[:, split]
    bias = abs(np.log(naive / full)[-4:].mean())
    left = abs(np.log(better / full)[-4:].mean())
    assert bias > 0.03
    assert left < bias / 2


def test_without_validation_there_is_no_validation_curve():
    every = regression(0, SUBSET)
    curves = extrapolated_replay(every, SAMPLES, OBJECTIVE, OPTIMIZER, SUBSETS, log_grid(STEPS))
    assert curves.validation is None
    assert np.isfinite(curves.train.loss).all()


def test_from_all_samples_there_is_nothing_to_extrapolate():
    every, grid = regression(0, SUBSET), log_grid(STEPS)
    plain = replay(every, OBJECTIVE, OPTIMIZER, orders(SUBSET), grid)
    same = extrapolated_replay(every, SUBSET, OBJECTIVE, OPTIMIZER, SUBSETS, grid)
    np.testing.assert_allclose(same.train.loss, plain.train.loss, rtol=1e-5)
