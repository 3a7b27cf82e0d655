import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linearize import LinearTangent
from sde import Curve, Examples, Problem, Replay, SquaredError, Trajectory, extrapolate, log_grid
from sde.solver import Solver

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


def problem(examples: Examples, validation: Examples | None = None) -> Problem:
    return Problem(examples, OBJECTIVE, OPTIMIZER, BATCH, seeds=(0, 1), validation=validation)


@pytest.fixture(scope="module")
def curves():
    grid = log_grid(STEPS)
    rows = []
    for seed in range(12):
        every, fresh = regression(seed, SAMPLES), regression(seed, 2 * SAMPLES)
        fresh = fresh.take(slice(SAMPLES, None))
        full = Replay().solve(problem(every, fresh), grid)
        part = problem(every.take(slice(SUBSET)), fresh)
        naive = Replay().solve(part, grid)
        better = extrapolate(Replay(), part, SAMPLES, grid)
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
    curves = extrapolate(Replay(), problem(regression(0, SUBSET)), SAMPLES, log_grid(STEPS))
    assert curves.validation is None
    assert np.isfinite(curves.train.loss).all()


def test_from_all_samples_there_is_nothing_to_extrapolate():
    every, grid = problem(regression(0, SUBSET)), log_grid(STEPS)
    plain = Replay().solve(every, grid)
    same = extrapolate(Replay(), every, SUBSET, grid)
    np.testing.assert_allclose(same.train.loss, plain.train.loss, rtol=1e-5)


class Table(Solver):
    """Curves that are looked up by the number of samples."""

    name = "table"

    def __init__(self, losses):
        self.losses = losses

    def obstacle(self, problem, stable):
        return None

    def solve(self, problem, grid, progress=None):
        loss = np.array([self.losses[problem.samples]])
        if progress is not None:
            progress(int(grid[-1]), int(grid[-1]))
        return Trajectory(grid, Curve(loss, np.exp(-loss)), Curve(loss, np.exp(-loss)))


def test_the_formula_goes_up_as_it_is_and_down_in_the_logarithm():
    """The first loss falls from half to whole, the second rises, the third is the same.

    Training losses only rise with the number of samples; what says otherwise is noise.
    """
    solver, grid = Table({480: [4.0, 1.0, 3.0, 2.0], 240: [4.0, 4.0, 2.0, 2.0]}), np.arange(4)
    got = extrapolate(solver, problem(regression(0, SUBSET)), 4 * SUBSET, grid)
    np.testing.assert_allclose(got.train.loss[0], [4.0, 1.0, 3 + 0.75, 2.0])
    np.testing.assert_allclose(got.validation.loss[0], [4.0, 0.25**0.75, 3 + 0.75, 2.0])
    accuracy = np.exp([-4.0, -1.0, -3.0, -2.0])
    higher = accuracy + 0.75 * (accuracy - np.exp([-4.0, -4.0, -2.0, -2.0]))
    for curve in (got.train, got.validation):
        np.testing.assert_allclose(curve.accuracy[0], np.clip(higher, 0, 1))


def test_losses_stay_positive():
    table = Table({480: [1.0, 1e-9], 240: [1.0, 1.0]})
    got = extrapolate(table, problem(regression(0, SUBSET)), 100 * SUBSET, np.array([0, 1]))
    assert 0 < got.validation.loss[0, 1] < 1e-9


@pytest.mark.parametrize("broken", [480, 240])
@pytest.mark.parametrize("end", [np.inf, np.nan, 7.0])
def test_where_a_run_diverges_the_subset_is_left_as_it_is(broken, end):
    losses = {480: [1.0, 0.5, 0.3], 240: [1.0, 0.4, 0.2]}
    losses[broken] = [1.0, 3.0, end]
    got = extrapolate(
        Table(losses), problem(regression(0, SUBSET)), 4 * SUBSET, np.array([0, 1, 2])
    )
    for curve in (got.train, got.validation):
        np.testing.assert_array_equal(curve.loss[0], losses[480])


def test_progress_is_of_all_three_parts():
    ticks = []
    solver = Table({480: [1.0, 1.0], 240: [1.0, 1.0]})
    grid = np.array([0, 7])
    extrapolate(solver, problem(regression(0, SUBSET)), SAMPLES, grid, lambda *t: ticks.append(t))
    assert ticks == [(7, 21), (14, 21), (21, 21)]
