"""First steps trained for real: under Adam, and where the learning rate is unstable."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntkpredict as ntp
from linearize import Identity, linearize
from ntkpredict.milestones import milestones
from ntkpredict.opening import STEPS, evaluations, opens, train_opening
from ntkpredict.step import TrainingStep
from sde import Stability, as_gradient_descent

from . import problems

LOSES = optax.scale(jnp.nan)
"""Moves to where nothing is a number."""

STABLE = Stability(0.1, 0.1, 0.05, 0.0, 40.0)


@pytest.fixture(scope="module")
def loud():
    """A hidden layer of ReLUs whose features are large: its kernel is, too."""
    random, inputs, hidden = np.random.default_rng(0), problems.INPUTS, 32
    body = 3 * random.normal(size=(inputs, hidden)) / np.sqrt(inputs)
    head = random.normal(size=(hidden, problems.CLASSES)) / np.sqrt(hidden)
    params = {"body": body.astype(np.float32), "head": {"kernel": head.astype(np.float32)}}
    return ntp.Network.from_function(
        lambda params, x: jnp.maximum(x @ params["body"], 0) @ params["head"]["kernel"],
        params,
        head="head",
        name="loud",
    )


def plan(lr, **options):
    return ntp.Plan.sgd(lr, momentum=0.0, batch_size=8, max_steps=200, **options)


def opening(network, data, plan, until=None, budget=None):
    step = TrainingStep(network, data, plan)
    until = until or ntp.TargetLoss(relative=0.1)
    return train_opening(step, data.samples, network, plan, until, silent, budget)


def silent(_done, _total):
    """No progress bar."""


@pytest.fixture(scope="module")
def settling(loud, data):
    """The forecast of a run that settles, and the run."""
    before = jax.tree.map(np.array, loud.params)
    forecast = ntp.predict(loud, data, plan(0.1), ntp.TargetLoss(relative=0.008), seeds=2)
    jax.tree.map(np.testing.assert_array_equal, loud.params, before)
    return forecast, ntp.train(loud, data, plan(0.1), evaluations=np.arange(201))


class TestForecast:
    def test_a_run_that_settles_is_forecast(self, settling):
        forecast, run = settling
        (real,) = ntp.TargetLoss(relative=0.008).steps(run.trajectory)
        assert forecast.stability.margin < 1
        assert real > 2 * STEPS
        assert forecast.steps == pytest.approx(real, rel=0.1)
        assert forecast.forecast_seconds["first steps"] > 0
        assert forecast.validity.signals.margin == forecast.stability.margin
        assert any("times the largest stable one" in note for note in forecast.notes)
        (note,) = [note for note in forecast.notes if "trained for real" in note]
        assert f"The first {STEPS} steps" in note

    def test_its_first_steps_are_those_of_the_run(self, settling):
        forecast, run = settling
        grid = forecast.trajectory.steps
        first = grid <= STEPS
        assert grid[-1] == 200
        assert (np.diff(grid) > 0).all()
        for split in ("train", "validation"):
            real = run.trajectory.curve(split).loss[0, grid[first]]
            for row in forecast.trajectory.curve(split).loss[:, first]:
                np.testing.assert_allclose(row, real, rtol=1e-4)

    def test_they_are_known(self, settling):
        forecast, run = settling
        assert forecast.trajectory.known == STEPS
        (first, *_) = milestones(forecast)
        (real,) = ntp.TargetLoss(relative=first.fraction).steps(run.trajectory)
        assert real < STEPS
        assert first.interval[0] <= real <= first.interval[1] <= STEPS + 5

    def test_a_run_that_diverges_is_said_to(self, loud, data):
        diverging = plan(0.1, loss="squared_error")
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
        for network, each in ((loud, plan(0.1)), (mlp, ntp.Plan.adamw(0.01, batch_size=8))):
            forecast = ntp.predict(network, data, each, seeds=2, opening=False)
            assert "first steps" not in forecast.forecast_seconds
            assert not any("trained for real" in note for note in forecast.notes)


class TestOpening:
    def test_leads_away_from_the_network(self, loud, data):
        found = opening(loud, data, plan(0.1))
        moved = jax.tree.map(jnp.subtract, found.network.params, loud.params)
        assert all(leaf.any() for leaf in jax.tree.leaves(moved))
        assert found.steps == STEPS

    def test_a_rule_has_its_evaluations(self, loud, data):
        every = ntp.EarlyStopping(3, every=4)
        found = opening(loud, data, plan(0.1), every)
        assert {4, 8, 12, 16, 20} <= set(found.trajectory.steps)
        np.testing.assert_array_equal(found.trajectory.steps, evaluations(every, STEPS))

    def test_gradient_descent_waits_for_its_end(self, loud, data):
        """Then it moves as if it had been there all the time: its moments and schedule go on."""
        given = ntp.Plan.sgd(0.1, schedule="cosine", max_steps=200)
        found = opening(loud, data, given)
        params = linearize(found.network, data.train[0], Identity()).initial()
        waiting = found.resumed(given, params, Identity())
        moves, own = (moves_of(each.optimizer, 40) for each in (waiting, given))
        np.testing.assert_array_equal(moves[:STEPS], 0)
        np.testing.assert_allclose(moves[STEPS:], own[STEPS:], rtol=1e-6)

    def test_gradient_descent_that_waits_is_known_as_such(self, loud, data):
        found = opening(loud, data, plan(0.1))
        params = linearize(found.network, data.train[0], Identity()).initial()
        descent = ntp.Plan(optax.sgd(0.1, momentum=0.9))
        waiting = as_gradient_descent(found.resumed(descent, params, Identity()).optimizer, 50)
        assert waiting.momentum == pytest.approx(0.9)
        np.testing.assert_allclose(waiting.learning_rate, 0.1 * (np.arange(50) >= STEPS))

    @pytest.mark.parametrize("budget", [None, 100])
    def test_adam_goes_on_from_its_state(self, mlp, data, budget):
        """In the tangent model of a network that is linear in its weights, as in the network."""
        rates = optax.cosine_decay_schedule(0.01, 200)
        adam = ntp.Plan(optax.adam(rates), batch_size=8, max_steps=200)
        found = opening(mlp, data, adam, budget=budget)
        model = linearize(found.network, data.train[0], Identity())
        optimizer = found.resumed(adam, model.initial(), Identity()).optimizer
        _, state = optimizer.init(model.initial())
        for moments, real in ((state[0].mu, found.state[0].mu), (state[0].nu, found.state[0].nu)):
            np.testing.assert_allclose(moments["body"], real["body"].ravel(), rtol=1e-6)
        assert state[0].count == state[1].count == found.steps == (budget or STEPS)
        # What comes while it waits changes nothing.
        start = optimizer.init(model.initial())
        _, (count, after) = optimizer.update(model.initial(), start, model.initial())
        assert count == 1
        jax.tree.map(np.testing.assert_array_equal, after, state)

    def test_has_not_settled_where_training_diverges(self, loud, data):
        found = opening(loud, data, plan(0.1, loss="squared_error"))
        assert not found.settled

    def test_is_lost_where_weights_are(self, data):
        """A ReLU may hide that they are not numbers any more."""
        body = np.ones((problems.INPUTS, 4), np.float32)
        params = {"body": body, "head": {"kernel": np.ones((4, 3), np.float32)}}
        network = ntp.Network.from_function(
            lambda params, x: jnp.nan_to_num(x @ params["body"] @ params["head"]["kernel"]),
            params,
            head="head",
            name="hides",
        )
        found = opening(network, data, dataclasses.replace(plan(0.01), optimizer=LOSES))
        assert found.lost
        assert not found.settled
        assert not found.begins(ntp.Plan.adamw(0.01))

    def test_is_a_place_to_linearise_under_adam(self, loud, data):
        found = opening(loud, data, plan(0.01))
        assert found.begins(ntp.Plan.adamw(0.01))
        assert not found.begins(plan(0.01))


def moves_of(optimizer, count):
    """What a gradient of one moves a weight by, step by step."""
    weight, moves = jnp.ones(()), []
    state = optimizer.init(weight)
    for _ in range(count):
        update, state = optimizer.update(jnp.ones(()), state, weight)
        moves.append(float(update))
    return moves


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
        found = ntp.predict(loud, data, plan(0.1), until, budget=budget, seeds=2)
        assert found.validity.signals.piloted == (budget == 1)
        assert (found.trajectory.known > STEPS) == (budget == 1)

    def test_weights_that_are_lost_stay_so(self, mlp, data):
        """Where the schedule goes up too far within the budget."""
        rates = optax.join_schedules([optax.constant_schedule(0.01), lambda _: jnp.nan], [6])
        losing = ntp.Plan(optax.sgd(rates), batch_size=8, max_steps=40)
        found = ntp.predict(mlp, data, losing, ntp.MaxSteps(40), budget=0.5, seeds=2)
        assert found.trajectory.known == 20
        assert np.isnan(found.trajectory.train.loss[:, found.trajectory.steps > 8]).all()
        assert any("weights that are no numbers" in note for note in found.notes)


class TestOpens:
    def test_above_the_largest_stable_rate(self, mlp):
        assert opens(plan(0.06), mlp, STABLE)
        assert not opens(plan(0.04), mlp, STABLE)

    def test_under_adam(self, mlp):
        assert opens(ntp.Plan.adamw(1e-3), mlp)

    def test_not_where_only_the_head_trains(self, frozen_mlp, linear):
        for network in (frozen_mlp, linear):
            assert not opens(plan(0.06), network, STABLE)
            assert not opens(ntp.Plan.adamw(1e-3), network)

    def test_not_where_a_warm_up_comes_first(self, mlp):
        warm = optax.sgd(optax.linear_schedule(0.0, 0.1, 100))
        assert not opens(dataclasses.replace(plan(0.1), optimizer=warm), mlp, STABLE)

    def test_not_where_there_are_no_steps_to_spare(self, mlp):
        assert not opens(dataclasses.replace(plan(0.1), max_steps=STEPS), mlp, STABLE)
        assert not opens(ntp.Plan.adamw(1e-3, max_steps=STEPS), mlp)

    def test_not_where_no_rule_is_known(self, mlp):
        assert not opens(plan(0.1), mlp)
        clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
        assert not opens(dataclasses.replace(plan(0.1), optimizer=clipped), mlp, STABLE)
