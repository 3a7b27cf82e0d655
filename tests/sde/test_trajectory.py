"""Curves over seeds, their clock, and the grid they live on."""

from __future__ import annotations

import numpy as np
import pytest

from sde import Curve, Trajectory, log_grid

STEPS = np.array([0, 1, 2, 4, 8, 16])


def trajectory(validation: bool = True) -> Trajectory:
    random = np.random.default_rng(0)

    def curve() -> Curve:
        return Curve(random.uniform(size=(7, 6)), random.uniform(size=(7, 6)))

    return Trajectory(STEPS, curve(), curve() if validation else None)


def arrays(value: Trajectory) -> list[np.ndarray]:
    curves = [value.train] + [value.validation] * (value.validation is not None)
    return [values for curve in curves for values in (curve.loss, curve.accuracy)]


# Over seeds


def test_quantiles_are_taken_over_seeds_at_every_step() -> None:
    given = trajectory()
    reduced = given.quantile([0.1, 0.5, 0.9])
    for values, got in zip(arrays(given), arrays(reduced), strict=True):
        assert got.shape == (3, 6)
        for column in range(6):
            expected = np.quantile(values[:, column], [0.1, 0.5, 0.9])
            np.testing.assert_allclose(got[:, column], expected)
        assert (np.diff(got, axis=0) >= 0).all()
    np.testing.assert_array_equal(reduced.steps, STEPS)


def test_a_single_quantile_is_one_row() -> None:
    np.testing.assert_allclose(
        trajectory().quantile(0.5).train.loss, np.median(trajectory().train.loss, axis=0)[None]
    )


def test_mean_is_one_row() -> None:
    given = trajectory()
    for values, got in zip(arrays(given), arrays(given.mean()), strict=True):
        np.testing.assert_allclose(got, [[column.mean() for column in values.T]])


def test_quantiles_and_mean_of_one_seed_are_the_seed() -> None:
    one = trajectory().mean()
    for got in (one.mean(), one.quantile(0.3), one.quantile(1.0)):
        for a, b in zip(arrays(got), arrays(one), strict=True):
            np.testing.assert_allclose(a, b)


def test_diverged_seeds_stay_visible_and_do_not_warn() -> None:
    loss = np.array([[1.0, np.inf, np.nan], [1.0, 2.0, 3.0], [1.0, np.inf, np.inf]])
    given = Trajectory(np.array([0, 1, 2]), Curve(loss, np.zeros((3, 3))), None)
    assert given.mean().train.loss[0, 1] == np.inf
    assert not np.isfinite(given.quantile(0.9).train.loss[0, 1:]).any()
    assert given.quantile(0.9).train.loss[0, 0] == 1


def test_without_validation_there_is_none_after_either() -> None:
    given = trajectory(validation=False)
    for got in (given.mean(), given.quantile(0.5), given.slowed(2.0)):
        assert got.validation is None


def test_curves_by_name() -> None:
    given = trajectory()
    assert given.curve("train") is given.train
    assert given.curve("validation") is given.validation
    with pytest.raises(ValueError, match=r"^on: got 'validation', but there is no validation data"):
        trajectory(validation=False).curve("validation")


# Divergence


def test_runs_that_end_above_their_start_or_nowhere_have_diverged() -> None:
    ends = [0.5, 1.0, 1.1, np.inf, np.nan, 0.0]
    loss = np.array([[1.0, 3.0, end] for end in ends])
    given = Trajectory(np.array([0, 1, 2]), Curve(loss, np.zeros_like(loss)), None)
    assert given.diverged.tolist() == [False, False, True, True, True, False]


def test_a_run_that_passed_through_nothing_has_diverged() -> None:
    loss = np.array([[np.nan, 1.0], [np.inf, np.nan]])
    given = Trajectory(np.array([0, 1]), Curve(loss, np.zeros_like(loss)), None)
    assert given.diverged.all()


# The clock


def test_slowed_by_one_is_itself() -> None:
    given = trajectory()
    for a, b in zip(arrays(given.slowed(1.0)), arrays(given), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("factor", [0.5, 1.3, 2.0, 4.0])
def test_slowed_curves_cross_a_level_later_by_the_factor(factor: float) -> None:
    steps = np.arange(401)
    loss = np.exp(-steps / 30.0)[None]
    given = Trajectory(steps, Curve(loss, 1 - loss), None)

    def crossing(value: Trajectory) -> float:
        return float(np.interp(-0.5, -value.train.loss[0], value.steps))

    slowed = given.slowed(factor)
    assert crossing(slowed) == pytest.approx(factor * crossing(given), rel=2e-3)
    np.testing.assert_allclose(slowed.train.accuracy, 1 - slowed.train.loss)
    np.testing.assert_array_equal(slowed.steps, steps)


def test_slowed_twice_is_slowed_by_the_product() -> None:
    steps = np.arange(101)
    given = Trajectory(steps, Curve(steps[None] * 2.0, steps[None] / 100), None)
    twice, once = given.slowed(2.0).slowed(3.0), given.slowed(6.0)
    np.testing.assert_allclose(twice.train.loss, once.train.loss)


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0, 1.3, 4.0])
def test_what_is_known_is_so_on_every_clock(factor: float) -> None:
    steps = np.arange(0, 401, 2)
    simulated = Curve(np.exp(-steps / 30.0)[None], np.zeros((1, len(steps))))
    real = Curve(np.linspace(1.0, 0.5, 21)[None], np.ones((1, 21)))
    given = Trajectory(steps, simulated, None).beginning(Trajectory(steps[:21], real, None))
    assert given.known == 40
    slowed = given.slowed(factor)
    assert slowed.known == 40
    np.testing.assert_array_equal(slowed.train.loss[:, :21], real.loss)
    later = steps[21:]
    times = np.clip(later / factor, 40, 400)
    wanted = np.interp(times, steps, given.train.loss[0])
    np.testing.assert_allclose(slowed.train.loss[0, 21:], wanted)
    assert given.first(30).known == given.mean().known == given.quantile(0.5).known == 40


def test_on_another_grid() -> None:
    steps = np.arange(0, 41, 2)
    given = Trajectory(steps, Curve(steps[None] * 2.0, steps[None] / 100), None)
    points = np.array([0, 3, 40, 50])
    got = given.at(points + 1.0, points)
    np.testing.assert_array_equal(got.steps, points)
    np.testing.assert_allclose(got.train.loss[0], [2.0, 8.0, 80.0, 80.0])


# The grid


@pytest.mark.parametrize("max_steps", [1, 2, 9, 10, 99, 1000, 12345])
@pytest.mark.parametrize("per_decade", [4, 16])
def test_log_grid(max_steps: int, per_decade: int) -> None:
    grid = log_grid(max_steps, per_decade=per_decade)
    assert np.issubdtype(grid.dtype, np.integer)
    assert (grid[0], grid[1], grid[-1]) == (0, 1, max_steps)
    assert (np.diff(grid) >= 1).all()
    assert len(grid) <= 3 + per_decade * np.log10(max_steps)
    # No gap is longer than the spacing, rounded to whole steps.
    ratio = 10 ** (1 / per_decade)
    assert (grid[2:] <= grid[1:-1] * ratio + 1).all()


@pytest.mark.parametrize("max_steps", [0, -5])
def test_log_grid_has_a_step(max_steps: int) -> None:
    with pytest.raises(ValueError, match=rf"^max_steps: got {max_steps}; expected at least 1$"):
        log_grid(max_steps)


# Validation as another training has it


def falling(clock: float, overfits: float) -> Trajectory:
    """Two seeds; training loss 2^(-t/clock), validation above it the more the lower it is."""
    loss = 2.0 ** (-STEPS / clock) * np.array([[0.9], [1.1]])
    unseen = loss.mean(0) + overfits * (1 - loss.mean(0)) + np.array([[-0.01], [0.01]])
    return Trajectory(STEPS, Curve(loss, 1 - loss / 2), Curve(unseen, 1 - unseen / 2))


def test_validation_follows_another_training_at_the_same_training_losses() -> None:
    fast, slow, expected = falling(2, 0.8), falling(4, 0.2), falling(2, 0.2)
    got = fast.generalizing_like(slow)
    np.testing.assert_array_equal(got.train.loss, fast.train.loss)
    known = STEPS <= 8  # the slow one ends at the loss that the fast one has at step 8
    # Losses at 1, 1/2, 1/4, 1/16 are on both grids; between, curves are interpolated.
    for name in ("loss", "accuracy"):
        values, wanted = (getattr(each.curve("validation"), name) for each in (got, expected))
        np.testing.assert_allclose(values[:, known], wanted[:, known], atol=0.01)
        before = getattr(fast.curve("validation"), name)
        shift = values - before  # beyond, the last difference, or its share: here nearly the same
        np.testing.assert_allclose(shift[:, -1], shift[:, -2], atol=0.01)


def test_validation_stays_above_zero_however_far_seeds_are_apart() -> None:
    fast, slow = falling(2, 0.8), falling(4, 0.01)
    spread = np.array([[0.1], [1.9]])
    unseen = fast.curve("validation")
    apart = Trajectory(STEPS, fast.train, Curve(spread * unseen.loss, unseen.accuracy))
    got = apart.generalizing_like(slow).curve("validation").loss
    assert (got > 0).all()
    assert (got[0] < got[1]).all()


def test_a_loss_above_its_start_keeps_its_own_validation() -> None:
    slow = falling(4, 0.2)
    risen = falling(2, 0.8)
    risen.train.loss[:, 1] = 3.0
    got, own = (each.curve("validation").loss for each in (risen.generalizing_like(slow), risen))
    shift = got - own
    np.testing.assert_allclose(shift[:, 1], shift[:, 0], atol=1e-12)


def test_a_training_that_diverges_tells_nothing_of_validation() -> None:
    given, broken = falling(2, 0.8), falling(4, 0.2)
    broken.train.loss[:, -1] = np.nan
    assert given.generalizing_like(broken) is given
    assert broken.generalizing_like(given) is broken
    alone = Trajectory(STEPS, given.train, None)
    assert alone.generalizing_like(given) is alone
    assert given.generalizing_like(alone) is given


# Known first points


def test_beginning_is_that_of_the_known_curves() -> None:
    later = trajectory()
    known = trajectory().first(3).quantile(0.5)
    whole = later.beginning(known)
    np.testing.assert_array_equal(whole.steps, later.steps)
    for found, before, after in zip(arrays(whole), arrays(known), arrays(later), strict=True):
        np.testing.assert_array_equal(found[:, 3:], after[:, 3:])
        np.testing.assert_array_equal(found[:, :3], np.repeat(before, len(after), axis=0))


def test_curves_may_be_shorter_than_what_is_known() -> None:
    known = trajectory().quantile(0.5)
    begun = trajectory().first(2).beginning(known)
    for found, before in zip(arrays(begun), arrays(known), strict=True):
        np.testing.assert_array_equal(found[0], before[0, :2])


def test_beginning_has_validation_where_the_curves_have() -> None:
    known = trajectory().first(3).quantile(0.5)
    assert trajectory(validation=False).beginning(known).validation is None
