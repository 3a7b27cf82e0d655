import numpy as np
import pytest

import ntkpredict as ntp
from ntkpredict.pilot import Pilot, train_pilot
from ntkpredict.step import TrainingStep
from sde import Curve, Trajectory

GRID = np.arange(401)


def law(steps):
    """A loss that falls steeply enough to read a clock from."""
    return 2.3 * (1 + steps / 5.0) ** -1.0


def expected(loss=law):
    rows = np.stack([loss(GRID), 1.02 * loss(GRID), 0.98 * loss(GRID)])
    return Trajectory(GRID, Curve(rows, 1 - rows / 3), None)


class TestClock:
    @pytest.mark.parametrize("clock", [0.7, 1.0, 1.4])
    def test_is_found_from_losses_on_another_clock(self, clock):
        pilot = Pilot.of(law(clock * np.arange(60)), expected())
        assert pilot.clock == pytest.approx(clock, rel=0.1)
        assert pilot.steps == 60

    def test_is_that_of_the_mean_losses_where_batches_are_noisy(self):
        random = np.random.default_rng(0)
        found = [
            Pilot.of(
                law(1.4 * np.arange(60)) * np.exp(0.3 * random.normal(size=60)), expected()
            ).clock
            for _ in range(30)
        ]
        assert np.median(found) == pytest.approx(1.4, rel=0.1)

    def test_of_a_plateau_stays_near_the_forecast(self):
        flat = expected(lambda steps: 2.3 - 1e-4 * steps)
        losses = 2.3 + 0.2 * np.random.default_rng(0).normal(size=20)
        assert Pilot.of(losses, flat).clock == pytest.approx(1, abs=0.1)

    def test_is_drawn_towards_the_forecast(self):
        """A forecast is rarely ten times too slow, so ten times is not believed at once."""
        assert 1.2 < Pilot.of(law(10.0 * np.arange(4)), expected()).clock < 10

    @pytest.mark.parametrize(
        "losses",
        [[2.3, np.nan, 1.0], [2.3, np.inf], [0.0, 0.0], [2.3]],
        ids=["nan", "inf", "zero", "one step"],
    )
    def test_is_the_forecast_s_where_losses_tell_nothing(self, losses):
        assert Pilot.of(np.array(losses), expected()).clock == pytest.approx(1, abs=0.02)

    def test_is_the_forecast_s_where_that_diverges(self):
        diverging = expected(lambda steps: np.where(steps < 9, 2.3 + steps, np.nan))
        assert Pilot.of(law(np.arange(9)), diverging).clock == 1


class TestCorrected:
    def test_half_of_the_clock_persists(self):
        pilot = Pilot(np.ones(100), clock=4.0)
        found = pilot.corrected(expected()).train.loss[0]
        np.testing.assert_allclose(found[50], law(200))
        slow = Pilot(np.ones(100), clock=0.25).corrected(expected()).train.loss[0]
        np.testing.assert_allclose(slow[[100, 300]], law(np.array([25, 25 + 100])))

    def test_by_a_clock_of_one_is_itself(self):
        given = expected()
        np.testing.assert_array_equal(
            Pilot(np.ones(7), 1.0).corrected(given).train.loss, given.train.loss
        )


def test_the_pilot_is_the_beginning_of_the_run(mlp, data):
    plan = ntp.Plan.sgd(0.05, momentum=0.9, batch_size=8, max_steps=20, seed=3)
    seen = []
    losses = train_pilot(
        TrainingStep(mlp, data, plan), data.samples, plan, 12, lambda *done: seen.append(done)
    )
    run = ntp.train(mlp, data, plan)
    np.testing.assert_allclose(losses, run.batch_loss[:12], rtol=1e-6)
    assert seen[-1] == (12, 12)
