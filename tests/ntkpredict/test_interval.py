"""From curves to a number of steps and its interval."""

import numpy as np
import pytest

import ntkpredict as ntp
from ntkpredict.interval import predicted_steps, stopping_times

CLOCK = np.linspace(-0.2, 0.2, 41)
"""Errors of the clock, equally likely each."""

PLAN = ntp.Plan.sgd(0.05, batch_size=8, max_steps=80)


@pytest.fixture(scope="module")
def curves(linear, data):
    """Of a network that is linear."""
    return ntp.predict(linear, data, PLAN, ntp.MaxSteps(80), seeds=3).trajectory


@pytest.mark.parametrize("steps", [1, 13, 80])
def test_a_number_of_steps_is_that_number(curves, steps):
    assert predicted_steps(curves, ntp.MaxSteps(steps), CLOCK) == (
        steps,
        (steps, steps),
    )


@pytest.mark.parametrize(
    "rule",
    [
        ntp.TargetLoss(relative=0.8),
        ntp.TargetLoss(relative=0.4),
        ntp.TargetLoss(0.9, on="validation"),
        ntp.Converged(0.2),
        ntp.TargetLoss(relative=0.7) | ntp.MaxSteps(5),
        ntp.TargetLoss(relative=0.01) | ntp.MaxSteps(60),
    ],
    ids=str,
)
def test_the_interval_is_ordered_and_holds_the_point(curves, rule):
    point, (low, high) = predicted_steps(curves, rule, CLOCK)
    assert 0 < low <= point
    assert high is None or point <= high <= PLAN.max_steps


def test_the_interval_is_open_where_the_budget_may_not_do(curves):
    steps, loss = curves.steps, np.median(curves.train.loss, axis=0)
    late = float(np.interp(0.98 * steps[-1], steps, loss))
    point, (low, high) = predicted_steps(curves, ntp.TargetLoss(late), CLOCK)
    assert low < point
    assert high is None


def test_the_interval_begins_at_a_peak_that_other_clocks_lose(trajectory):
    steps = np.arange(0, 101, 10)
    curves = trajectory(steps, 1 - 0.5 * (steps == 50))
    rule = ntp.TargetLoss(0.5)
    assert predicted_steps(curves, rule, np.array([-0.1, 0.1])) == (50, (50, None))


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (ntp.TargetLoss(0.86), (14, (5, 20))),
        (ntp.TargetLoss(0.85), (15, (10, 20))),
        (ntp.TargetLoss(0.99), (1, (0, 10))),
        (ntp.TargetLoss(0.86) | ntp.MaxSteps(18), (14, (5, 18))),
        (ntp.TargetLoss(0.1) | ntp.MaxSteps(18), (18, (18, 18))),
        (ntp.MaxSteps(18), (18, (18, 18))),
        (ntp.TargetLoss(0.68), (32, (30.25, 64))),
    ],
    ids=str,
)
def test_what_is_known_is_so_to_an_evaluation_more(trajectory, rule, told):
    curves = trajectory(np.arange(0, 101, 5), 1 - np.arange(0, 101, 5) / 100)
    known = curves.beginning(curves.first(7))
    assert known.known == 30
    point, interval = predicted_steps(known, rule, np.log([0.5, 1, 2]))
    assert (point, interval) == (pytest.approx(told[0]), pytest.approx(told[1]))


def test_stopping_times_span_orders_and_an_error_of_the_clock(trajectory):
    """Each outcome of the clock for each order."""
    steps = np.arange(101)
    curves = trajectory(steps, [1 - steps / 50, 1 - steps / 100])  # at 0.5 after 25 and 50
    times = stopping_times(curves, ntp.TargetLoss(0.5), CLOCK)
    assert times.shape == (41 * 2,)
    fast, slow = times.reshape(41, 2).T
    np.testing.assert_allclose(slow, 2 * fast, rtol=1e-9)
    np.testing.assert_allclose(fast * fast[::-1], 25**2, rtol=1e-9)
    assert (np.diff(fast) > 0).all()
    np.testing.assert_allclose(np.log(fast / 25), CLOCK, atol=1e-9)


def test_stopping_times_beyond_the_budget_are_infinite(trajectory):
    steps = np.arange(101)
    curves = trajectory(steps, 1 - steps / 200)
    times = stopping_times(curves, ntp.TargetLoss(0.505), CLOCK)  # after 99 of 100 steps
    late = ~np.isfinite(times)
    assert 0.4 < late.mean() < 0.5
    assert times[~late].max() <= 100
    assert not np.isfinite(stopping_times(curves, ntp.TargetLoss(0.1), CLOCK)).any()
    seven = stopping_times(curves, ntp.MaxSteps(7), CLOCK)
    np.testing.assert_array_equal(seven, np.full(41, 7))


def test_of_a_target_out_of_reach_nothing_is_said(curves):
    assert predicted_steps(curves, ntp.TargetLoss(1e-9), CLOCK) == (None, None)


def test_harder_targets_take_longer(curves):
    points = [
        predicted_steps(curves, ntp.TargetLoss(relative=fraction), CLOCK)[0]
        for fraction in (0.9, 0.8, 0.7, 0.6, 0.5)
    ]
    assert points == sorted(points)
