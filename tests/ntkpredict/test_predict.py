import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntkpredict as ntp
from linearize import CountSketch, Identity, exact_ntk
from ntkpredict.interval import stopping_times
from ntkpredict.milestones import milestones
from ntkpredict.report.forecast_figures import forecast_figures

from .problems import assert_is_the_real_run, real_steps

FEW = CountSketch(64)
PLAN = ntp.Plan.sgd(0.05, batch_size=8, max_steps=80)


@pytest.fixture(scope="module")
def forecast(linear, data):
    """Of a network that is linear, from all of its samples; curves to the end of the budget."""
    forecast = ntp.predict(linear, data, PLAN, ntp.TargetLoss(relative=0.08), seeds=3)
    assert not any("followed" in note for note in forecast.notes)
    return forecast


class TestExactWhereTheNetworkIsLinear:
    """Then there is nothing to approximate, and the forecast is the real training."""

    def test_head_only(self, forecast, linear, data):
        assert forecast.mode == "head_exact"
        assert_is_the_real_run(forecast, linear, data, PLAN, rtol=1e-4)

    def test_its_steps_are_those_of_real_runs_in_the_same_orders(self, forecast, linear, data):
        real = real_steps(linear, data, PLAN, ntp.TargetLoss(relative=0.08), seeds=3)
        assert forecast.steps == pytest.approx(real, rel=1e-3)

    @pytest.mark.parametrize(
        "plan",
        [
            ntp.Plan.sgd(0.1, momentum=0.0, batch_size=7, max_steps=40, seed=5),
            ntp.Plan.sgd(
                0.05, nesterov=True, weight_decay=0.1, schedule="cosine", batch_size=8, max_steps=40
            ),
            ntp.Plan(optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.5)), 16, 40),
            ntp.Plan.adamw(0.05, weight_decay=0.5, schedule="cosine", batch_size=7, max_steps=40),
            ntp.Plan(optax.lion(0.02), 8, 40, name="lion"),
        ],
        ids=lambda plan: plan.description,
    )
    def test_frozen_body_whatever_the_optimizer(self, frozen_mlp, data, plan):
        forecast = ntp.predict(frozen_mlp, data, plan, ntp.MaxSteps(10), seeds=1)
        assert_is_the_real_run(forecast, frozen_mlp, data, plan, rtol=1e-4)

    def test_linear_mode(self, linear, data):
        forecast = ntp.predict(
            linear, data, PLAN, ntp.MaxSteps(10), mode="linear", projection=Identity(), seeds=1
        )
        assert forecast.mode == "linear"
        assert_is_the_real_run(forecast, linear, data, PLAN, rtol=1e-4)

    def test_network_without_head(self, linear, data):
        headless = ntp.Network.from_function(linear.function, linear.params)
        forecast = ntp.predict(
            headless, data, PLAN, ntp.MaxSteps(10), projection=Identity(), seeds=1
        )
        assert forecast.mode == "linear"
        assert_is_the_real_run(forecast, headless, data, PLAN, rtol=1e-4)

    def test_without_validation(self, linear, training_data):
        forecast = ntp.predict(linear, training_data, PLAN, ntp.MaxSteps(10), seeds=1)
        assert forecast.trajectory.validation is None
        assert_is_the_real_run(forecast, linear, training_data, PLAN, rtol=1e-4)

    def test_regression(self, linear, data):
        random = np.random.default_rng(0)
        targets = data.train[0] @ random.normal(size=(5, 3)) + 0.1 * random.normal(size=(48, 3))
        regression = ntp.Data((data.train[0], targets.astype(np.float32)))
        plan = ntp.Plan.sgd(0.01, batch_size=8, max_steps=60, loss="squared_error")
        until = ntp.TargetLoss(relative=0.2)
        forecast = ntp.predict(linear, regression, plan, until, seeds=3)
        assert_is_the_real_run(forecast, linear, regression, plan, rtol=1e-3, atol=1e-4)
        real = ntp.train(linear, regression, plan, until)
        assert forecast.steps == pytest.approx(real.steps, rel=0.15)

    def test_inputs_may_be_a_tree(self, linear, data):
        def halve(split):
            return {"left": split[0][:, :2], "right": split[0][:, 2:]}, split[1]

        network = ntp.Network.from_function(
            lambda params, x: linear.apply(params, jnp.concatenate([x["left"], x["right"]], 1)),
            linear.params,
            head="head",
        )
        tree = ntp.Data(halve(data.train), halve(data.validation))
        forecast = ntp.predict(network, tree, PLAN, ntp.MaxSteps(10), seeds=1)
        assert_is_the_real_run(forecast, linear, data, PLAN, rtol=1e-4)


def test_halving_the_learning_rate_quarters_the_error(mlp, data):
    """Over a fixed number of steps the tangent model is right to first order in the weights."""

    def error(lr):
        plan = ntp.Plan.sgd(lr, momentum=0.0, batch_size=48, max_steps=4)
        forecast = ntp.predict(
            mlp, data, plan, ntp.MaxSteps(4), mode="linear", projection=Identity(), seeds=1
        )
        real = ntp.train(mlp, data, plan).trajectory.train.loss[0]
        return np.abs(forecast.trajectory.train.loss[0] - real).max()

    coarse, fine = error(0.4), error(0.2)
    assert coarse > 1e-4  # not just rounding
    assert fine < 0.4 * coarse


def test_head_exact_follows_a_network_whose_body_trains(mlp, data):
    plan = ntp.Plan.sgd(0.02, batch_size=8, max_steps=60)
    until = ntp.TargetLoss(relative=0.5)
    forecast = ntp.predict(mlp, data, plan, until, seeds=3, projection=Identity())
    assert forecast.mode == "head_exact"
    real = ntp.train(mlp, data, plan, until)
    assert forecast.steps == pytest.approx(real.steps, rel=0.2)


@pytest.fixture(scope="module")
def wide():
    """More parameters than a projection has columns, of very different gradients."""
    random = np.random.default_rng(0)
    body = random.normal(size=(5, 600)) / 5**0.5
    kernel = 10 ** random.uniform(-2, 0, (600, 1)) * random.normal(size=(600, 3)) / 10
    params = {"body": body.astype(np.float32), "head": {"kernel": kernel.astype(np.float32)}}
    return ntp.Network.from_function(
        lambda params, x: jnp.tanh(x @ params["body"]) @ params["head"]["kernel"],
        params,
        head="head",
        name="wide",
    )


predict = partial(ntp.predict, opening=False)
"""With the tangent model of the pretrained weights."""


class TestCoordinateWise:
    """Adam and its kin: coordinates are not to be mixed, but with others of their scale."""

    PLANS = (
        ntp.Plan.adamw(0.01, weight_decay=0.1, schedule="cosine", batch_size=8, max_steps=40),
        ntp.Plan(optax.rmsprop(0.01), 8, 40, name="rmsprop"),
        ntp.Plan(optax.lion(0.005, weight_decay=0.1), 8, 40, name="lion"),
    )

    @pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
    def test_linear_mode_is_the_training_of_the_linearised_network(self, mlp, data, plan):
        """Few parameters are not projected, so there is nothing to approximate."""

        def expanded(params, x):
            moves = jax.tree.map(jnp.subtract, params, mlp.params)
            return sum(jax.jvp(lambda p: mlp.apply(p, x), (mlp.params,), (moves,)))

        linearised = ntp.Network.from_function(expanded, mlp.params)
        forecast = predict(mlp, data, plan, ntp.MaxSteps(10), mode="linear", seeds=1)
        assert forecast.solver == "replay"
        assert forecast.stability is None
        assert_is_the_real_run(forecast, linearised, data, plan, rtol=2e-3)
        # The network itself is another thing at this rate.
        real = ntp.train(mlp, data, plan).trajectory.train.loss[0, -1]
        assert abs(forecast.trajectory.train.loss[0, -1] / real - 1) > 0.01

    def test_small_steps_are_those_of_the_network(self, mlp, data):
        plan = ntp.Plan.adamw(0.0025, batch_size=8, max_steps=60)
        forecast = predict(mlp, data, plan, ntp.TargetLoss(relative=0.8), seeds=1)
        assert forecast.mode == "head_exact"
        assert_is_the_real_run(forecast, mlp, data, plan, rtol=0.03)
        loss = forecast.trajectory.train.loss[0]
        assert loss[-1] < 0.7 * loss[0]

    def test_halving_the_learning_rate_quarters_the_error(self, mlp, data):
        """Over a fixed number of steps, which at half the rate go half as far."""

        def error(lr):
            plan = ntp.Plan.adamw(lr, batch_size=48, max_steps=4)
            options = {"mode": "linear", "seeds": 1}
            forecast = ntp.predict(mlp, data, plan, ntp.MaxSteps(4), **options)
            real = ntp.train(mlp, data, plan).trajectory.train.loss[0]
            return np.abs(forecast.trajectory.train.loss[0] - real).max()

        coarse, fine = error(0.02), error(0.01)
        assert coarse > 1e-4  # not just rounding
        assert fine < 0.4 * coarse

    @pytest.mark.parametrize("mode", ["head_exact", "linear"])
    def test_projected_it_is_nearly_the_same(self, wide, data, mode):
        plan = ntp.Plan.adamw(3e-3, batch_size=8, max_steps=30)
        projections = [None, Identity()] + [CountSketch(512)] * (mode == "linear")
        found = [
            predict(
                *(wide, data, plan, ntp.MaxSteps(10)), mode=mode, projection=projection, seeds=1
            ).trajectory.train.loss[0]
            for projection in projections
        ]
        scaled, exact = found[:2]
        moved = np.abs(exact - exact[0]).max()
        assert np.abs(scaled - exact).max() < 0.05 * moved
        for other in found[2:]:  # random sums of all coordinates train too slowly
            assert np.abs(other - exact).max() > 0.2 * moved

    def test_a_rate_too_high_is_a_result(self, wide, data):
        """Though weight decay takes the head beyond all numbers."""
        plan = ntp.Plan.adamw(1e6, batch_size=8, max_steps=20)
        forecast = ntp.predict(wide, data, plan, ntp.TargetLoss(relative=0.5), seeds=1)
        assert forecast.steps is None
        assert forecast.reason.startswith("diverges: the loss ends above its start; lower the lea")

    def test_other_solvers_are_refused_with_advice(self, linear, data, refused):
        plan = ntp.Plan.adamw(0.01, batch_size=8, max_steps=5)
        for solver in ("sde", "spectral"):
            with refused(f"solver: '{solver}' needs gradient descent with momentum") as caught:
                ntp.predict(linear, data, plan, ntp.MaxSteps(5), solver=solver, seeds=1)
            assert "use solver='replay'" in str(caught.value)


class TestResult:
    def test_the_interval_holds_the_point(self, forecast):
        low, high = forecast.steps_interval
        assert 0 < low < forecast.steps < high < PLAN.max_steps
        low, high = forecast.seconds_interval
        assert 0 < low < forecast.seconds < high

    def test_says_what_was_asked(self, forecast):
        assert forecast.reason is None
        assert forecast.network == "linear"
        assert forecast.data == "points"
        assert forecast.plan == PLAN.description
        assert forecast.until == "loss<=0.08x"
        assert forecast.samples == 48
        assert forecast.versions.keys() >= {"ntkpredict", "jax", "optax"}
        assert all(isinstance(note, str) for note in forecast.notes)
        assert not any("48" in note for note in forecast.notes)

    def test_one_row_for_each_minibatch_order(self, forecast):
        shape = (3, len(forecast.trajectory.steps))
        for curve in (forecast.trajectory.train, forecast.trajectory.validation):
            assert curve.loss.shape == curve.accuracy.shape == shape
            assert ((curve.accuracy >= 0) & (curve.accuracy <= 1)).all()
        assert forecast.trajectory.steps[0] == 0
        assert forecast.trajectory.steps[-1] == PLAN.max_steps

    def test_all_rows_begin_at_the_networks_own_loss(self, forecast, linear, data):
        outputs = linear.apply(linear.params, data.train[0])
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs, data.train[1]).mean()
        np.testing.assert_allclose(forecast.trajectory.train.loss[:, 0], loss, rtol=1e-5)

    def test_the_spectrum_is_of_the_networks_kernel(self, forecast, linear, data):
        kernel = np.asarray(exact_ntk(linear, data.train[0])).reshape(144, 144) / 48
        exact = np.linalg.eigvalsh(kernel)[::-1]
        np.testing.assert_allclose(forecast.spectrum, exact, rtol=1e-3, atol=1e-5 * exact[0])

    def test_seconds_are_compiling_and_the_steps_at_the_cost_of_a_batch(self, forecast):
        cost, steps_per_epoch = forecast.cost, 48 // PLAN.batch_size
        assert forecast.seconds == cost.seconds(forecast.steps, steps_per_epoch)
        low, high = forecast.steps_interval
        assert forecast.seconds_interval == (
            cost.seconds(low, steps_per_epoch, quantile=0),
            cost.seconds(high, steps_per_epoch, quantile=2),
        )

    def test_saved_and_loaded(self, forecast, tmp_path):
        forecast.save(tmp_path / "f.json")
        assert ntp.Forecast.load(tmp_path / "f.json").to_dict() == forecast.to_dict()

    def test_a_tenth_of_the_loss_is_the_default_target(self, linear, data):
        plan = ntp.Plan.sgd(0.05, batch_size=8, max_steps=5)
        assert ntp.predict(linear, data, plan, seeds=1).until == "loss<=0.1x"

    def test_the_same_seed_gives_the_same_forecast(self, mlp, data):
        plan, until = ntp.Plan.sgd(0.05, batch_size=8, max_steps=20), ntp.TargetLoss(relative=0.9)
        first, again = (
            ntp.predict(mlp, data, plan, until, samples=32, seeds=2, projection=FEW)
            for _ in range(2)
        )
        for split in ("train", "validation"):
            one, two = getattr(first.trajectory, split), getattr(again.trajectory, split)
            np.testing.assert_array_equal(one.loss, two.loss)
            np.testing.assert_array_equal(one.accuracy, two.accuracy)
        assert first.steps == again.steps
        assert first.steps_interval == again.steps_interval

    def test_a_seed_begins_where_the_one_before_it_ends(self, forecast, linear, data):
        """The rows are the plan's own minibatch order and those of the seeds after it."""
        plan = dataclasses.replace(PLAN, seed=1)
        shifted = ntp.predict(linear, data, plan, ntp.MaxSteps(10), seeds=2)
        np.testing.assert_allclose(
            shifted.trajectory.train.loss, forecast.trajectory.train.loss[1:], rtol=1e-5
        )
        assert (forecast.trajectory.train.loss[0] != forecast.trajectory.train.loss[1]).any()

    def test_the_network_is_not_changed(self, mlp, data):
        before = jax.tree.map(np.array, mlp.params)
        plan, until = ntp.Plan.sgd(0.05, batch_size=8, max_steps=20), ntp.TargetLoss(relative=0.9)
        ntp.predict(mlp, data, plan, until, samples=32, seeds=2, projection=FEW)
        jax.tree.map(np.testing.assert_array_equal, mlp.params, before)

    def test_fewer_samples_than_there_are_make_a_note(self, linear, data):
        plan = ntp.Plan.sgd(0.05, batch_size=4, max_steps=20)
        forecast = ntp.predict(linear, data, plan, ntp.MaxSteps(20), samples=24, seeds=1)
        assert forecast.samples == 24
        assert any("24 of 48" in note for note in forecast.notes)

    def test_time_and_progress_are_reported(self, linear, data):
        now = itertools.count(0.0, 2.0)
        phases = {}

        def report(phase):
            phases[phase] = []
            return lambda done, total: phases[phase].append((int(done), int(total)))

        forecast = ntp.predict(
            linear, data, PLAN, ntp.MaxSteps(10), seeds=1, report=report, clock=lambda: next(now)
        )
        assert phases
        for calls in phases.values():
            assert [done for done, _ in calls] == sorted(done for done, _ in calls)
            assert all(0 <= done <= total for done, total in calls)
        assert any(phases.values())
        assert all(seconds >= 2 for seconds in forecast.forecast_seconds.values())
        assert forecast.cost.batch_seconds == (2.0, 2.0, 2.0)


class TestFollowed:
    """Curves end where nothing reads them any more, and no answer changes by it."""

    UNTIL = ntp.TargetLoss(relative=0.5)

    def followed(self, network, data, plan, until=UNTIL, **options):
        """The forecast, and how far it was followed but for the end of the budget."""
        ends = []

        def report(phase):
            return lambda done, _: ends.append(done) if phase == "simulating training" else None

        forecast = ntp.predict(network, data, plan, until, report=report, seeds=2, **options)
        return forecast, ends[-2]

    @pytest.mark.parametrize("samples", [48, 36])
    @pytest.mark.parametrize(
        "plan",
        [
            ntp.Plan.sgd(0.1, batch_size=8, max_steps=600),
            ntp.Plan.adamw(0.02, batch_size=12, max_steps=600),
        ],
        ids=lambda plan: plan.name,
    )
    def test_the_forecast_is_that_of_the_whole_curves(self, mlp, data, monkeypatch, plan, samples):
        ended, last = self.followed(mlp, data, plan, samples=samples)
        monkeypatch.setattr("ntkpredict.follow.horizon", lambda *_: np.inf)
        whole, end = self.followed(mlp, data, plan, samples=samples)
        assert last < 400 < end
        assert f"followed to step {last}" in ended.notes[-1]
        np.testing.assert_allclose(ended.stopping_times, whole.stopping_times, rtol=1e-5)
        np.testing.assert_allclose(ended.validity.clock, whole.validity.clock, rtol=1e-5)
        for name in ("steps", "steps_interval"):
            np.testing.assert_allclose(getattr(ended, name), getattr(whole, name), rtol=1e-5)
        for one, other in zip(milestones(ended), milestones(whole), strict=True):
            np.testing.assert_allclose(one.interval, other.interval, rtol=1e-5)
        for one, other in zip(
            forecast_figures(ended)[:2], forecast_figures(whole)[:2], strict=True
        ):
            for band, expected in zip(one.layers[:2], other.layers[:2], strict=True):
                np.testing.assert_array_equal(band.x, expected.x)
                np.testing.assert_allclose(band.low, expected.low, rtol=1e-4)
                np.testing.assert_allclose(band.high, expected.high, rtol=1e-4)

    def test_a_larger_budget_is_no_more_work(self, linear, data):
        ends = [
            self.followed(linear, data, ntp.Plan.sgd(0.1, batch_size=8, max_steps=steps))[1]
            for steps in (500, 5000)
        ]
        assert max(ends) < 200
        assert max(ends) < 1.3 * min(ends)  # the next point of another grid

    @pytest.mark.parametrize(
        "rule",
        [
            ntp.TargetLoss(1.0, on="validation"),
            UNTIL | ntp.Best(),
            UNTIL | ntp.Converged(1e-9),
            UNTIL | ntp.EarlyStopping(2, every=50),
            ntp.MaxSteps(5),
        ],
        ids=str,
    )
    def test_rules_that_read_on_have_whole_curves(self, linear, data, rule):
        plan = ntp.Plan.sgd(0.1, batch_size=8, max_steps=200)
        forecast, end = self.followed(linear, data, plan, rule)
        assert end > 150  # the grid's last point but one
        assert not any("followed" in note for note in forecast.notes)


class TestTargets:
    def test_the_forecast_holds_them(self, forecast):
        clock = forecast.validity.clock
        times = stopping_times(forecast.trajectory, ntp.TargetLoss(relative=0.08), clock)
        np.testing.assert_array_equal(forecast.stopping_times, times)
        low, high = forecast.steps_interval
        assert forecast.probability(low - 1e-6) < 0.04
        assert 0.2 < forecast.probability(forecast.steps) < 0.8
        assert forecast.probability(high) > 0.96

    def test_a_number_of_steps_through_predict(self, linear, data):
        forecast = ntp.predict(linear, data, PLAN, ntp.MaxSteps(13), seeds=1)
        assert forecast.steps == 13
        assert forecast.steps_interval == (13, 13)
        assert forecast.reason is None

    def test_not_reached_has_a_reason_and_the_loss_to_expect(self, linear, data, tmp_path):
        plan = ntp.Plan.sgd(1e-5, batch_size=8, max_steps=20)
        forecast = ntp.predict(linear, data, plan, ntp.TargetLoss(0.01), seeds=2)
        assert forecast.steps is None
        assert forecast.steps_interval is None
        assert forecast.seconds is None
        assert forecast.seconds_interval is None
        assert "20 steps" in forecast.reason
        expected = float(np.median(forecast.trajectory.train.loss[:, -1]))
        assert f"{expected:.3g}" in forecast.reason
        assert "diverge" not in forecast.reason
        forecast.save(tmp_path / "f.json")
        assert ntp.Forecast.load(tmp_path / "f.json").reason == forecast.reason

    @pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
    def test_divergence_is_called_by_its_name(self, linear, data, loss):
        labels = np.random.default_rng(0).integers(0, 3, 48)  # nothing to learn
        plan = ntp.Plan.sgd(1e6, batch_size=8, max_steps=30, loss=loss)
        random = ntp.Data((data.train[0], labels))
        forecast = ntp.predict(linear, random, plan, ntp.TargetLoss(1e-3), seeds=2)
        assert forecast.steps is None
        assert forecast.reason.startswith("diverges")
        assert "learning rate" in forecast.reason


class TestKernel:
    """Frozen, or growing as features form; how it grows is tested where it does."""

    PLAN = ntp.Plan.sgd(0.05, batch_size=8, max_steps=20)

    @pytest.mark.parametrize(
        ("options", "kernel", "solver"),
        [
            ({}, "growing", "replay"),
            ({"solver": "replay"}, "growing", "replay"),
            ({"kernel": "growing"}, "growing", "replay"),
            ({"kernel": "frozen", "solver": "replay"}, "frozen", "replay"),
            ({"solver": "sde"}, "frozen", "sde"),
            ({"mode": "linear"}, "frozen", "replay"),
        ],
        ids=str,
    )
    def test_grows_where_the_head_is_exact_and_every_step_is_replayed(
        self, mlp, data, options, kernel, solver
    ):
        forecast = ntp.predict(mlp, data, self.PLAN, ntp.MaxSteps(5), seeds=1, **options)
        assert (forecast.kernel, forecast.solver) == (kernel, solver)

    def test_a_layer_that_trains_alone_does_not_grow(self, mlp, data):
        growing, frozen = (
            ntp.predict(mlp, data, self.PLAN, ntp.MaxSteps(5), seeds=2, kernel=kernel)
            for kernel in ("growing", "frozen")
        )
        for split in ("train", "validation"):
            losses = (getattr(each.trajectory, split).loss for each in (growing, frozen))
            np.testing.assert_allclose(*losses, rtol=1e-4)
