import dataclasses
from typing import NamedTuple

import jax
import numpy as np
import pytest

import ntkpredict as ntp
from linearize import Identity
from ntkpredict.data import subset_index
from ntkpredict.simulation import Simulation, layers
from sde import Diffusion, Problem, Replay, Spectral, extrapolate, log_grid, stability

PLAN = ntp.Plan.sgd(0.02, batch_size=4, max_steps=30, loss="squared_error", seed=7)


def silent(_done, _total):
    """No progress bar."""


@pytest.fixture
def build(linear, data):
    """A simulation and its problem."""

    def build(network=linear, data=data, plan=PLAN, samples=512, seeds=3, mode="linear"):
        until = ntp.TargetLoss(relative=0.1)
        simulation = Simulation(network, data, plan, 3, samples, seeds, until)
        return simulation, simulation.problem(mode, Identity(), silent)

    return build


class TestProblem:
    def test_is_that_of_the_plan(self, build):
        _, problem = build()
        assert isinstance(problem, Problem)
        assert problem.objective == PLAN.objective
        assert problem.optimizer is PLAN.optimizer
        assert problem.batch_size == PLAN.batch_size
        assert problem.seeds == (7, 8, 9)
        assert problem.sampling == "epochs"

    @pytest.mark.parametrize("mode", ["linear", "head_exact"])
    def test_begins_where_the_network_is(self, build, linear, data, mode):
        _, problem = build(mode=mode)
        splits = (data.train, data.validation)
        for examples, (inputs, labels) in zip(problem.sets, splits, strict=True):
            outputs = linear.apply(linear.params, inputs)
            np.testing.assert_allclose(
                examples.model(examples.model.initial()), outputs, rtol=1e-5, atol=1e-6
            )
            np.testing.assert_array_equal(examples.targets, np.eye(3)[labels])

    def test_both_sets_share_their_parameters(self, build):
        _, problem = build(mode="head_exact")
        train, validation = (examples.model.initial() for examples in problem.sets)
        jax.tree.map(np.testing.assert_array_equal, train, validation)

    @pytest.mark.parametrize(
        ("asked", "batch_size", "train", "validation"),
        [
            (512, 4, 48, 24),  # all there are
            (48, 4, 48, 12),
            (24, 4, 24, 6),
            (25, 4, 24, 6),  # an even number, so that it has halves
            (2, 4, 16, 2),  # four batches at least
            (2, 1, 4, 2),
            (24, 48, 48, 6),
            (24, 13, 48, 6),
        ],
    )
    def test_looks_at_so_many_samples(self, build, data, asked, batch_size, train, validation):
        plan = dataclasses.replace(PLAN, batch_size=batch_size)
        _, problem = build(plan=plan, samples=asked)
        assert problem.samples == train
        assert problem.validation.model.samples == validation
        labels = data.train[1][subset_index(48, train)]
        np.testing.assert_array_equal(problem.train.targets, np.eye(3)[labels])

    def test_without_validation(self, build, training_data):
        _, problem = build(data=training_data)
        assert problem.validation is None
        assert problem.sets == [problem.train]


class TestGrid:
    def test_has_the_points_that_the_rule_needs(self, linear, data):
        rule = ntp.EarlyStopping(2, every=7) | ntp.TargetLoss(relative=0.1)
        simulation = Simulation(linear, data, PLAN, 3, 512, 1, rule)
        problem = simulation.problem("head_exact", None, silent)
        found = simulation.solve(Replay(), problem, silent)
        grid = np.union1d(log_grid(30), [7, 14, 21, 28])
        np.testing.assert_array_equal(found.steps, grid)
        real = ntp.train(linear, data, PLAN, rule).trajectory
        np.testing.assert_array_equal(real.steps, grid[: len(real.steps)])
        np.testing.assert_allclose(
            found.train.loss[0, : len(real.steps)], real.train.loss[0], rtol=1e-4
        )

    @pytest.mark.parametrize("rule", [ntp.MaxSteps(5), ntp.Best(), ntp.TargetLoss(1.0)], ids=str)
    def test_is_the_usual_one_else(self, linear, data, rule):
        simulation = Simulation(linear, data, PLAN, 3, 512, 1, rule)
        np.testing.assert_array_equal(simulation.grid, log_grid(30))


class Layer(NamedTuple):
    """As some frameworks keep their parameters."""

    kernel: np.ndarray
    bias: np.ndarray


ONE = np.ones((2, 2), np.float32)


class TestGrowing:
    @pytest.fixture
    def grown(self, build, mlp):
        def grown(stable=None, network=mlp, **options):
            simulation, problem = build(network=network, mode="head_exact", **options)
            return problem, simulation.growing(problem, stable)

        return grown

    def test_is_the_same_training_from_the_pretrained_features(self, grown, mlp):
        problem, growing = grown()
        assert dataclasses.replace(growing, growth=None) == problem
        model = problem.train.model
        features = model.features_initial @ model.directions
        np.testing.assert_allclose(growing.growth.origin, features, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(growing.growth.bound, [np.inf])

    def test_is_bounded_by_what_is_stable(self, grown):
        plan = ntp.Plan.sgd(0.02, batch_size=4, max_steps=30, schedule="cosine")
        problem, _ = grown(plan=plan)
        stable = stability(problem, 30)
        assert stable.margin > 2
        _, growing = grown(stable, plan=plan)
        bound = growing.growth.bound
        assert bound.shape == (30,)
        assert bound[0] == pytest.approx(stable.margin, rel=1e-3)
        assert (np.diff(bound) > 0).all()  # as the rate falls

    @pytest.mark.parametrize(
        ("body", "depth"),
        [
            ({"a": {"kernel": ONE, "bias": ONE}, "b": {"kernel": ONE, "bias": ONE}}, 2),
            ({"a/conv": {"w": ONE, "b": ONE}, "norm": {"gamma": ONE, "beta": ONE}}, 2),
            ([Layer(ONE, ONE), Layer(ONE, ONE), Layer(ONE, ONE)], 3),
            ((ONE, ONE), 2),
            (ONE, 1),
            ({"only": {"bias": ONE}}, 1),
            ({}, 1),
        ],
        ids=["flax", "haiku", "attributes", "tuple", "array", "bias", "nothing"],
    )
    def test_counts_the_layers_that_train(self, body, depth):
        assert layers(body) == depth

    @pytest.mark.parametrize(("trainable", "depth"), [(None, 2), (["body/1", "head/*"], 1)])
    def test_counts_no_frozen_layers(self, grown, mlp, trainable, depth):
        body = [mlp.params["body"], np.eye(8, dtype=np.float32)]
        deeper = ntp.Network.from_function(
            lambda params, x: mlp.apply(
                {**params, "body": params["body"][0] @ params["body"][1]}, x
            ),
            {**mlp.params, "body": body},
            head="head",
            trainable=trainable,
        )
        assert grown(network=deeper)[1].growth.depth == depth

    def test_a_frozen_head_is_refused(self, build, refused):
        simulation, problem = build(mode="linear")
        with refused("problem: got a model with a frozen head; expected mode='head_exact'"):
            simulation.growing(problem, None)


class TestSolve:
    @pytest.mark.parametrize("solver", [Replay(), Diffusion(), Spectral()], ids=lambda s: s.name)
    def test_all_samples_are_solved_as_they_are(self, build, solver):
        simulation, problem = build()
        found = simulation.solve(solver, problem, silent)
        expected = solver.solve(problem, log_grid(PLAN.max_steps))
        np.testing.assert_array_equal(found.steps, log_grid(PLAN.max_steps))
        np.testing.assert_array_equal(found.train.loss, expected.train.loss)
        np.testing.assert_array_equal(found.validation.loss, expected.validation.loss)

    @pytest.mark.parametrize("solver", [Replay(), Diffusion(), Spectral()], ids=lambda s: s.name)
    def test_some_samples_are_extrapolated_to_all(self, build, solver):
        simulation, problem = build(samples=24)
        found = simulation.solve(solver, problem, silent)
        grid = log_grid(PLAN.max_steps)
        expected = extrapolate(solver, problem, 48, grid)
        np.testing.assert_array_equal(found.train.loss, expected.train.loss)
        np.testing.assert_array_equal(found.validation.loss, expected.validation.loss)
        assert (found.train.loss != solver.solve(problem, grid).train.loss).any()

    def test_replay_of_all_samples_is_the_real_run(self, build, linear, data):
        simulation, problem = build()
        found = simulation.solve(Replay(), problem, silent)
        for row, seed in enumerate(problem.seeds):
            real = ntp.train(linear, data, dataclasses.replace(PLAN, seed=seed)).trajectory
            np.testing.assert_allclose(found.train.loss[row], real.train.loss[0], rtol=1e-4)

    def test_the_problem_can_be_begun_elsewhere(self, build):
        """From where training stands after some steps it goes on with the loss it had."""
        simulation, problem = build()
        params = jax.tree.map(lambda leaf: leaf + 0.1, problem.train.model.initial())
        start = simulation.solve(Replay(), problem.at(params), silent).train.loss[:, 0]
        losses = problem.train.losses(params, problem.objective)
        np.testing.assert_allclose(start, losses.mean(), rtol=1e-5)
