import numpy as np
import pytest

import ntkpredict as ntp
from tests.ntkpredict.stopping.rules import STEPS, one


class TestTargetLoss:
    def test_a_loss_on_the_grid_is_met_there(self, trajectory):
        assert one(ntp.TargetLoss(2.0), trajectory(STEPS, [4.0, 3.0, 2.0, 1.0, 0.5])) == 2

    def test_between_grid_points_it_is_interpolated(self, trajectory):
        assert one(ntp.TargetLoss(1.5), trajectory(STEPS, [4.0, 3.0, 2.0, 1.0, 0.5])) == 3
        assert one(ntp.TargetLoss(0.75), trajectory(STEPS, [4.0, 3.0, 2.0, 1.0, 0.5])) == 6

    def test_relative_counts_from_each_seeds_own_start(self, trajectory):
        curves = trajectory([0, 10], [[4.0, 0.0], [2.0, 0.0], [8.0, 6.0]])
        steps = ntp.TargetLoss(relative=0.5).steps(curves)
        np.testing.assert_allclose(steps, [5.0, 5.0, np.inf])

    def test_not_reached_is_infinite(self, trajectory):
        assert one(ntp.TargetLoss(0.1), trajectory(STEPS, [4.0, 3.0, 2.0, 1.0, 0.5])) == np.inf

    def test_the_first_crossing_counts(self, trajectory):
        assert one(ntp.TargetLoss(2.0), trajectory(STEPS, [4.0, 1.0, 5.0, 1.0, 1.0])) == (
            pytest.approx(2 / 3)
        )

    def test_validation_has_its_own_curve(self, trajectory):
        falling, flat = [4.0, 3.0, 2.0, 1.0, 0.5], [3.0] * 5
        curves = trajectory(STEPS, flat, validation=(falling, np.zeros(5)))
        assert one(ntp.TargetLoss(2.0), curves) == np.inf
        assert one(ntp.TargetLoss(2.0, on="validation"), curves) == 2

    def test_validation_without_validation_data_is_refused(self, trajectory, refused):
        with refused("on: got 'validation', but there is no validation data"):
            ntp.TargetLoss(2.0, on="validation").steps(trajectory([0, 1], [3.0, 1.0]))

    @pytest.mark.parametrize("target", [4.0, 5.0])
    def test_met_before_training_is_refused(self, trajectory, refused, target):
        with refused("target: the train loss starts at 4; aim below"):
            ntp.TargetLoss(target).steps(trajectory([0, 1], [4.0, 1.0]))

    def test_met_before_training_by_one_seed_is_refused(self, trajectory, refused):
        with refused("target: the train loss starts at 2"):
            ntp.TargetLoss(3.0).steps(trajectory([0, 1], [[4.0, 1.0], [2.0, 1.0]]))

    @pytest.mark.parametrize(
        "losses", [[4.0, np.nan, 1.0], [4.0, np.inf, 1.0], [4.0, -np.inf, -np.inf]]
    )
    def test_after_a_loss_that_is_not_finite_the_grid_point_counts(self, trajectory, losses):
        expected = 20.0 if losses[2] == 1.0 else 10.0
        assert one(ntp.TargetLoss(2.0), trajectory([0, 10, 20], losses)) == expected

    def test_a_run_of_nan_never_arrives(self, trajectory):
        assert one(ntp.TargetLoss(2.0), trajectory([0, 1, 2], [4.0, np.nan, np.nan])) == np.inf

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "TargetLoss: got value=None, relative=None"),
            ({"value": 1.0, "relative": 0.5}, "TargetLoss: got value=1.0, relative=0.5"),
            ({"value": 0.0}, "value: got 0.0"),
            ({"value": -1.0}, "value: got -1.0"),
            ({"value": np.nan}, "value: got nan"),
            ({"value": np.inf}, "value: got inf"),
            ({"relative": 0.0}, "relative: got 0.0"),
            ({"relative": 1.0}, "relative: got 1.0"),
            ({"relative": np.nan}, "relative: got nan"),
        ],
    )
    def test_bad_arguments(self, refused, arguments, message):
        with refused(message):
            ntp.TargetLoss(**arguments)


class TestTargetAccuracy:
    def test_rises_to_it(self, trajectory):
        curves = trajectory([0, 10, 20], np.ones(3), [0.1, 0.5, 0.9])
        assert one(ntp.TargetAccuracy(0.5), curves) == pytest.approx(10, rel=1e-5)
        assert one(ntp.TargetAccuracy(0.7), curves) == pytest.approx(15, rel=1e-5)
        assert one(ntp.TargetAccuracy(0.95), curves) == np.inf

    def test_on_validation(self, trajectory):
        curves = trajectory([0, 10], np.ones(2), validation=(np.ones(2), np.array([0.0, 1.0])))
        assert one(ntp.TargetAccuracy(0.5, on="validation"), curves) == pytest.approx(5, rel=1e-5)
        assert one(ntp.TargetAccuracy(0.5), curves) == np.inf

    @pytest.mark.parametrize("samples", [3, 7, 10, 30, 1000, 50_000])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_an_exact_share_of_the_samples_counts_in_any_precision(
        self, trajectory, samples, dtype
    ):
        for correct in np.unique(np.linspace(1, samples, 50).astype(int)):
            accuracy = np.array([0, correct / samples, correct / samples], dtype)
            curves = trajectory([0, 1, 2], np.ones(3), accuracy)
            reached = one(ntp.TargetAccuracy(correct / samples), curves)
            assert reached == pytest.approx(1, rel=1e-5)
            above = min((correct + 0.5) / samples, 1.0)
            if correct < samples:
                assert one(ntp.TargetAccuracy(above), curves) == np.inf

    def test_met_before_training_is_refused(self, trajectory, refused):
        with refused("target: the train accuracy starts at 0.5; aim above"):
            ntp.TargetAccuracy(0.4).steps(trajectory([0, 1], np.ones(2), [0.5, 1.0]))

    @pytest.mark.parametrize("value", [0.0, -0.5, 1.5, np.nan])
    def test_bad_value(self, refused, value):
        with refused(f"value: got {value}; expected an accuracy in (0, 1]"):
            ntp.TargetAccuracy(value)


class TestConverged:
    @pytest.mark.parametrize("seed", range(20))
    @pytest.mark.parametrize("eps", [0.01, 0.3, 2.0])
    def test_is_the_papers_definition(self, trajectory, seed, eps):
        random = np.random.default_rng(seed)
        loss = 3 * np.exp(-np.arange(80) / 15) + 0.3 * random.normal(size=80)
        first = min(t for t in range(80) if abs(loss[t] - loss[-1]) < eps)
        found = one(ntp.Converged(eps), trajectory(np.arange(80), loss))
        assert np.ceil(found) == first

    def test_a_flat_curve_has_converged_at_once(self, trajectory):
        assert one(ntp.Converged(0.1), trajectory([0, 1, 2], np.ones(3))) == 0

    def test_nothing_is_known_before_the_end(self, trajectory):
        curves = trajectory([0, 1, 2], [3.0, 1.0, 1.0])
        assert one(ntp.Converged(0.1), curves, complete=False) == np.inf
        assert one(ntp.Converged(0.1), curves, complete=True) <= 1

    @pytest.mark.parametrize("eps", [0.0, -1.0, np.nan, np.inf])
    def test_bad_eps(self, refused, eps):
        with refused(f"eps: got {eps}; expected a loss greater than 0"):
            ntp.Converged(eps)
