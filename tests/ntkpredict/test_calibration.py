import dataclasses

import numpy as np
import pytest

import ntkpredict as ntp
from ntkpredict.calibration import FAR, FEWEST, Calibration, Pair, conformal, pairs
from ntkpredict.history import History, Task
from ntkpredict.interval import predicted_steps
from ntkpredict.validity import Signals, Validity, scale
from sde import Curve, Trajectory

SIGNALS = Signals("growing", coordinate_wise=False, difference=0.2, margin=20.0)
TASK = Task("net", "n", "data", "d", "sgd, lr 0.1", "loss<=0.1x", {}, {})


def user(bias, spread, runs, random):
    """Errors of a user whose tasks are all slower or faster than ours were, in units of scale."""
    errors = random.normal(bias, spread, runs) * scale(SIGNALS)
    return tuple(Pair(SIGNALS, error) for error in errors)


def covered(validity, truth):
    low, high = np.quantile(validity.clock, [0.025, 0.975], method="nearest")
    return (low <= truth) & (truth <= high)


@pytest.mark.parametrize(("bias", "spread"), [(6.0, 0.5), (-4.0, 1.5), (0.0, 5.0)])
def test_coverage_grows_with_the_records(bias, spread):
    random = np.random.default_rng(0)
    held = {}
    for runs in (0, FEWEST, 20, 39, 200):
        inside = []
        for _ in range(60):
            told = Calibration(user(bias, spread, runs, random)).validity(SIGNALS)
            inside.append(covered(told, random.normal(bias, spread, 200) * scale(SIGNALS)).mean())
        held[runs] = np.mean(inside)
    assert held[0] < 0.8
    for runs in (FEWEST, 20, 39):
        assert held[runs] >= (runs - 1) / (runs + 1) - 0.02
    assert held[39] > 0.93
    assert held[200] == pytest.approx(0.95, abs=0.015)


def test_intervals_of_a_user_like_us_become_narrower_not_wrong():
    random = np.random.default_rng(1)
    width = {}
    for runs in (0, 200):
        told = Calibration(user(0.0, 0.3, runs, random)).validity(SIGNALS)
        low, high = np.quantile(told.clock, [0.025, 0.975], method="nearest")
        width[runs] = high - low
    assert width[200] < 0.6 * width[0]


@pytest.mark.parametrize("runs", [8, 20, 39, 100])
def test_quantiles_are_order_statistics_and_shipped_ones_further_out(runs):
    own, shipped = np.arange(1.0, runs + 1), np.linspace(-100, 300, 41)
    found = conformal(own, shipped)
    assert (np.diff(found) >= 0).all()
    assert found[20] == pytest.approx((runs + 1) / 2)
    for index in range(41):
        rank = index / 40 * (runs + 1)
        if index < 20:
            assert found[index] == (np.floor(rank + 1e-9) if rank >= 1 else shipped[index])
        elif index > 20:
            assert found[index] == (np.ceil(rank - 1e-9) if rank <= runs else shipped[index])


def test_few_runs_and_runs_of_another_kernel_change_nothing():
    shipped = Validity.of(SIGNALS)
    frozen = dataclasses.replace(SIGNALS, kernel="frozen")
    for own in (FEWEST - 1) * [Pair(SIGNALS, 1.0)], 50 * [Pair(frozen, 1.0)]:
        told = Calibration(tuple(own)).validity(SIGNALS)
        np.testing.assert_array_equal(told.clock, shipped.clock)
        assert (told.shift, told.own_runs) == (0.0, 0)


def test_the_point_moves_to_where_the_users_runs_were():
    own = Calibration(tuple(Pair(SIGNALS, np.log(2) + 0.005 * i) for i in range(-20, 21)))
    told = own.validity(SIGNALS)
    assert told.own_runs == 41
    assert told.shift == pytest.approx(np.log(2))
    loss = np.exp(-0.01 * np.arange(400))[None]
    curves = Trajectory(np.arange(400), Curve(loss, 1 - loss), None)
    rule = ntp.TargetLoss(relative=0.5)
    steps, interval = predicted_steps(curves, rule, told.clock, told.shift)
    raw, _ = predicted_steps(curves, rule, told.clock)
    assert steps == pytest.approx(raw * np.exp(told.shift), rel=1e-3)
    assert interval[0] < 2 * raw < interval[1]
    assert interval[0] < steps < interval[1]
    assert told.word == "good"


def forecast(steps, own_ratio=1.0, known=0, **validity):
    told = {"signals": dataclasses.asdict(SIGNALS), **validity}
    cost = ntp.CostModel(1.0, (0.1, 0.1 * own_ratio, 0.2), 0.0, 20, own_ratio)
    curves = {"known": known}
    return {
        "steps": steps,
        "validity": told,
        "cost": dataclasses.asdict(cost),
        "trajectory": curves,
    }


def real(steps, trained=20):
    return {"steps": steps, "seconds": 0.12 * trained, "trained_steps": trained}


def test_pairs_are_the_latest_run_and_forecast_of_each_task(tmp_path):
    history = History(tmp_path / "history.sqlite")
    other = dataclasses.replace(TASK, plan="sgd, lr 0.2")
    history.add("forecast", "a", TASK, forecast(50.0))
    history.add("forecast", "b", TASK, forecast(100.0, own_ratio=1.5, shift=0.5))
    history.add("run", "b", TASK, real(150.0, 150))
    history.add("run", "c", other, real(10.0))  # not forecast before
    history.add("forecast", "d", other, forecast(None))
    history.add("run", "d", other, real(20.0))  # said to be out of reach
    met = dataclasses.replace(TASK, data_fingerprint="i")
    history.add("forecast", "j", met, forecast(20.0, known=20))
    history.add("run", "j", met, real(20.0))  # trained for real before
    far = dataclasses.replace(TASK, data_fingerprint="e")
    history.add("forecast", "f", far, forecast(30.0))
    history.add("run", "f", far, real(None))
    old = dataclasses.replace(TASK, data_fingerprint="g")
    history.add("forecast", "h", old, {"steps": 30.0, "validity": {"signals": {"of": "old"}}})
    history.add("run", "h", old, real(20.0))
    found = pairs(history.records())
    assert [pair.log_ratio for pair in found] == [np.log(1.5) + 0.5, FAR]
    assert found[0].cost_ratio == pytest.approx(1.2)
    assert (found[1].signals, found[1].cost_ratio) == (SIGNALS, None)
    assert Calibration.of(history).pairs == found
    assert pairs(history.records(latest=4)) == found[1:]


def test_without_a_history_or_with_a_damaged_one_there_is_what_is_shipped(tmp_path):
    assert Calibration.of(None) == Calibration()
    assert Calibration.of(History(tmp_path / "none")) == Calibration()
    (tmp_path / "broken").write_text("x" * 5000)
    with pytest.warns(UserWarning, match="not calibrated on own runs: history: "):
        assert Calibration.of(History(tmp_path / "broken")) == Calibration()


def test_steps_cost_what_they_did_in_the_users_runs():
    measured = ntp.CostModel(1.0, (0.09, 0.1, 0.3), 0.5, 20)
    own = [Pair(SIGNALS, 0.0, 1.2 + 0.01 * i) for i in range(-5, 6)]
    told = Calibration((*own, *9 * [Pair(SIGNALS, 0.0)])).cost(measured)
    assert told.batch_seconds == pytest.approx((0.1155, 0.12, 0.1245))
    assert told.own_ratio == pytest.approx(1.2)
    assert (told.compile_seconds, told.validation_seconds) == (1.0, 0.5)
    assert Calibration(tuple(own[: FEWEST - 1])).cost(measured) == measured


def slow(kernel):
    """A user whose forecasts are all too fast."""
    signals = Signals(kernel, False, 0.0, None)
    return Calibration(tuple(Pair(signals, scale(signals) * (1 + i / 100)) for i in range(40)))


def test_predict_goes_by_it(linear, data, plan):
    until = ntp.TargetLoss(relative=0.8)
    options = {"mode": "linear", "samples": 24, "seeds": 1, "calibration": slow("frozen")}
    told = ntp.predict(linear, data, plan, until, **options)
    assert told.validity.own_runs == 40
    raw, _ = predicted_steps(told.trajectory, until, told.validity.clock)
    assert told.steps == pytest.approx(raw * np.exp(told.validity.shift), rel=0.1)
    assert raw < told.steps_interval[0] < told.steps < told.steps_interval[1]


def test_compare_goes_by_it(linear, data, plan):
    until = ntp.TargetLoss(relative=0.8)
    ranking = ntp.compare(linear, data, [plan], until, samples=24, calibration=slow("growing"))
    (candidate,) = ranking.candidates
    assert candidate.validity.own_runs == 40
    assert candidate.steps_interval[0] < candidate.steps < candidate.steps_interval[1]
