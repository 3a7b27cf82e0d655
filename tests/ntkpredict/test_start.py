"""Forecasts that go on from first steps: under Adam, where the rate is unstable, with a budget."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntkpredict as ntp
from ntkpredict.milestones import milestones
from ntkpredict.opening import CATAPULT, STEPS

from . import problems


@pytest.fixture(scope="module")
def settling(loud, data):
    """The forecast of a run that settles, and the run."""
    before = jax.tree.map(np.array, loud.params)
    forecast = ntp.predict(loud, data, problems.plain(0.1), ntp.TargetLoss(relative=0.008), seeds=2)
    jax.tree.map(np.testing.assert_array_equal, loud.params, before)
    return forecast, ntp.train(loud, data, problems.plain(0.1), evaluations=np.arange(201))


class TestFirst:
    def test_a_run_that_settles_is_forecast(self, settling):
        forecast, run = settling
        (real,) = ntp.TargetLoss(relative=0.008).steps(run.trajectory)
        assert forecast.stability.margin < 1
        assert real > 2 * CATAPULT
        assert forecast.steps == pytest.approx(real, rel=0.1)
        assert forecast.forecast_seconds["first steps"] > 0
        assert forecast.validity.signals.margin == forecast.stability.margin
        assert any("times the largest stable one" in note for note in forecast.notes)
        (note,) = [note for note in forecast.notes if "trained for real" in note]
        assert f"The first {CATAPULT} steps" in note

    def test_its_first_steps_are_those_of_the_run(self, settling):
        forecast, run = settling
        grid = forecast.trajectory.steps
        first = grid <= CATAPULT
        assert grid[-1] == 200
        assert (np.diff(grid) > 0).all()
        for split in ("train", "validation"):
            real = run.trajectory.curve(split).loss[0, grid[first]]
            for row in forecast.trajectory.curve(split).loss[:, first]:
                np.testing.assert_allclose(row, real, rtol=1e-4)

    def test_they_are_known(self, settling):
        forecast, run = settling
        assert forecast.trajectory.known == CATAPULT
        (first, *_) = milestones(forecast)
        (real,) = ntp.TargetLoss(relative=first.fraction).steps(run.trajectory)
        assert real < CATAPULT
        assert first.interval[0] <= real <= first.interval[1] <= CATAPULT + 5

    def test_a_run_that_diverges_is_said_to(self, loud, data):
        diverging = problems.plain(0.1, loss="squared_error")
        forecast = ntp.predict(loud, data, diverging, seeds=2)
        assert forecast.reason.startswith("diverges")
        assert any("may oscillate or diverge" in note for note in forecast.notes)

    def test_under_adam_its_first_steps_are_those_of_the_run(self, mlp, data):
        adam = ntp.Plan.adamw(0.01, batch_size=8, max_steps=200)
        run = ntp.train(mlp, data, adam, evaluations=np.arange(201))
        (real,) = ntp.TargetLoss(relative=0.1).steps(run.trajectory)
        forecast = ntp.predict(mlp, data, adam)
        assert real > STEPS
        assert forecast.steps == pytest.approx(real, rel=0.2)
        assert forecast.stability is None
        first = forecast.trajectory.steps <= STEPS
        real = run.trajectory.train.loss[0, forecast.trajectory.steps[first]]
        np.testing.assert_allclose(forecast.trajectory.train.loss[0, first], real, rtol=1e-4)

    def test_none_where_it_is_not_wanted(self, loud, mlp, data):
        for network, each in (
            (loud, problems.plain(0.1)),
            (mlp, ntp.Plan.adamw(0.01, batch_size=8)),
        ):
            forecast = ntp.predict(network, data, each, seeds=2, opening=False)
            assert "first steps" not in forecast.forecast_seconds
            assert not any("trained for real" in note for note in forecast.notes)


SLOW = ntp.Plan.sgd(0.05, batch_size=8, max_steps=40)


@pytest.fixture(scope="module")
def run(mlp, data):
    return ntp.train(mlp, data, SLOW, evaluations=np.arange(41))


class TestBudget:
    def test_its_steps_are_the_beginning_of_the_run(self, mlp, data, run):
        plain, found = (
            ntp.predict(mlp, data, SLOW, ntp.MaxSteps(40), budget=share, seeds=2)
            for share in (0.0, 0.25)
        )
        assert plain.trajectory.known == 0
        assert found.trajectory.known == 10
        first = found.trajectory.steps[found.trajectory.steps <= 10]
        for split in ("train", "validation"):
            for metric in ("loss", "accuracy"):
                real = getattr(run.trajectory.curve(split), metric)[0, first]
                for row in getattr(found.trajectory.curve(split), metric)[:, : len(first)]:
                    np.testing.assert_allclose(row, real, rtol=1e-5, atol=1e-6)
        assert found.validity.signals.piloted
        assert "first steps" in found.forecast_seconds

    def test_a_target_met_in_them_is_known(self, mlp, data, run):
        until = ntp.TargetLoss(relative=0.9)
        (real,) = until.steps(run.trajectory)
        found = ntp.predict(mlp, data, SLOW, until, budget=1.0, seeds=2)
        assert found.trajectory.known >= real
        assert found.steps == pytest.approx(real, abs=1)
        low, high = found.steps_interval
        assert real - 3 <= low <= real <= high <= real + 3

    def test_under_adam_the_tangent_model_is_that_of_where_they_lead(self, mlp, data):
        adam = ntp.Plan.adamw(0.003, batch_size=8, max_steps=400)
        until = ntp.TargetLoss(relative=0.1)
        (real,) = until.steps(ntp.train(mlp, data, adam, evaluations=np.arange(401)).trajectory)
        found = ntp.predict(mlp, data, adam, until, budget=0.6, seeds=2)
        assert STEPS < found.trajectory.known < real
        assert found.steps == pytest.approx(real, rel=0.1)

    @pytest.mark.parametrize("budget", [0.1, 1.0])
    def test_none_where_it_is_no_more_than_what_is_trained_anyway(self, loud, data, budget):
        until = ntp.TargetLoss(relative=0.01)
        found = ntp.predict(loud, data, problems.plain(0.1), until, budget=budget, seeds=2)
        assert found.validity.signals.piloted == (budget == 1)
        assert (found.trajectory.known > CATAPULT) == (budget == 1)

    def test_weights_that_are_lost_stay_so(self, mlp, data):
        """Where the schedule goes up too far within the budget."""
        rates = optax.join_schedules([optax.constant_schedule(0.01), lambda _: jnp.nan], [6])
        losing = ntp.Plan(optax.sgd(rates), batch_size=8, max_steps=40)
        found = ntp.predict(mlp, data, losing, ntp.MaxSteps(40), budget=0.5, seeds=2)
        assert found.trajectory.known == 20
        assert np.isnan(found.trajectory.train.loss[:, found.trajectory.steps > 8]).all()
        assert any("weights that are no numbers" in note for note in found.notes)
