import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from ntkpredict import validity
from ntkpredict.interval import predicted_steps, stopping_times
from ntkpredict.stopping import TargetLoss
from ntkpredict.validity import MOST, Signals, Validity, difference, spread
from sde import Curve, Trajectory

SUITE = Path(__file__).parents[2] / "experiments" / "suite"
CALM = Signals("growing", coordinate_wise=False, difference=0.0, margin=1000.0)


def curves(*rows):
    loss = np.array(rows, float)
    return Trajectory(np.arange(loss.shape[1]), Curve(loss, 1 - loss / 10), None)


def exponential(rate):
    return curves(np.exp(-rate * np.arange(60)))


class TestDifference:
    def test_is_that_of_the_losses_until_a_tenth_is_left(self):
        # The growing one is at a tenth after 23 steps; the frozen one is then at exp(-1.15).
        expected = 0.05 * 23
        assert difference(exponential(0.05), exponential(0.1)) == pytest.approx(expected, abs=0.06)

    def test_of_the_same_curves_is_nothing(self):
        assert difference(exponential(0.1), exponential(0.1)) == 0

    @pytest.mark.parametrize("which", [0, 1])
    def test_is_the_most_where_a_curve_is_no_number(self, which):
        pair = [exponential(0.1), curves([1.0, 0.9, *58 * [np.nan]])]
        assert difference(*(pair if which else pair[::-1])) == MOST

    def test_has_an_upper_end(self):
        assert difference(exponential(0.0), exponential(0.5)) == MOST


class TestSignals:
    def test_a_rate_far_from_the_edge_says_nothing(self):
        known = [Signals("growing", False, 0.5, margin).regressors for margin in (50.0, 9e9, None)]
        np.testing.assert_array_equal(known[0], known[1])
        np.testing.assert_array_equal(known[0], known[2])

    def test_the_spread_is_log_linear(self):
        signals = Signals("growing", True, 0.5, 5.0)
        expected = np.exp(-2 + 0.3 + 0.5 * 0.4 + np.log(10) * 0.2)
        assert spread(signals, [-2, 0.3, 0.4, 0.2, 0]) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("kernel", "piloted"), [("frozen", False), ("growing", False), ("growing", True)]
    )
    def test_what_is_shipped_trusts_less_near_the_edge(self, kernel, piloted):
        calm, edge = (
            Validity.of(Signals(kernel, False, 0.3, margin, piloted=piloted))
            for margin in (100.0, 0.5)
        )
        assert calm.error < edge.error
        assert edge.word == "poor"
        assert calm.clock.shape == (41,)
        assert (np.diff(calm.clock) >= 0).all()

    @pytest.mark.parametrize(("scale", "word"), [(0.01, "good"), (0.2, "fair"), (1.0, "poor")])
    def test_words_follow_the_error_to_expect(self, monkeypatch, scale, word):
        fit = {"weights": [np.log(scale), 0, 0, 0, 0], "outcomes": np.linspace(-2, 2, 41).tolist()}
        monkeypatch.setattr(validity, "_calibration", lambda: {"growing": fit})
        told = Validity.of(CALM)
        assert told.word == word
        assert told.error == pytest.approx(np.median(np.abs(np.expm1(-told.clock))))


class TestIntervals:
    """A clock that errs by known factors."""

    def test_hold_the_middle_of_the_outcomes(self):
        clock = np.log(np.linspace(0.5, 2.5, 41))
        steps, interval = predicted_steps(exponential(0.1), TargetLoss(relative=0.5), clock)
        assert steps == pytest.approx(np.log(2) / 0.1, rel=0.01)
        np.testing.assert_allclose(interval, steps * np.array([0.55, 2.45]), rtol=0.02)
        times = stopping_times(exponential(0.1), TargetLoss(relative=0.5), clock)
        assert times.shape == (41,)

    def test_have_no_end_beyond_the_budget(self):
        clock = np.log(np.linspace(0.5, 20, 41))
        _, (low, high) = predicted_steps(exponential(0.1), TargetLoss(relative=0.5), clock)
        assert low < 7.5
        assert high is None


class TestCalibration:
    @pytest.fixture
    def calibrate(self, monkeypatch):
        monkeypatch.syspath_prepend(SUITE)
        return importlib.import_module("calibrate")

    @pytest.fixture
    def errors(self, calibrate):
        """Errors of a known spread: five times as large with Adam."""
        random = np.random.default_rng(0)
        return [
            calibrate.Error(
                f"task {i % 6}",
                f"run {i}",
                Signals("growing", bool(i % 2), 0.0, None),
                (0.5 if i % 2 else 0.1) * random.laplace(),
            )
            for i in range(60)
            for _ in range(8)
        ]

    def test_finds_the_spread(self, calibrate, errors):
        fit = calibrate.fit(errors)
        assert np.exp(fit["weights"][0]) == pytest.approx(0.1, rel=0.2)
        assert np.exp(fit["weights"][1]) == pytest.approx(5, rel=0.3)
        np.testing.assert_allclose(np.median(fit["outcomes"]), 0, atol=0.2)

    def test_holds_on_tasks_left_out(self, calibrate, errors):
        told = calibrate.left_out(errors)
        assert told["coverage"] == pytest.approx(0.95, abs=0.03)
        assert told["median_width"] > 1

    def test_what_is_shipped_is_what_it_wrote(self, calibrate):
        shipped = json.loads(calibrate.SHIPPED.read_text())
        assert shipped.keys() == calibrate.KERNELS.keys()
        for fit in shipped.values():
            assert len(fit["outcomes"]) == calibrate.OUTCOMES
            assert len(fit["weights"]) == len(CALM.regressors)
