"""First steps trained for real: under Adam, and where the learning rate is unstable."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntkpredict as ntp
from linearize import Identity, linearize
from ntkpredict.opening import CATAPULT, MOST, STEPS, evaluations, opens, train_opening
from ntkpredict.step import TrainingStep
from sde import Stability, as_gradient_descent

from . import problems

LOSES = optax.scale(jnp.nan)
"""Moves to where nothing is a number."""

STABLE = Stability(0.1, 0.1, 0.05, 0.0, 40.0)


def opening(network, data, plan, until=None, budget=None):
    step = TrainingStep(network, data, plan)
    until = until or ntp.TargetLoss(relative=0.1)
    return train_opening(step, data.samples, network, plan, until, silent, budget)


def silent(_done, _total):
    """No progress bar."""


class TestOpening:
    def test_leads_away_from_the_network(self, loud, data):
        found = opening(loud, data, problems.plain(0.1))
        moved = jax.tree.map(jnp.subtract, found.network.params, loud.params)
        assert all(leaf.any() for leaf in jax.tree.leaves(moved))
        assert found.steps == CATAPULT

    def test_a_rule_has_its_evaluations(self, loud, data):
        every = ntp.EarlyStopping(3, every=4)
        found = opening(loud, data, problems.plain(0.1), every)
        assert {4, 8, 12, 16, 20} <= set(found.trajectory.steps)
        np.testing.assert_array_equal(found.trajectory.steps, evaluations(every, CATAPULT))

    def test_goes_on_until_the_loss_comes_down(self, mlp, data):
        warm = optax.adam(optax.linear_schedule(0.0, 0.01, 1000))
        found = opening(mlp, data, ntp.Plan(warm, batch_size=8, max_steps=1000))
        losses = found.trajectory.train.loss[0] / found.trajectory.train.loss[0, 0]
        assert STEPS < found.steps < MOST
        assert losses[-1] <= 0.8
        assert (losses[:-1] > 0.8).all()

    @pytest.mark.parametrize(("max_steps", "steps"), [(1000, MOST), (200, 100), (100, STEPS)])
    def test_ends_where_the_loss_does_not_come_down(self, mlp, data, max_steps, steps):
        still = ntp.Plan.adamw(1e-7, batch_size=8, max_steps=max_steps)
        assert opening(mlp, data, still).steps == steps

    def test_gradient_descent_waits_for_its_end(self, loud, data):
        """Then it moves as if it had been there all the time: its moments and schedule go on."""
        given = ntp.Plan.sgd(0.1, schedule="cosine", max_steps=200)
        found = opening(loud, data, given)
        params = linearize(found.network, data.train[0], Identity()).initial()
        waiting = found.resumed(given, params, Identity())
        moves, own = (moves_of(each.optimizer, 40) for each in (waiting, given))
        np.testing.assert_array_equal(moves[:CATAPULT], 0)
        np.testing.assert_allclose(moves[CATAPULT:], own[CATAPULT:], rtol=1e-6)

    def test_gradient_descent_that_waits_is_known_as_such(self, loud, data):
        found = opening(loud, data, problems.plain(0.1))
        params = linearize(found.network, data.train[0], Identity()).initial()
        descent = ntp.Plan(optax.sgd(0.1, momentum=0.9))
        waiting = as_gradient_descent(found.resumed(descent, params, Identity()).optimizer, 50)
        assert waiting.momentum == pytest.approx(0.9)
        np.testing.assert_allclose(waiting.learning_rate, 0.1 * (np.arange(50) >= CATAPULT))

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
        found = opening(loud, data, problems.plain(0.1, loss="squared_error"))
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
        found = opening(network, data, dataclasses.replace(problems.plain(0.01), optimizer=LOSES))
        assert found.lost
        assert not found.settled
        assert not found.begins(ntp.Plan.adamw(0.01))

    def test_is_a_place_to_linearise_under_adam(self, loud, data):
        found = opening(loud, data, problems.plain(0.01))
        assert found.begins(ntp.Plan.adamw(0.01))
        assert not found.begins(problems.plain(0.01))


def moves_of(optimizer, count):
    """What a gradient of one moves a weight by, step by step."""
    weight, moves = jnp.ones(()), []
    state = optimizer.init(weight)
    for _ in range(count):
        update, state = optimizer.update(jnp.ones(()), state, weight)
        moves.append(float(update))
    return moves


class TestOpens:
    def test_above_the_largest_stable_rate(self, mlp):
        assert opens(problems.plain(0.06), mlp, STABLE)
        assert not opens(problems.plain(0.04), mlp, STABLE)

    def test_under_adam(self, mlp):
        assert opens(ntp.Plan.adamw(1e-3), mlp)

    def test_not_where_only_the_head_trains(self, frozen_mlp, linear):
        for network in (frozen_mlp, linear):
            assert not opens(problems.plain(0.06), network, STABLE)
            assert not opens(ntp.Plan.adamw(1e-3), network)

    def test_not_where_a_warm_up_comes_first(self, mlp):
        warm = optax.sgd(optax.linear_schedule(0.0, 0.1, 100))
        assert not opens(dataclasses.replace(problems.plain(0.1), optimizer=warm), mlp, STABLE)

    def test_not_where_there_are_no_steps_to_spare(self, mlp):
        assert not opens(dataclasses.replace(problems.plain(0.1), max_steps=CATAPULT), mlp, STABLE)
        assert not opens(ntp.Plan.adamw(1e-3, max_steps=STEPS), mlp)

    def test_not_where_no_rule_is_known(self, mlp):
        assert not opens(problems.plain(0.1), mlp)
        clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
        assert not opens(dataclasses.replace(problems.plain(0.1), optimizer=clipped), mlp, STABLE)
