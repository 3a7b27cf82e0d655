import dataclasses
import json

import numpy as np
import pytest

import ntkpredict as ntp
from ntkpredict.milestones import FRACTIONS
from ntkpredict.validate import compare_targets


class TestComparison:
    @pytest.mark.parametrize(
        ("predicted", "real", "error"),
        [
            (100.0, 100.0, 0.0),
            (150.0, 100.0, 0.5),
            (50.0, 100.0, -0.5),
            (None, 100.0, None),
            (100.0, None, None),
            (None, None, None),
        ],
    )
    def test_error(self, predicted, real, error):
        assert ntp.Comparison("loss<=1", predicted, None, real).error == error

    @pytest.mark.parametrize(
        ("interval", "real", "covered"),
        [
            ((80.0, 120.0), 100.0, True),
            ((80.0, 120.0), 80.0, True),
            ((80.0, 120.0), 120.0, True),
            ((80.0, 120.0), 79.9, False),
            ((80.0, 120.0), 120.1, False),
            ((80.0, None), 1e9, True),
            ((80.0, None), 79.0, False),
            (None, 100.0, None),
            ((80.0, 120.0), None, None),
            (None, None, None),
        ],
    )
    def test_covered(self, interval, real, covered):
        assert ntp.Comparison("loss<=1", 100.0, interval, real).covered is covered


@pytest.fixture(scope="module")
def validation(linear, data):
    """On a network that is linear, so that the forecast is right."""
    plan = ntp.Plan.sgd(0.05, batch_size=8, max_steps=200)
    return ntp.validate(linear, data, plan, ntp.TargetLoss(relative=0.2), seeds=4)


class TestValidate:
    def test_compares_the_fractions_on_the_way_and_the_rule_itself(self, validation):
        assert [row.until for row in validation.comparisons] == [
            "loss<=0.7x",
            "loss<=0.5x",
            "loss<=0.3x",
            "loss<=0.2x",
        ]

    def test_a_right_forecast_is_found_right(self, validation):
        for row in validation.comparisons:
            assert abs(row.error) < 0.2
            assert row.covered
        assert validation.forecast.mode == "head_exact"

    def test_the_last_row_is_the_forecast_and_the_run(self, validation):
        row = validation.comparisons[-1]
        assert row.predicted == validation.forecast.steps
        assert row.interval == validation.forecast.steps_interval
        assert row.real == validation.run.steps

    def test_rows_agree_with_the_curves(self, validation):
        for row in validation.comparisons:
            rule = ntp.parse(row.until)
            assert row.real == rule.steps(validation.run.trajectory)[0]
            assert row.predicted == np.median(rule.steps(validation.forecast.trajectory))

    def test_the_run_is_that_of_train(self, validation, linear, data):
        plan = ntp.Plan.sgd(0.05, batch_size=8, max_steps=200)
        run = ntp.train(linear, data, plan, ntp.TargetLoss(relative=0.2))
        np.testing.assert_array_equal(
            validation.run.trajectory.train.loss, run.trajectory.train.loss
        )

    def test_speedup_is_training_over_forecasting(self, validation):
        spent = sum(validation.forecast.forecast_seconds.values())
        assert validation.speedup == pytest.approx(validation.run.seconds / spent)

    def test_save(self, validation, tmp_path):
        validation.save(tmp_path / "v.json")
        content = json.loads((tmp_path / "v.json").read_text())
        assert content == validation.to_dict()
        assert content["run"]["steps"] == validation.run.steps
        assert content["forecast"]["steps"] == validation.forecast.steps
        for row, written in zip(validation.comparisons, content["comparisons"], strict=True):
            assert written["error"] == row.error
            assert written["covered"] is row.covered


class TestTargetsThatAreNotReached:
    def test_by_both(self, linear, data):
        plan = ntp.Plan.sgd(1e-4, batch_size=8, max_steps=10)
        validation = ntp.validate(linear, data, plan, ntp.TargetLoss(1e-3), seeds=2)
        assert validation.comparisons == (ntp.Comparison("loss<=0.001", None, None, None),)
        assert validation.comparisons[0].error is None
        assert validation.run.trained_steps == 10
        assert validation.forecast.reason is not None
        json.dumps(validation.to_dict(), allow_nan=False)

    def test_by_the_forecast_only(self, validation):
        """Where only the real run arrives there is a real number and no prediction."""
        loss = validation.forecast.trajectory.train.loss
        stuck = dataclasses.replace(
            validation.forecast.trajectory.train, loss=np.repeat(loss[:, :1], loss.shape[1], 1)
        )
        forecast = dataclasses.replace(
            validation.forecast,
            steps=None,
            steps_interval=None,
            trajectory=dataclasses.replace(validation.forecast.trajectory, train=stuck),
        )
        rows = compare_targets(forecast, validation.run, ntp.TargetLoss(relative=0.2))
        assert len(rows) == len([f for f in FRACTIONS if f >= 0.2])
        for row in rows:
            assert row.predicted is None
            assert row.real is not None
            assert row.error is None
            assert row.covered is None

    def test_divergence(self, linear, data):
        plan = ntp.Plan.sgd(1e6, batch_size=8, max_steps=20, loss="squared_error")
        validation = ntp.validate(linear, data, plan, ntp.TargetLoss(1e-3), seeds=2)
        assert validation.forecast.reason.startswith("diverges")
        assert validation.run.steps is None
        assert validation.comparisons[-1].error is None
        json.dumps(validation.to_dict(), allow_nan=False)


def test_another_kind_of_rule_has_a_row_of_its_own(linear, data):
    plan = ntp.Plan.sgd(0.05, batch_size=8, max_steps=40)
    until = ntp.TargetAccuracy(0.8) | ntp.MaxSteps(30)
    validation = ntp.validate(linear, data, plan, until, seeds=2)
    assert validation.comparisons[-1].until == "accuracy>=0.8 | steps>=30"
    assert validation.comparisons[-1].real == validation.run.steps


def test_bad_input_is_refused_before_training(linear, data, refused):
    with refused("batch_size: got 49; expected 1..48"):
        ntp.validate(linear, data, ntp.Plan.sgd(0.1, batch_size=49))


def test_every_row_on_the_embedded_default_is_real(embedded_validation):
    """Through the command, as a user runs it."""
    assert embedded_validation.code == 0, embedded_validation.err
    assert embedded_validation.err == ""
    assert embedded_validation.out.count("\n") == 1
    result = embedded_validation.result
    assert result.keys() == {"forecast", "run", "comparisons", "speedup"}
    rows = result["comparisons"]
    assert [row["until"] for row in rows] == [
        "loss<=0.7x",
        "loss<=0.5x",
        "loss<=0.3x",
        "loss<=0.2x",
    ]
    for row in rows:
        low, high = row["interval"]
        assert 0 < low <= row["predicted"] <= high
        assert 0 < row["real"] <= result["run"]["trained_steps"]
        assert row["error"] == pytest.approx(row["predicted"] / row["real"] - 1)
        assert row["covered"] is (low <= row["real"] <= high)
        assert abs(row["error"]) < 0.5
    assert result["forecast"]["network"] == "ResidualNetwork"
    assert result["forecast"]["data"] == "digits"
    assert result["speedup"] > 0
