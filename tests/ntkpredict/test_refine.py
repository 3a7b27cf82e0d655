import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntkpredict as ntp
from ntkpredict import refine
from ntkpredict.refine import WeightPath, follow, measured
from ntkpredict.simulation import Simulation
from sde import Replay, stability
from sde.growth import RATE, change

from . import problems

ENOUGH = 1e9
PLAN = ntp.Plan.sgd(0.05, momentum=0.5, batch_size=8, max_steps=60)
LOSS = optax.softmax_cross_entropy_with_integer_labels


def silent(_done, _total):
    """No progress bar."""


def identity(x):
    return x


def layers(*widths, activation=identity, scale=1.0, head=1.0, trainable=None):
    """Layers without biases, of small weights, and a head."""
    random = np.random.default_rng(4)
    sizes = [problems.INPUTS, *widths]
    body = {
        str(i): (scale / before**0.5 * random.normal(size=(before, after))).astype(np.float32)
        for i, (before, after) in enumerate(zip(sizes, widths, strict=False))
    }
    last = random.normal(size=(widths[-1], problems.CLASSES)) * head / widths[-1] ** 0.5
    bias = np.zeros(problems.CLASSES, np.float32)

    def evaluate(params, x):
        for kernel in params["body"].values():
            x = activation(x @ kernel)
        return x @ params["head"]["kernel"] + params["head"]["bias"]

    params = {"body": body, "head": {"kernel": last.astype(np.float32), "bias": bias}}
    return ntp.Network.from_function(
        evaluate, params, head="head", trainable=trainable, name="layers"
    )


LINEAR_BODY = layers(4)
"""Four directions are all of its feature space, so the tangent model is the network itself."""

TWO_LAYERS = layers(6, 6, scale=0.5)
"""A linear function whose kernel grows by the scale of its layers."""


def prepare(network, data, plan, *, samples=512, bounded=False):
    """A simulation of one minibatch order and its problem, with a kernel that grows."""
    simulation = Simulation(network, data, plan, 3, samples, 1, ntp.MaxSteps(1))
    problem = simulation.problem("head_exact", None, silent)
    stable = stability(problem, plan.max_steps) if bounded else None
    return simulation, simulation.growing(problem, stable)


def frozen(problem):
    """The same with a frozen kernel."""
    return dataclasses.replace(problem, growth=None)


def solved(simulation, *problems):
    """The losses of each."""
    return [simulation.solve(Replay(), problem, silent).train.loss for problem in problems]


def walk(network, data, plan, budget=ENOUGH, **options):
    """The path alone."""
    simulation, problem = prepare(network, data, plan, **options)
    return simulation.follow(problem, budget, silent)


def real_losses(network, data, plan):
    """Of a real run in the same minibatch order, after every step."""
    steps = np.arange(plan.max_steps + 1)
    return ntp.train(network, data, plan, evaluations=steps).trajectory.train.loss[0]


def assert_is_a_path(path, plan):
    """It goes on from step 0, and all of its numbers are numbers."""
    assert path.steps[0] == 0
    assert (np.diff(path.steps) > 0).all()
    assert path.steps[-1] <= plan.max_steps
    assert (path.growth[0], path.kept[0], path.formed[0]) == (1, 1, 0)
    assert path.predicted[0] == path.real[0]
    for values in (path.growth, path.predicted, path.real, path.kept, path.formed):
        assert values.shape == path.steps.shape
        assert np.isfinite(values).all()
        assert values is path.kept or (values[1:] > 0).all()
    assert 0.1 < path.rate < 10


def rising_then_resting(peak):
    """No learning from step 35 on: a schedule that lags shows."""
    parts = [optax.linear_schedule(0.0, peak, 15), optax.constant_schedule(peak)]
    return optax.join_schedules([*parts, optax.constant_schedule(0.0)], [15, 35])


PLANS = (
    ntp.Plan.sgd(0.01, momentum=0.5, batch_size=8, max_steps=60),
    ntp.Plan.sgd(
        *(0.02,), momentum=0.5, nesterov=True, weight_decay=0.1, batch_size=7, max_steps=60
    ),
    ntp.Plan.adamw(0.01, weight_decay=0.1, schedule="cosine", batch_size=8, max_steps=60),
    ntp.Plan(optax.sgd(rising_then_resting(0.05), 0.5), 8, 60, name="sgd, rests"),
    ntp.Plan(
        optax.inject_hyperparams(optax.adam)(rising_then_resting(0.02)),
        *(8, 60),
        name="injected adam, rests",
    ),
    ntp.Plan(
        optax.chain(optax.clip_by_global_norm(0.3), optax.sgd(rising_then_resting(0.3))),
        *(8, 60),
        name="clipping, rests",
    ),
)


@pytest.fixture(scope="module", params=PLANS, ids=lambda plan: plan.name)
def case(request, data):
    """A plan, a simulation with its problem, and the path."""
    simulation, problem = prepare(LINEAR_BODY, data, request.param)
    return request.param, simulation, problem, simulation.follow(problem, ENOUGH, silent)


class TestWhereTheBodyIsLinear:
    """There is nothing to correct: the kernel stays, and the weights arrive where training does."""

    def test_the_kernel_does_not_grow(self, case):
        plan, _, _, path = case
        assert_is_a_path(path, plan)
        assert len(path.steps) > 4
        assert path.steps[-1] == plan.max_steps
        np.testing.assert_allclose(path.growth, 1, atol=1e-4)
        assert path.formed.max() > 0.3  # though features do form
        assert path.rate == pytest.approx(RATE, rel=1e-3)

    def test_the_weights_are_where_they_are_expected(self, case):
        _, _, _, path = case
        np.testing.assert_allclose(path.real, path.predicted, rtol=0.1)
        assert path.gap == np.median(np.abs(path.real / path.predicted - 1)[1:])
        assert path.gap < 0.05

    def test_the_weights_are_where_training_leads_them(self, case, data):
        plan, _, _, path = case
        real = real_losses(LINEAR_BODY, data, plan)
        assert real[-1] < 0.6 * real[0]
        np.testing.assert_allclose(path.real, real[path.steps], rtol=0.15)
        if "rests" in plan.name:
            np.testing.assert_array_equal(path.real[path.steps >= 40], path.real[-1])

    def test_the_forecast_stays(self, case):
        _, simulation, problem, path = case
        still, grown = solved(simulation, frozen(problem), measured(problem, path))
        np.testing.assert_allclose(grown, still, rtol=1e-4)

    def test_an_error_of_the_projection_does_not_look_like_growth(self, data):
        """A Jacobian twice as large as it should be, to begin with."""
        plan = dataclasses.replace(PLAN, optimizer=optax.sgd(0.01), max_steps=30)
        simulation, problem = prepare(LINEAR_BODY, data, plan)
        model = problem.train.model
        wrong = dataclasses.replace(model, jacobian=2 * model.jacobian)
        problem = dataclasses.replace(problem, train=problem.train._replace(model=wrong))
        path = simulation.follow(problem, ENOUGH, silent)
        assert len(path.steps) > 2
        np.testing.assert_allclose(path.growth, 1, atol=1e-4)

    def test_the_bias_of_the_head_comes_along(self, data):
        """One class alone: the bias learns most of it."""
        inputs, labels = data.train
        centred = ntp.Data((inputs - inputs.mean(axis=0), np.zeros_like(labels)))
        plan = dataclasses.replace(PLAN, optimizer=optax.sgd(0.05), max_steps=40)
        path = walk(LINEAR_BODY, centred, plan)
        real = real_losses(LINEAR_BODY, centred, plan)
        assert len(path.steps) > 3
        np.testing.assert_allclose(path.real, real[path.steps], rtol=0.06)


FORMING = (
    ntp.Plan.sgd(0.02, momentum=0.5, batch_size=8, max_steps=140),
    ntp.Plan.adamw(0.005, weight_decay=0.0, batch_size=8, max_steps=80),
)


@pytest.fixture(scope="module", params=FORMING, ids=lambda plan: plan.name)
def forming(request, data):
    """A plan, a simulation with its problem, and the path, where features form."""
    simulation, problem = prepare(TWO_LAYERS, data, request.param)
    return request.param, simulation, problem, simulation.follow(problem, ENOUGH, silent)


class TestWhereFeaturesForm:
    def test_the_forecast_is_corrected(self, forming, data):
        """Most of it by the law alone; the path adds little here, where all is as it has it."""
        plan, simulation, problem, path = forming
        assert_is_a_path(path, plan)
        assert path.growth[-1] > 3
        until = ntp.TargetLoss(relative=0.25)
        real = ntp.train(TWO_LAYERS, data, plan, until).steps
        still, grown, seen = (
            until.steps(simulation.solve(Replay(), given, silent))[0]
            for given in (frozen(problem), problem, measured(problem, path))
        )
        assert still > 1.3 * real
        assert abs(grown - real) < 0.6 * abs(still - real)
        assert seen == pytest.approx(real, rel=0.17)
        assert abs(seen - real) < abs(grown - real)

    def test_growth_follows_from_the_features(self, forming):
        plan, _, problem, path = forming
        law = measured(problem, path).growth.squared(path.kept, path.formed)
        if "adamw" in plan.name:  # updates go by the root of the mean square since the start
            mean = [np.interp(np.arange(step + 1), path.steps, law).mean() for step in path.steps]
            law = law / np.sqrt(mean)
        np.testing.assert_allclose(path.growth, law, rtol=0.5)

    def test_features_are_those_of_the_real_weights(self, forming, data):
        """At the end of a real run."""
        plan, _, problem, path = forming
        body = ntp.train(TWO_LAYERS, data, plan).params["body"]
        features = data.train[0] @ body["0"] @ body["1"] @ problem.train.model.directions
        kept, formed = map(float, change(problem.growth.origin, features))
        assert path.steps[-1] == plan.max_steps
        assert path.kept[-1] == pytest.approx(kept, abs=0.5)
        assert path.formed[-1] == pytest.approx(formed, rel=0.15)

    @pytest.mark.parametrize("forming", FORMING[:1], indirect=True, ids=["sgd"])
    def test_growth_is_that_of_the_real_gradients(self, forming, data):
        """The body's squared gradient at the end of a real run, over that of the same residuals
        pulled back through the weights at its start."""
        plan, *_, path = forming
        inputs, labels = data.train
        end = ntp.train(TWO_LAYERS, data, plan).params
        probabilities = jax.nn.softmax(TWO_LAYERS.apply(end, inputs))
        residuals = (probabilities - np.eye(3)[labels]) @ end["head"]["kernel"].T

        def features(body, x):
            return x @ body["0"] @ body["1"]

        def square(body):
            parts = zip(np.split(inputs, 6), np.split(residuals, 6), strict=True)  # batches of 8
            gradients = [
                jax.vjp(lambda body, x=x: features(body, x), body)[1](part)[0] for x, part in parts
            ]
            mean = jax.tree.map(lambda *leaves: sum(leaves), *gradients)
            return sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(mean))

        expected = square(end["body"]) / square(TWO_LAYERS.params["body"])
        assert expected > 5
        assert path.growth[-1] == pytest.approx(expected, rel=0.25)

    def test_through_predict(self, data):
        plan, until = FORMING[0], ntp.TargetLoss(relative=0.25)
        real = ntp.train(TWO_LAYERS, data, plan, until)
        phases = {}

        def report(phase):
            phases[phase] = []
            return lambda done, total: phases[phase].append((done, total))

        law, seen = (
            ntp.predict(TWO_LAYERS, data, plan, until, budget=budget, seeds=1, report=report)
            for budget in (0.0, 2.0)
        )
        assert law.path is None
        assert law.kernel == seen.kernel == "growing"
        assert law.solver == seen.solver == "replay"
        assert seen.forecast_seconds.keys() - law.forecast_seconds.keys() == {
            "path of the weights",
            "second simulation",
        }
        assert phases["following the weights"][-1] == (seen.path.steps[-1], plan.max_steps)
        spent, run_passes = seen.path.forward_passes, 3 * 8 * law.steps
        assert 0 < spent <= 2 * run_passes
        assert (law.steps, seen.steps) == pytest.approx((real.steps, real.steps), rel=0.2)
        assert seen.stopping_times.shape == (41,)

    def test_a_short_path_does_no_harm(self, data):
        """One measurement moves the rate little, and a steady run stays one."""
        plan = ntp.Plan.sgd(0.05, momentum=0.5, batch_size=8, max_steps=1000)
        until = ntp.TargetLoss(relative=0.02)
        simulation, problem = prepare(TWO_LAYERS, data, plan, bounded=True)
        path = simulation.follow(problem, 1200.0, silent)
        assert len(path.steps) == 2
        assert 0.5 < path.rate < 2
        still, seen = (
            simulation.solve(Replay(), given, silent)
            for given in (frozen(problem), measured(problem, path))
        )
        assert not seen.diverged.any()
        real = ntp.train(TWO_LAYERS, data, plan, until).steps
        assert abs(until.steps(seen)[0] - real) < 0.5 * abs(until.steps(still)[0] - real)


@pytest.fixture(scope="module")
def beginning(data):
    """A path that has not begun."""
    _, problem = prepare(TWO_LAYERS, data, PLAN)
    return refine._Walk(TWO_LAYERS, problem, data.train[0], PLAN.max_steps)


class TestRate:
    """c by the features along the path and the growth measured there."""

    @pytest.fixture
    def walk(self, beginning):
        return copy.copy(beginning)

    def rate(self, walk, *marks):
        """From (step, growth, kept, formed)."""
        walk._marks = [(0, 1.0, 1.0, 0.0, 3.0, 3.0), *((*mark, 2.0, 2.0) for mark in marks)]
        return walk._rate()

    @pytest.mark.parametrize("count", [1, 4, 1000])
    @pytest.mark.parametrize("ratio", [0.5, 3.0])
    def test_is_the_mean_of_the_prior_and_the_measurements(self, walk, count, ratio):
        """With γ = √c·b, where nothing pretrained is left, log c is a regression by least squares;
        many measurements outweigh what is known from other tasks."""
        formed = np.linspace(1, 6, count)
        marks = zip(np.arange(count) + 1, ratio * formed, np.zeros(count), formed, strict=True)
        weight = 0.25 * count / refine._NOISE**2
        prior = 1 / refine._SPREAD**2
        expected = weight * 2 * np.log(ratio) / (weight + prior)
        assert np.log(self.rate(walk, *marks)) == pytest.approx(expected, abs=1e-3)

    def test_is_the_prior_where_the_pretrained_features_are_all(self, walk):
        assert self.rate(walk, (9, 3.0, 1.7, 0.0)) == pytest.approx(RATE, rel=1e-3)

    def test_is_the_prior_beyond_the_edge_of_stability(self, walk):
        """There growth tells nothing of the features."""
        walk._growth = dataclasses.replace(walk._growth, bound=np.array([1e9, 2.0]))
        assert self.rate(walk, (9, 2.0, 0.0, 30.0)) == pytest.approx(RATE, rel=1e-3)
        assert self.rate(walk, (9, 2.0, 0.0, 1.0)) > 1.1

    def test_of_a_coordinate_wise_optimizer_goes_by_the_growth_since_the_start(self, walk):
        """A growth of 4 that lasts is one of 4/√4 for updates that are divided by it."""
        walk._scaled = True
        steps = np.array([10, 10_000, 20_000, 30_000])
        assert self.rate(walk, *((step, 2.0, 0.0, 4.0) for step in steps[1:])) == pytest.approx(
            RATE, rel=0.01
        )

    def test_is_what_the_problem_gets(self, data):
        _, problem = prepare(TWO_LAYERS, data, PLAN)
        path = WeightPath(np.array([0]), *np.ones((5, 1)), rate=0.7, forward_passes=0.0)
        grown = measured(problem, path)
        assert grown.growth == dataclasses.replace(problem.growth, rate=0.7)
        assert grown == dataclasses.replace(problem, growth=grown.growth)


class TestBudget:
    """48 samples in batches of 8: a stretch costs 48 + 8·48 + 3·8·10, the first one 3·48 more."""

    STRETCH, FIRST = 672, 816

    @pytest.mark.parametrize("budget", [0.0, 815.9])
    def test_where_it_pays_for_nothing_there_is_nothing(self, data, budget):
        path = walk(LINEAR_BODY, data, PLAN, budget)
        np.testing.assert_array_equal(path.steps, [0])
        np.testing.assert_array_equal(path.growth, [1.0])
        inputs, labels = data.train
        loss = LOSS(LINEAR_BODY.apply(LINEAR_BODY.params, inputs), labels).mean()
        np.testing.assert_allclose([*path.predicted, *path.real], loss, rtol=1e-5)
        assert path.forward_passes == 0
        assert path.gap is None
        assert path.rate == RATE

    @pytest.mark.parametrize("budget", [816.0, 1487.9, 1488.0, 2500.0])
    def test_is_kept(self, data, budget):
        path = walk(LINEAR_BODY, data, PLAN, budget)
        stretches = 1 + int((budget - self.FIRST) // self.STRETCH)
        assert len(path.steps) == 1 + stretches
        assert path.forward_passes == self.FIRST + (stretches - 1) * self.STRETCH <= budget

    @pytest.mark.parametrize("most", [128, 16])
    def test_what_it_cost_is_counted(self, data, monkeypatch, most):
        """Every pass: a backward one is two forward ones."""
        spent = []

        class Counted(refine._Passes):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                for name, cost, place in (
                    ("pullback", 3, 1),
                    ("push", 2, 1),
                    ("train", 3, 2),
                    ("features", 1, 1),
                ):
                    setattr(self, name, self.counted(getattr(self, name), cost, place))

            def counted(self, function, cost, place):
                def run(*arguments, **options):
                    spent.append(cost * len(arguments[place]))
                    return function(*arguments, **options)

                return run

        monkeypatch.setattr(refine, "_Passes", Counted)
        monkeypatch.setattr(refine, "_PULLED", most)
        monkeypatch.setattr(refine, "_MEASURED", most)
        path = walk(LINEAR_BODY, data, dataclasses.replace(PLAN, max_steps=40), 1700.0)
        assert len(path.steps) > 2
        assert sum(spent) == path.forward_passes <= 1700

    def test_progress_goes_on(self, data):
        simulation, problem = prepare(LINEAR_BODY, data, PLAN)
        calls = []
        path = simulation.follow(problem, 2000.0, lambda *call: calls.append(call))
        assert calls == [(step, PLAN.max_steps) for step in path.steps[1:]]

    @pytest.mark.parametrize("steps", [1, 3, 12])
    def test_the_path_ends_where_the_run_does(self, data, steps):
        plan = dataclasses.replace(PLAN, max_steps=steps)
        simulation, problem = prepare(TWO_LAYERS, data, plan)
        path = simulation.follow(problem, ENOUGH, silent)
        assert_is_a_path(path, plan)
        assert path.steps[-1] == steps


class TestDivergence:
    def test_from_the_start_leaves_the_start(self, data):
        plan = dataclasses.replace(PLAN, optimizer=optax.sgd(1.0, 0.5), loss="squared_error")
        assert not np.isfinite(real_losses(TWO_LAYERS, data, plan)[-1])
        path = walk(TWO_LAYERS, data, plan)
        np.testing.assert_array_equal(path.steps, [0])
        assert path.forward_passes == TestBudget.FIRST  # it was looked at
        forecast = ntp.predict(
            TWO_LAYERS, data, plan, ntp.TargetLoss(relative=0.1), budget=1.0, seeds=1
        )
        assert forecast.steps is None
        assert forecast.reason.startswith("diverges")

    @pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
    def test_on_the_way_ends_the_path(self, data, loss):
        """The rate explodes after 25 steps."""
        rate = optax.piecewise_constant_schedule(0.02, {25: 1e5})
        plan = ntp.Plan(optax.sgd(rate), 8, 60, loss)
        simulation, problem = prepare(TWO_LAYERS, data, plan, bounded=True)
        path = simulation.follow(problem, ENOUGH, silent)
        assert_is_a_path(path, plan)
        assert 10 < path.steps[-1] <= 30
        assert simulation.solve(Replay(), measured(problem, path), silent).diverged.all()

    def test_nothing_to_learn_leaves_the_start(self, data):
        """Every unit is dead: there is no gradient to compare."""
        dead = layers(4, activation=jnp.zeros_like)
        path = walk(dead, data, PLAN)
        np.testing.assert_array_equal(path.steps, [0])


class TestKinds:
    """Networks of which not everything trains, or not at once.

    Their units saturate, so their kernels grow less than the law has it: a stretch misses more.
    """

    @pytest.mark.parametrize(
        ("options", "plan", "gap"),
        [
            ({"trainable": ["body/1", "head/*"]}, PLAN, 0.05),
            ({"trainable": ["body/*", "head/kernel"]}, PLAN, 0.05),
            ({"head": 0.0}, PLAN, 0.07),
            ({"head": 0.0}, ntp.Plan.adamw(0.01, batch_size=8, max_steps=60), 0.3),
        ],
        ids=["frozen early layer", "frozen bias of the head", "head of zeros", "of zeros, adamw"],
    )
    def test_are_followed(self, data, options, plan, gap):
        network = layers(6, 6, activation=jnp.tanh, scale=0.5, **options)
        simulation, problem = prepare(network, data, plan)
        path = simulation.follow(problem, ENOUGH, silent)
        assert_is_a_path(path, plan)
        assert path.steps[-1] == plan.max_steps
        assert path.gap < gap
        assert path.rate <= RATE
        real = real_losses(network, data, plan)
        np.testing.assert_allclose(path.real, real[path.steps], rtol=0.25)
        (grown,) = solved(simulation, measured(problem, path))
        assert grown[0, -1] < 0.7 * real[0]

    def test_inputs_may_be_a_tree(self, data):
        def halve(split):
            return {"left": split[0][:, :2], "right": split[0][:, 2:]}, split[1]

        joined = ntp.Network.from_function(
            lambda params, x: TWO_LAYERS.apply(params, jnp.concatenate([*x.values()], 1)),
            TWO_LAYERS.params,
            head="head",
        )
        plan = dataclasses.replace(PLAN, max_steps=15)
        tree = ntp.Data(halve(data.train), halve(data.validation))
        one, two = walk(joined, tree, plan), walk(TWO_LAYERS, data, plan)
        np.testing.assert_allclose(one.growth, two.growth, rtol=1e-4)

    def test_a_head_alone_has_no_path(self, data):
        """And the forecast works as without a budget."""
        network = layers(4, trainable="head/*")
        path = walk(network, data, PLAN)
        np.testing.assert_array_equal(path.steps, [0])
        assert path.forward_passes == 0
        until = ntp.TargetLoss(relative=0.8)
        still, grown = (
            ntp.predict(network, data, PLAN, until, seeds=1, solver="replay", **options)
            for options in ({"kernel": "frozen"}, {"budget": 0.5})
        )
        assert grown.steps == pytest.approx(still.steps, rel=1e-5)
        np.testing.assert_array_equal(grown.path.steps, [0])

    def test_a_frozen_kernel_is_refused(self, data, refused):
        simulation, problem = prepare(LINEAR_BODY, data, PLAN)
        path = WeightPath(np.array([0]), *np.ones((5, 1)), rate=1.0, forward_passes=0.0)
        message = "problem: got a frozen kernel; expected one that grows, see Simulation.growing"
        with refused(message):
            simulation.follow(frozen(problem), ENOUGH, silent)
        with refused(message):
            measured(frozen(problem), path)

    def test_a_plain_tangent_model_is_refused(self, data, refused):
        simulation = Simulation(LINEAR_BODY, data, PLAN, 3, 512, 1, ntp.MaxSteps(1))
        problem = simulation.problem("linear", None, silent)
        with refused("problem: got a model with a frozen head; expected mode='head_exact'"):
            follow(LINEAR_BODY, problem, data.train[0], 60, ENOUGH)


def test_the_network_is_not_changed_and_the_path_is_the_same_again(mlp, data):
    before = jax.tree.map(np.array, mlp.params)
    simulation, problem = prepare(mlp, data, PLAN, samples=32)
    first, again = (simulation.follow(problem, 2000.0, silent) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, mlp.params, before)
    assert len(first.steps) > 2
    for name, value in vars(first).items():
        np.testing.assert_array_equal(getattr(again, name), value)
