"""The indicator beside runs that are played on a clock of the test's own."""

import dataclasses
import json

import numpy as np
import pytest

import ntkpredict as ntp
from ntkpredict.counter import KerasCounter
from ntkpredict.progress.indicator import Indicator
from ntkpredict.stopping import Watch
from sde import Curve

UNTIL = ntp.EarlyStopping(5, every=20)


@pytest.fixture
def stop(run):
    """Where patience really ends."""
    return 20 * int(KerasCounter(5).stops(run.values[None])[0])


def test_before_anything_is_known(clock):
    estimate = Indicator(UNTIL, 2000, clock=clock).estimate()
    assert (estimate.step, estimate.steps, estimate.mode) == (0, 2000, 2000)
    assert estimate.steps_interval is None
    assert estimate.at_maximum is None
    assert estimate.seconds is None
    assert estimate.done is None


def test_the_speed_alone_gives_the_time_to_the_maximum(clock, run):
    indicator = Indicator(UNTIL, 2000, clock=clock)
    run.play(indicator, clock, 19)
    estimate = indicator.estimate()
    assert estimate.seconds == pytest.approx(1981 * 0.1)
    assert estimate.seconds_interval is None


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_the_interval_holds_the_real_time(clock, run, stop, share):
    indicator = Indicator(UNTIL, 2000, clock=clock)
    now = int(share * stop)
    run.play(indicator, clock, now)
    estimate = indicator.estimate()
    low, high = estimate.steps_interval
    assert low <= stop <= high
    low, high = estimate.seconds_interval
    assert low <= estimate.seconds <= high
    assert low <= run.seconds(now, stop) <= high
    assert abs(estimate.steps - stop) < 2000 - stop
    assert estimate.seconds_passed == pytest.approx(run.seconds(0, now))


def trend(steps):
    """Of the run."""
    return 0.5 + 1.8 * np.exp(-steps / 240)


@pytest.fixture
def refreshed(clock, run, forecast):
    """Without a forecast up to step 300, then with one made there; the fan before and after."""

    def play(curve, until=300):
        indicator = Indicator(UNTIL, 2000, clock=clock)
        run.play(indicator, clock, 300)
        before = indicator.fan()
        rows = curve(forecast.trajectory.steps) * np.array([[1.0], [1.03]])
        curves = Curve(rows, np.zeros_like(rows))
        trajectory = ntp.Trajectory(forecast.trajectory.steps, curves, curves)
        sure = dataclasses.replace(forecast.validity, clock=np.linspace(-0.1, 0.1, 21))
        indicator.refresh(dataclasses.replace(forecast, trajectory=trajectory, validity=sure))
        run.play(indicator, clock, until)
        return indicator, before

    return play


def test_a_forecast_made_on_the_way_tells_at_once(refreshed):
    indicator, before = refreshed(lambda steps: trend(300 + steps))
    after = indicator.fan()
    errors = [np.abs(fan.middle - trend(fan.ahead)).mean() for fan in (before, after)]
    assert errors[1] < 0.5 * errors[0]


def test_a_wrong_forecast_made_on_the_way_is_soon_not_believed(refreshed, stop):
    indicator, _ = refreshed(lambda steps: 1.0 - 0.9 * steps / 2000, until=stop - 200)
    estimate = indicator.estimate()
    low, high = estimate.steps_interval
    assert low <= stop <= high
    assert estimate.at_maximum < 0.1


def test_a_forecast_tells_before_the_first_step(clock, run, stop, forecast):
    indicator = Indicator(UNTIL, 2000, forecast=forecast, clock=clock)
    before = indicator.estimate()
    low, high = before.steps_interval
    assert low <= stop <= high
    assert before.seconds == pytest.approx(run.seconds(0, before.steps), rel=0.01)
    run.play(indicator, clock, stop // 2)
    after = indicator.estimate()
    assert np.ptp(after.steps_interval) < np.ptp(before.steps_interval)


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_a_forecast_that_diverges_tells_too(clock, forecast, lost):
    grid = forecast.trajectory.steps
    rows = np.where(grid < 300, 2.0 * np.exp(grid / 50), lost) * np.ones((2, 1))
    curves = Curve(rows, np.zeros_like(rows))
    forecast = dataclasses.replace(forecast, trajectory=ntp.Trajectory(grid, curves, curves))
    estimate = Indicator(UNTIL, 2000, forecast=forecast, clock=clock).estimate()
    assert estimate.steps == 6 * 20  # the first evaluation is the best one
    assert estimate.at_maximum < 0.1


def test_stops_where_the_rule_does(clock, run, stop):
    indicator = Indicator(UNTIL, 2000, clock=clock)
    run.play(indicator, clock, stop - 1)
    assert not indicator.stopped
    run.play(indicator, clock, stop)
    assert indicator.stopped
    estimate = indicator.estimate()
    assert estimate.steps == stop
    assert estimate.seconds == 0
    assert estimate.done == 1


@pytest.mark.parametrize("until", [UNTIL, ntp.TargetLoss(0.7, on="validation") | UNTIL], ids=str)
def test_total_work_is_done_and_speed_times_remaining(clock, run, until):
    indicator = Indicator(until, 2000, batch_size=32, price_per_hour=2.0, clock=clock)
    for step in (1, 10, 50, 200, 333):
        run.play(indicator, clock, step)
        estimate = indicator.estimate()
        assert estimate.units == pytest.approx(
            estimate.units_done + estimate.units_per_second * estimate.seconds
        )
        assert estimate.done == pytest.approx(estimate.units_done / estimate.units)
        total = estimate.seconds_passed + estimate.seconds
        assert estimate.price == pytest.approx(total * 2 / 3600)


def test_the_maximum_may_be_the_rules_own(clock, run):
    indicator = Indicator(ntp.MaxSteps(500), 2000, clock=clock)
    run.play(indicator, clock, 100)
    assert indicator.estimate().steps == 500
    run.play(indicator, clock, 500)
    assert indicator.stopped


def test_a_target_counts_values_whenever_they_come(clock, run):
    indicator = Indicator(ntp.TargetLoss(0.9, on="validation"), 2000, clock=clock)
    first = 20 * (int((run.values <= 0.9).argmax()) + 1)
    run.play(indicator, clock, first - 100)
    low, high = indicator.estimate().steps_interval
    assert low <= first <= high
    run.play(indicator, clock, first)
    assert indicator.stopped


def test_a_long_way_to_a_target_is_thinned_out(clock):
    indicator = Indicator(ntp.TargetLoss(0.05), 1_000_000, clock=clock)
    for step in range(1, 400):
        clock.wait(0.1)
        indicator.advance()
        indicator.report({"train_loss": 2 * step**-0.3})
    estimate = indicator.estimate()
    assert 20_000 < estimate.steps < 1_000_001


def test_other_metrics_do_not_matter(clock):
    indicator = Indicator(UNTIL, 2000, clock=clock)
    indicator.report({"validation_accuracy": 0.1, "loss": object()})
    assert indicator.estimate().steps_interval is None


def test_a_watch_of_any_metric(clock):
    indicator = Indicator((Watch(KerasCounter(3, mode="max"), "val_f1"),), 2000, clock=clock)
    for step in range(1, 9):
        clock.wait(1.0)
        indicator.advance(50)
        indicator.report({"val_f1": 0.8 - 0.7 / step})
    low, high = indicator.estimate().steps_interval
    assert 400 < low <= high <= 2000
    assert not indicator.stopped


def test_values_on_few_samples_never_count_for_the_rule(clock, run):
    plain, extra = (Indicator(UNTIL, 2000, validation_samples=300, clock=clock) for _ in range(2))
    random = np.random.default_rng(0)
    for step in range(10, 400, 10):
        for indicator in (plain, extra):
            indicator.step = step
            if step % 20 == 0:
                indicator.report({"validation_loss": run.values[step // 20 - 1]})
        if step % 20:
            noisy = run.values[step // 20] + 0.5 * random.normal()
            extra.report({"validation_loss": noisy}, samples=20)
    counts = [indicator._watching[0].count for indicator in (plain, extra)]
    assert all(np.array_equal(a, b) for a, b in zip(*counts, strict=True))
    widths = [np.ptp(indicator.estimate().steps_interval) for indicator in (plain, extra)]
    assert widths[0] != widths[1]


def test_diverging_does_not_break_it(clock):
    indicator = Indicator(UNTIL, 2000, clock=clock)
    for step, value in enumerate([2.0, 5.0, 1e20, 1e200, np.inf, np.nan], start=1):
        clock.wait(1.0)
        indicator.advance(20)
        indicator.report({"validation_loss": value})
        assert indicator.step == 20 * step
        assert np.isfinite(indicator.estimate().steps)


def test_several_values_at_one_step(clock):
    indicator = Indicator(UNTIL, 2000, clock=clock)
    for step in (20, 20, 40, 40, 60):
        indicator.step = step
        indicator.report({"validation_loss": 2 - step / 100})
        low, high = indicator.estimate().steps_interval
        assert step < low <= high <= 2000


def test_an_estimate_is_simulated_once_for_the_same_values(clock, run):
    indicator = Indicator(UNTIL, 2000, clock=clock)
    run.play(indicator, clock, 205)
    known = indicator.estimate()
    stops, fan = indicator._known[1], indicator.fan()
    indicator.advance()
    assert indicator.estimate().steps_interval[0] >= known.steps_interval[0]
    assert indicator._known[1] is stops
    assert indicator.fan() is fan
    run.play(indicator, clock, 221)
    assert indicator.fan().ahead[0] == 221
    assert len(indicator.fan().values) == 11


def test_goes_on_from_a_state(clock, run, stop):
    first = Indicator(UNTIL, 2000, clock=clock)
    run.play(first, clock, 300)
    second = Indicator(UNTIL, 2000, clock=clock)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.step == 300
    assert second.estimate().steps_interval == first.estimate().steps_interval
    run.play(second, clock, stop)
    assert second.stopped
    assert second.estimate().units_done > stop
    assert second.estimate().seconds_passed == pytest.approx(run.seconds(0, stop))


def test_a_run_that_goes_on_all_the_same_goes_to_the_maximum(clock, run, stop):
    indicator = Indicator(UNTIL, 2000, clock=clock)
    run.play(indicator, clock, stop + 30)
    assert indicator.stopped
    estimate = indicator.estimate()
    assert (estimate.steps, estimate.steps_interval) == (2000, None)


def test_a_loss_of_every_step_is_no_validation_pass(clock):
    indicator = Indicator(ntp.TargetLoss(0.01), 1000, clock=clock)
    for step in range(1, 101):
        clock.wait(0.1)
        indicator.advance()
        indicator.report({"train_loss": 2.0})
        if step % 50 == 0:
            clock.wait(5.0)
            indicator.lap("validation")
    estimate = indicator.estimate()
    left = estimate.steps - 100
    assert estimate.seconds == pytest.approx(left * 0.1 + left / 50 * 5)


def test_few_of_many_values_are_kept_for_a_target(clock):
    indicator = Indicator(ntp.TargetLoss(relative=0.5), 100_000, clock=clock)
    for step in range(1, 10_001):
        indicator.step = step
        indicator.report({"train_loss": 2.0 if step < 10_000 else 1.0})
        assert indicator.stopped == (step == 10_000)
    assert len(indicator._watching[0].values) < 5000


RULES = [
    ntp.EarlyStopping(3, every=7),
    ntp.EarlyStopping(0, every=20, min_delta=0.01, metric="accuracy", framework="huggingface"),
    ntp.TargetLoss(0.5, on="validation"),
    ntp.TargetLoss(relative=0.3),
    ntp.TargetAccuracy(0.9, on="validation"),
    ntp.MaxSteps(150),
    ntp.Best(),
]
CURVES = {
    "falling": lambda step, random: step**-0.5,
    "flat": lambda step, random: 1.0,
    "rising": lambda step, random: 0.01 * step,
    "zero": lambda step, random: 0.0,
    "noise": lambda step, random: random.normal(),
    "nothing": lambda step, random: np.nan,
}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("curve", CURVES)
def test_whatever_the_run_the_numbers_agree(clock, curve, seed):
    random = np.random.default_rng(seed)
    first, second = random.choice(len(RULES), size=2)
    indicator = Indicator(RULES[first] | RULES[second], 333, validation_samples=200, clock=clock)
    scale = 10 ** random.uniform(-4, 6) * random.choice([1, 1, -1])
    for step in range(1, random.integers(10, 340)):
        clock.wait(random.exponential())
        indicator.advance()
        if random.uniform() < 0.2:
            value = CURVES[curve](step, random)
            samples = None if random.uniform() < 0.8 else int(random.integers(1, 300))
            names = ("validation_loss", "train_loss", "validation_accuracy")
            values = (scale * value, scale * value, 1 - abs(value))
            indicator.report(dict(zip(names, values, strict=True)), samples)
        if random.uniform() < 0.02:
            estimate = indicator.estimate()
            low, high = estimate.steps_interval or (estimate.steps, estimate.steps)
            assert step <= low <= estimate.steps <= high <= max(333, step)
            total = estimate.units_done + estimate.units_per_second * estimate.seconds
            assert estimate.units == pytest.approx(total)
            indicator.fan()
            json.dumps(indicator.state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "max_steps: got 0; expected at least 1"),
        ({"max_steps": 9, "every": 0}, "every: got 0; expected at least 1"),
        ({"max_steps": 9, "batch_size": 0}, "batch_size: got 0; expected at least 1"),
        ({"max_steps": 9, "validation_samples": 0}, "validation_samples: got 0; expected at least"),
        ({"max_steps": 9, "start": -1}, "start: got -1; expected at least 0"),
        ({"max_steps": 9, "window": 0.0}, "window: got 0.0; expected seconds, more than 0"),
    ],
)
def test_bad_arguments(refused, options, message):
    with refused(message):
        Indicator(UNTIL, **options)
