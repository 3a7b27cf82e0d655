import numpy as np
import pytest

from ntkpredict.continuation import continuation, meeting
from sde import Curve, Trajectory

GRID = np.arange(0, 401, 4)
KNOWN = np.array([0, 1, 2, 5, 10, 20, 50, 60])


def law(steps):
    return 2.3 * (1 + steps / 5.0) ** -1.0


def curves(steps, *rows, validation=True):
    loss = np.stack(rows)
    curve = Curve(loss, 1 - loss / 3)
    return Trajectory(steps, curve, Curve(1.5 * loss, 1 - loss / 2) if validation else None)


def expected(loss=law):
    rows = loss(GRID)
    return curves(GRID, rows, 1.02 * rows, 0.98 * rows)


def known(clock=1.0):
    return curves(KNOWN, law(clock * KNOWN))


class TestMeeting:
    @pytest.mark.parametrize("clock", [0.3, 0.7, 1.0, 1.4, 6.0])
    def test_is_when_the_expected_loss_is_the_same(self, clock):
        assert meeting(known(clock), expected()) == pytest.approx(60 * clock, rel=0.02)

    def test_is_that_of_the_nearest_time_where_losses_rise_and_fall(self):
        """A catapult passes through every loss twice."""
        hill = expected(lambda steps: 2.3 + 3 * np.exp(-(((steps - 60) / 20) ** 2)))
        for end, found in ((50, 50), (70, 70)):
            steps = np.array([0, end])
            real = curves(steps, np.interp(steps, GRID, hill.train.loss[0]))
            assert meeting(real, hill) == pytest.approx(found, abs=2)

    def test_of_a_loss_that_is_never_expected_is_when_it_is_nearly(self):
        flat = expected(lambda steps: 2.3 + 0.1 * np.exp(-(((steps - 100) / 50.0) ** 2)))
        assert meeting(curves(KNOWN, 9 - KNOWN / 60), flat) == pytest.approx(100)

    @pytest.mark.parametrize("lost", [np.nan, np.inf])
    def test_is_the_end_where_curves_are_not_finite(self, lost):
        diverging = expected(lambda steps: np.where(steps < 200, law(steps), lost))
        assert meeting(known(0.5), diverging) == 60
        real = law(KNOWN)
        real[-1] = lost
        assert meeting(curves(KNOWN, real), expected()) == 60


class TestContinuation:
    @pytest.mark.parametrize("clock", [0.5, 1.0, 2.0])
    def test_is_known_and_goes_on_from_there(self, clock):
        found = continuation(known(clock), expected())
        assert found.known == KNOWN[-1]
        np.testing.assert_array_equal(found.steps[: len(KNOWN)], KNOWN)
        np.testing.assert_array_equal(found.steps[len(KNOWN) :], GRID[KNOWN[-1] < GRID])
        first = found.steps <= KNOWN[-1]
        for split, factor in (("train", 1.0), ("validation", 1.5)):
            loss = found.curve(split).loss
            np.testing.assert_allclose(loss[:, first], np.tile(factor * law(clock * KNOWN), (3, 1)))
            later = clock * KNOWN[-1] + found.steps[~first] - KNOWN[-1]
            inside = later <= GRID[-1]
            wanted = factor * law(later[inside])
            np.testing.assert_allclose(loss[0, ~first][inside], wanted, rtol=0.02)

    def test_where_more_is_known_already_it_stays(self):
        begun = expected().beginning(curves(GRID[:31], law(GRID[:31])))
        found = continuation(known(), begun)
        assert found.known == GRID[30]
        first = found.steps <= GRID[30]
        np.testing.assert_allclose(found.train.loss[2, first], law(found.steps[first]), rtol=0.01)

    def test_weights_that_are_lost_stay_so(self):
        real = law(KNOWN)
        real[-2:] = np.nan
        found = continuation(curves(KNOWN, real), expected())
        assert found.steps[-1] == GRID[-1]
        assert np.isnan(found.train.loss[:, found.steps >= 50]).all()
        assert found.diverged.all()

    def test_without_validation(self):
        plain = curves(GRID, law(GRID), validation=False)
        real = curves(KNOWN, law(KNOWN), validation=False)
        assert continuation(real, plain).validation is None
