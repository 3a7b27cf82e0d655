"""Work and speed, on a clock of the test's own."""

import dataclasses

import numpy as np
import pytest

from ntkpredict.progress.work import Meter, Pieces


def train(meter, clock, steps, seconds):
    for _ in range(steps):
        clock.wait(seconds)
        meter.lap("training")


def test_each_kind_has_its_pace(clock):
    meter = Meter(clock)
    for _ in range(5):
        train(meter, clock, 10, 0.1)
        clock.wait(0.7)
        meter.lap("validation")
        clock.wait(0.2)
        meter.lap("checkpoint")
    assert dataclasses.astuple(meter.pace) == pytest.approx((0.1, 0.7, 0.2, 0))
    assert meter.done == Pieces(50, 5, 5)
    assert meter.seconds == pytest.approx(5 * 1.9)


def test_before_anything_happened_there_is_no_pace(clock):
    assert Meter(clock).pace is None
    assert Meter(clock, expected=Pieces(0.2, 1.0)).pace == Pieces(0.2, 1.0)


def test_the_first_step_compiles_and_soon_no_longer_counts(clock):
    meter = Meter(clock)
    train(meter, clock, 1, 20.0)
    assert meter.pace.training == pytest.approx(20)
    train(meter, clock, 5, 0.1)
    assert meter.pace.training == pytest.approx(0.1)
    assert meter.done.training == 6
    assert meter.seconds == pytest.approx(20.5)


def test_validating_after_the_first_step_keeps_its_pace(clock):
    meter = Meter(clock)
    train(meter, clock, 1, 2.0)
    meter.lap("training", 0)
    clock.wait(1.0)
    meter.lap("validation")
    assert meter.pace == Pieces(2.0, 1.0)


def test_a_load_shows_within_the_window_and_goes_with_it(clock):
    meter = Meter(clock, window=10.0)
    train(meter, clock, 100, 0.1)
    train(meter, clock, 52, 0.2)
    assert meter.pace.training == pytest.approx(0.2, rel=0.02)
    train(meter, clock, 105, 0.1)
    assert meter.pace.training == pytest.approx(0.1, rel=0.02)


def test_a_kind_that_is_seldom_keeps_its_latest_pace(clock):
    meter = Meter(clock, window=5.0)
    for seconds in (9.0, 3.0):
        clock.wait(seconds)
        meter.lap("validation")
        train(meter, clock, 100, 0.1)
    assert meter.pace.validation == pytest.approx(3)


def test_pauses_do_not_count(clock):
    meter = Meter(clock)
    train(meter, clock, 10, 0.1)
    clock.wait(0.05)
    meter.pause()
    clock.wait(3600)
    assert meter.seconds == pytest.approx(1.05)
    meter.resume()
    clock.wait(0.05)
    meter.lap("training")
    assert meter.pace.training == pytest.approx(0.1)
    assert meter.seconds == pytest.approx(1.1)


def test_pausing_and_resuming_twice_is_as_once(clock):
    meter = Meter(clock)
    for call in (meter.resume, meter.pause, meter.pause):
        call()
    clock.wait(10)
    meter.resume()
    meter.resume()
    assert meter.seconds == 0


def test_short_steps_are_added_up(clock):
    meter = Meter(clock, window=3.0)
    train(meter, clock, 10_000, 1e-3)
    assert len(meter._kinds["training"]._buckets) < 60
    assert meter.pace.training == pytest.approx(1e-3)


@pytest.mark.parametrize("seed", range(50))
def test_total_is_done_and_speed_times_remaining(clock, seed):
    random = np.random.default_rng(seed)
    meter, batch = Meter(clock, window=random.uniform(1, 60)), int(random.integers(1, 512))
    for _ in range(random.integers(1, 60)):
        clock.wait(random.exponential())
        meter.lap(random.choice(["training", "training", "validation", "checkpoint", "data"]))
    clock.wait(random.exponential())
    meter.lap("training")
    pace, done = meter.pace, meter.done
    left = Pieces(*random.uniform(0, 1000, size=4))
    total = Pieces(*np.add(dataclasses.astuple(done), dataclasses.astuple(left)))
    speed = batch / pace.step
    assert total.units(pace, batch) == pytest.approx(
        done.units(pace, batch) + speed * left.seconds(pace)
    )
    only_steps = Pieces(training=left.training)
    assert only_steps.units(pace, batch) == pytest.approx(batch * left.training)
