"""Learning rates above the largest stable one, where training settles and where it does not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntkpredict as ntp
from ntkpredict.catapult import STEPS, catapult, is_thrown
from ntkpredict.step import TrainingStep
from sde import Curve, Stability, Trajectory

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


def thrown(network, data, plan, until=None):
    step = TrainingStep(network, data, plan)
    until = until or ntp.TargetLoss(relative=0.1)
    return catapult(step, data.samples, network, plan, STABLE, until, lambda _done, _total: None)


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
        assert forecast.forecast_seconds["catapult"] > 0
        (note,) = [note for note in forecast.notes if "trained for real" in note]
        assert f"the first {STEPS} steps" in note
        assert "times the largest stable one" in note

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

    def test_a_run_that_diverges_is_said_to(self, loud, data):
        diverging = plan(0.1, loss="squared_error")
        forecast = ntp.predict(loud, data, diverging, seeds=2)
        assert forecast.reason.startswith("diverges")
        assert any("may oscillate or diverge" in note for note in forecast.notes)

    def test_a_budget_trains_on(self, loud, data):
        forecast = ntp.predict(
            loud, data, plan(0.1), ntp.TargetLoss(relative=0.01), budget=0.5, seeds=2
        )
        assert forecast.pilot.clock == pytest.approx(1, abs=0.3)


class TestCatapult:
    def test_leaves_the_rest_of_the_plan(self, loud, data):
        found = thrown(loud, data, plan(0.1, schedule="cosine"))
        assert found.rest.max_steps == 200 - STEPS
        np.testing.assert_allclose(
            rates(found.rest.optimizer, 5), rates(plan(0.1, schedule="cosine").optimizer, 25)[20:]
        )
        assert found.until.evaluations(100).size == 0
        assert str(found.until) == "loss<=0.1x"

    def test_is_none_where_training_diverges(self, loud, data):
        assert thrown(loud, data, plan(0.1, loss="squared_error")) is None

    def test_is_none_where_weights_are_lost(self, data):
        """A ReLU may hide that they are not numbers any more."""
        body = np.ones((problems.INPUTS, 4), np.float32)
        params = {"body": body, "head": {"kernel": np.ones((4, 3), np.float32)}}
        network = ntp.Network.from_function(
            lambda params, x: jnp.nan_to_num(x @ params["body"] @ params["head"]["kernel"]),
            params,
            head="head",
            name="hides",
        )
        assert thrown(network, data, dataclasses.replace(plan(0.01), optimizer=LOSES)) is None

    def test_counts_steps_from_where_it_leads(self, loud, data):
        every = ntp.EarlyStopping(3, every=4)
        found = thrown(loud, data, plan(0.1), every)
        np.testing.assert_array_equal(found.until.evaluations(10), [4, 8])
        assert set(every.evaluations(STEPS)) <= set(found.trajectory.steps)
        end = found.trajectory.validation.loss[:, -1:]
        steps = np.arange(0, 181, 4)
        rising = np.repeat(end, len(steps), axis=1) + 100.0 + steps
        later = Trajectory(steps, Curve(rising, rising), Curve(rising, rising))
        (stop,) = found.until.steps(later)
        assert stop == every.steps(found.trajectory.then(later))[0] - STEPS


def rates(optimizer, count):
    """What a gradient of one moves a weight by, step by step."""
    weight, moves = jnp.zeros(()), []
    state = optimizer.init(weight)
    for _ in range(count):
        update, state = optimizer.update(jnp.ones(()), state, weight)
        moves.append(float(update))
    return moves


class TestIsThrown:
    def test_above_the_largest_stable_rate(self, mlp):
        assert is_thrown(STABLE, mlp, plan(0.06))
        assert not is_thrown(STABLE, mlp, plan(0.04))

    def test_not_where_only_the_head_trains(self, frozen_mlp, linear):
        assert not is_thrown(STABLE, frozen_mlp, plan(0.06))
        assert not is_thrown(STABLE, linear, plan(0.06))

    def test_not_where_a_warm_up_comes_first(self, mlp):
        warm = optax.sgd(optax.linear_schedule(0.0, 0.1, 100))
        assert not is_thrown(STABLE, mlp, dataclasses.replace(plan(0.1), optimizer=warm))

    def test_not_where_there_are_no_steps_to_spare(self, mlp):
        assert not is_thrown(STABLE, mlp, dataclasses.replace(plan(0.1), max_steps=STEPS))

    def test_not_where_no_rule_is_known(self, mlp):
        assert not is_thrown(None, mlp, plan(0.1))
        assert not is_thrown(STABLE, mlp, ntp.Plan.adamw(1.0))
