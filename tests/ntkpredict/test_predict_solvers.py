"""Forecasts by every solver, at and beyond the limits of what is stable and allowed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntkpredict as ntp
from linearize import Identity
from sde import as_gradient_descent

from .problems import assert_is_the_real_run, real_steps

SOLVERS = ["auto", "replay", "sde", "spectral"]
CLIPPING = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.5))


def squared(lr, *, momentum=0.0, batch_size=48, max_steps=100, **options):
    """A plan whose tangent model of a linear network is a quadratic."""
    return ntp.Plan.sgd(
        lr,
        momentum=momentum,
        batch_size=batch_size,
        max_steps=max_steps,
        loss="squared_error",
        **options,
    )


def ask(network, data, plan, until, **options):
    """A forecast in linear mode, without a projection."""
    return ntp.predict(
        network, data, plan, until, **{"mode": "linear", "projection": Identity(), **options}
    )


@pytest.fixture(scope="module")
def critical(linear, data):
    """The largest stable learning rate of full-batch descent, by the spectrum of the kernel."""
    x = np.asarray(data.train[0], float)
    design = np.column_stack([x, np.ones(len(x))])  # each output sees the inputs and its bias
    return 2 / np.linalg.eigvalsh(design.T @ design / len(x))[-1]


@pytest.fixture(scope="module")
def real(linear, data):
    """Median steps of real runs to a fifth of the loss, trained once for all solvers."""

    @functools.cache
    def steps(seeds, lr, **options):
        until = ntp.TargetLoss(relative=0.2)
        return real_steps(linear, data, squared(lr, **options), until, seeds)

    return steps


class TestSolvers:
    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("momentum", [0.0, 0.9])
    def test_all_agree_at_small_noise(self, linear, data, solver, momentum, real):
        options = {"lr": 0.03 * (1 - momentum), "momentum": momentum, "batch_size": 8}
        until = ntp.TargetLoss(relative=0.2)
        forecast = ask(linear, data, squared(**options), until, solver=solver)
        assert forecast.steps == pytest.approx(real(8, **options), rel=0.04)
        low, high = forecast.steps_interval
        assert low < forecast.steps < (high or np.inf)
        assert forecast.solver == ("spectral" if solver == "auto" else solver)

    def test_exact_solvers_agree_to_rounding_on_full_batches(self, linear, data):
        plan = squared(0.01, momentum=0.9, nesterov=True, weight_decay=0.1, schedule="cosine")
        until = ntp.MaxSteps(30)  # whole curves
        curves = [
            ask(linear, data, plan, until, solver=solver, seeds=1).trajectory
            for solver in SOLVERS[1:]
        ]
        real = ntp.train(linear, data, plan).trajectory
        for curve in curves:
            np.testing.assert_allclose(curve.train.loss, real.train.loss, rtol=1e-4)
            np.testing.assert_allclose(curve.validation.loss, real.validation.loss, rtol=1e-4)
            np.testing.assert_allclose(curve.train.accuracy, real.train.accuracy, atol=0.05)

    def test_the_expectation_is_one_row_and_simulated_runs_are_one_a_seed(self, linear, data):
        plan, until = squared(0.02, batch_size=8, max_steps=10), ntp.MaxSteps(10)
        rows = {
            solver: len(
                ask(linear, data, plan, until, solver=solver, seeds=3).trajectory.train.loss
            )
            for solver in SOLVERS[1:]
        }
        assert rows == {"replay": 3, "sde": 3, "spectral": 1}

    @pytest.mark.parametrize(
        ("change", "options"),
        [
            ({"loss": "cross_entropy"}, {}),
            ({}, {"mode": "head_exact"}),
            ({"batch_size": 1}, {}),  # noise mass 0.2
            ({"optimizer": CLIPPING}, {}),
        ],
        ids=["cross_entropy", "head_exact", "noisy", "clipping"],
    )
    def test_auto_replays_where_the_spectral_solver_is_wrong(self, linear, data, change, options):
        plan = dataclasses.replace(squared(0.05, batch_size=8, max_steps=20), **change)
        forecast = ask(linear, data, plan, ntp.MaxSteps(5), **options, seeds=1)
        assert forecast.solver == "replay"
        assert_is_the_real_run(forecast, linear, data, plan, rtol=1e-4)

    def test_auto_is_right_where_a_schedule_comes_back_from_divergence(
        self, linear, data, critical
    ):
        """The rate is unstable at the start only, so the noise counts."""
        plan = squared(1.1 * critical, batch_size=8, max_steps=60, schedule="cosine")
        until = ntp.TargetLoss(relative=0.1)
        real = real_steps(linear, data, plan, until, seeds=8)
        forecast = ask(linear, data, plan, until)
        assert forecast.steps == pytest.approx(real, rel=0.04)

    def test_an_unknown_one_is_named(self, unchecked_messages):
        expression = (
            "ntp.predict(ntp.Network.from_function(lambda p, x: x @ p, np.ones((2, 2), 'f')), "
            "ntp.Data((np.eye(4, 2, dtype='f'), np.arange(4) % 2)), ntp.Plan.sgd(0.01, "
            "batch_size=2, max_steps=2), ntp.MaxSteps(1), {}={!r})"
        )
        solvers = "('auto', 'replay', 'sde', 'spectral')"
        unknown = {
            ("solver", "euler"): solvers,
            ("solver", None): solvers,
            ("kernel", "melting"): "('growing', 'frozen')",
        }
        assert unchecked_messages([expression.format(*pair) for pair in unknown]) == [
            f"ValueError: {option}: got {name!r}; expected one of {allowed}"
            for (option, name), allowed in unknown.items()
        ]

    @pytest.mark.parametrize(
        ("solver", "change", "options", "message"),
        [
            ("spectral", {"loss": "cross_entropy"}, {}, "needs loss='squared_error'"),
            ("spectral", {}, {"mode": "head_exact"}, "needs a linear tangent model; use mode='l"),
            ("spectral", {"optimizer": CLIPPING}, {}, "needs gradient descent with momentum"),
            ("sde", {"optimizer": CLIPPING}, {}, "needs gradient descent with momentum"),
            ("spectral", {"batch_size": 1}, {}, "holds up to a noise mass of 0.03, and here it "),
            (
                "sde",
                {"batch_size": 1, "optimizer": optax.sgd(0.15)},
                {},
                "holds up to a noise mass of 0.03, and here it is ",
            ),
        ],
        ids=["cross_entropy", "head_exact", "clipping", "sde_clipping", "noisy", "sde_noisy"],
    )
    def test_one_that_is_wrong_is_refused_with_advice(
        self, linear, data, refused, solver, change, options, message
    ):
        plan = dataclasses.replace(squared(0.05, batch_size=8, max_steps=20), **change)
        with refused(f"solver: {solver!r} {message}") as caught:
            ask(linear, data, plan, ntp.MaxSteps(5), solver=solver, **options, seeds=1)
        assert "use solver='replay'" in str(caught.value) or "or solver='replay'" in str(
            caught.value
        )


class TestStability:
    def test_the_largest_stable_rate_is_that_of_the_spectrum(self, linear, data, critical):
        forecast = ask(linear, data, squared(0.01), ntp.MaxSteps(5), seeds=1)
        stable = forecast.stability
        assert stable.learning_rate == pytest.approx(0.01)
        assert stable.critical_learning_rate == pytest.approx(critical, rel=1e-3)
        assert stable.margin == pytest.approx(critical / 0.01, rel=1e-3)
        assert stable.noise_mass == 0
        assert not any("learning rate" in note for note in forecast.notes)

    @pytest.mark.parametrize("options", [{}, {"mode": "head_exact"}], ids=["linear", "head_exact"])
    def test_is_of_finite_numbers_that_are_saved_and_loaded(self, linear, data, tmp_path, options):
        plan = squared(0.01, momentum=0.9, batch_size=8, max_steps=10)
        forecast = ask(linear, data, plan, ntp.MaxSteps(5), **options, seeds=1)
        values = dataclasses.asdict(forecast.stability)
        assert all(type(value) is float and 0 < value < np.inf for value in values.values())
        forecast.save(tmp_path / "f.json")
        assert ntp.Forecast.load(tmp_path / "f.json").stability == forecast.stability

    def test_momentum_makes_the_noise_louder_and_larger_rates_stable(self, linear, data, critical):
        plain, heavy = (
            ask(
                linear,
                data,
                squared(0.01, momentum=momentum, batch_size=8, max_steps=5),
                ntp.MaxSteps(5),
                seeds=1,
            ).stability
            for momentum in (0.0, 0.9)
        )
        assert heavy.critical_learning_rate == pytest.approx(1.9 * critical, rel=1e-3)
        assert heavy.noise_mass == pytest.approx(10 * plain.noise_mass, rel=1e-3)

    def test_there_is_none_for_clipping(self, linear, data, tmp_path):
        plan = ntp.Plan(CLIPPING, 16, 20)
        assert as_gradient_descent(plan.optimizer, 20) is None
        forecast = ntp.predict(linear, data, plan, ntp.MaxSteps(5), seeds=1)
        assert forecast.stability is None
        forecast.save(tmp_path / "f.json")
        assert ntp.Forecast.load(tmp_path / "f.json").stability is None

    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("momentum", [0.0, 0.9])
    def test_at_twice_the_critical_rate_it_diverges(self, linear, data, critical, solver, momentum):
        limit = (1 + momentum) * critical
        plan = squared(2 * limit, momentum=momentum)
        forecast = ask(linear, data, plan, ntp.TargetLoss(relative=0.5), solver=solver, seeds=2)
        assert forecast.steps is None
        assert forecast.steps_interval is None
        assert forecast.seconds is None
        assert forecast.reason.startswith("diverges")
        assert "2 times the largest stable" in forecast.reason
        assert f"{forecast.stability.critical_learning_rate:.3g}" in forecast.reason
        assert forecast.stability.critical_learning_rate == pytest.approx(limit, rel=1e-3)
        assert any("2 times the largest stable" in note for note in forecast.notes)

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_far_above_the_critical_rate_it_diverges(self, linear, data, critical, solver):
        plan, until = squared(1e6 * critical), ntp.TargetLoss(relative=0.5)
        forecast = ask(linear, data, plan, until, solver=solver, seeds=2)
        assert forecast.steps is None
        assert forecast.reason.startswith("diverges")

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_just_below_the_critical_rate_there_is_a_number(self, linear, data, critical, solver):
        plan, until = squared(0.9 * critical), ntp.TargetLoss(relative=0.05)
        forecast = ask(linear, data, plan, until, solver=solver, seeds=2)
        assert forecast.reason is None
        assert forecast.steps == pytest.approx(ntp.train(linear, data, plan, until).steps, rel=1e-3)
        assert forecast.stability.margin == pytest.approx(1 / 0.9, rel=1e-3)

    @pytest.mark.parametrize("mode", ["linear", "head_exact"])
    def test_too_noisy_minibatches_are_told_to_grow(self, linear, data, critical, mode):
        plan, until = squared(0.8 * critical, batch_size=1), ntp.TargetLoss(relative=1e-3)
        forecast = ask(linear, data, plan, until, mode=mode, seeds=4)
        assert forecast.stability.margin > 1
        assert forecast.stability.noise_mass > 1
        assert forecast.steps is None
        assert forecast.reason.startswith("diverges")
        assert "larger batches" in forecast.reason
        assert f"{forecast.stability.noise_mass:.2g}" in forecast.reason
        larger = dataclasses.replace(plan, batch_size=24)
        assert ask(linear, data, larger, ntp.TargetLoss(relative=0.05), mode=mode, seeds=4).steps

    def test_a_cross_entropy_that_is_unstable_is_noted(self, linear, data):
        plan = ntp.Plan.sgd(20.0, momentum=0.0, batch_size=48, max_steps=30)
        forecast = ask(linear, data, plan, ntp.MaxSteps(5), seeds=1)
        assert forecast.stability.margin < 1
        assert any("may oscillate or diverge" in note for note in forecast.notes)

    def test_a_network_without_gradients_is_not_reached(self, training_data):
        """Every unit is dead: nothing moves, at any rate."""
        params = {
            "body": np.full((5, 4), -1, np.float32),
            "head": {"kernel": np.ones((4, 3), np.float32)},
        }
        dead = ntp.Network.from_function(
            lambda params, x: jax.nn.relu(jnp.abs(x) @ params["body"]) @ params["head"]["kernel"],
            params,
            head="head",
        )
        for mode in ("linear", "head_exact"):
            plan = squared(0.01, batch_size=8, max_steps=10)
            forecast = ask(dead, training_data, plan, ntp.TargetLoss(0.1), mode=mode, seeds=1)
            assert forecast.steps is None
            assert forecast.reason.startswith("not reached within 10 steps")


class TestDivergenceOfASubset:
    """Extrapolating to all samples must not turn an explosion into a loss of zero."""

    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("share", [1.3, 2.0])
    def test_is_called_by_its_name(self, linear, data, critical, solver, share):
        plan = squared(share * critical, batch_size=4)
        until = ntp.TargetLoss(relative=0.01)
        forecast = ask(linear, data, plan, until, solver=solver, samples=24, seeds=4)
        assert forecast.samples == 24
        assert forecast.steps is None
        assert forecast.steps_interval is None
        assert forecast.reason.startswith("diverges")
        assert "times the largest stable" in forecast.reason

    def test_by_noise_is_called_by_its_name(self, linear, data, critical):
        plan = squared(0.8 * critical, batch_size=1, max_steps=200)
        until = ntp.TargetLoss(relative=1e-3)
        forecast = ask(linear, data, plan, until, samples=24, seeds=4)
        assert forecast.steps is None
        assert forecast.reason.startswith("diverges")
        assert "larger batches" in forecast.reason

    @pytest.mark.parametrize("solver", ["replay", "sde", "spectral"])
    def test_below_the_critical_rate_there_is_a_number(self, linear, data, critical, solver):
        plan, until = squared(0.05 * critical, batch_size=4), ntp.TargetLoss(relative=0.2)
        part = ask(linear, data, plan, until, solver=solver, samples=24)
        assert part.steps == pytest.approx(ask(linear, data, plan, until).steps, rel=0.25)


class TestExtremes:
    """The least and the most that is allowed, with every solver."""

    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("batch_size", [8, 48])
    def test_one_seed_and_one_step(self, linear, data, solver, batch_size):
        plan = squared(0.01, momentum=0.9, batch_size=batch_size, max_steps=1)
        forecast = ask(linear, data, plan, ntp.MaxSteps(1), solver=solver, seeds=1)
        assert forecast.steps == 1
        assert forecast.steps_interval == (1, 1)
        loss = forecast.trajectory.train.loss
        np.testing.assert_array_equal(forecast.trajectory.steps, [0, 1])
        real = ntp.train(linear, data, plan).trajectory.train.loss
        tolerance = 1e-4 if batch_size == 48 or solver == "replay" else 0.1
        np.testing.assert_allclose(loss, real, rtol=tolerance)

    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("batch_size", [7, 25, 47])
    def test_batches_that_do_not_divide_the_samples(self, linear, data, solver, batch_size, real):
        plan = squared(0.03, batch_size=batch_size)
        forecast = ask(linear, data, plan, ntp.TargetLoss(relative=0.2), solver=solver)
        assert forecast.steps == pytest.approx(real(4, 0.03, batch_size=batch_size), rel=0.05)

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_two_samples_of_each_split(self, linear, data, solver):
        few = ntp.Data(*((x[:2], y[:2]) for x, y in (data.train, data.validation)))
        plan, until = squared(0.01, batch_size=2), ntp.TargetLoss(relative=0.5)
        forecast = ask(linear, few, plan, until, solver=solver, samples=2, seeds=1)
        real = ntp.train(linear, few, plan, until)
        assert forecast.steps == pytest.approx(real.steps, rel=1e-3)
        np.testing.assert_allclose(
            forecast.trajectory.validation.loss, real_rows(linear, few, plan), rtol=1e-3
        )

    def test_one_validation_sample_is_refused(self, data, refused):
        with refused("validation: got 1 samples; expected at least 2"):
            ntp.Data(data.train, tuple(part[:1] for part in data.validation))

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_fewer_samples_asked_for_than_in_a_batch(self, linear, data, solver):
        """Four batches are looked at, at least: here all samples."""
        plan, until = squared(0.03), ntp.TargetLoss(relative=0.2)
        forecast = ask(linear, data, plan, until, solver=solver, samples=2, seeds=1)
        assert forecast.samples == 48
        assert forecast.steps == pytest.approx(ntp.train(linear, data, plan, until).steps, rel=1e-3)

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_the_same_seed_gives_the_same_forecast(self, linear, data, solver):
        plan, until = squared(0.03, batch_size=8, max_steps=20), ntp.TargetLoss(relative=0.5)
        first, again = (
            ask(linear, data, plan, until, solver=solver, seeds=2).trajectory for _ in range(2)
        )
        np.testing.assert_array_equal(first.train.loss, again.train.loss)
        np.testing.assert_array_equal(first.validation.loss, again.validation.loss)

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_progress_goes_from_start_to_end(self, linear, data, solver):
        calls = {}

        def report(phase):
            calls[phase] = []
            return lambda done, total: calls[phase].append((int(done), int(total)))

        plan = squared(0.02, batch_size=4, max_steps=20)
        for samples in (48, 24):
            ask(
                *(linear, data, plan, ntp.MaxSteps(5)),
                **{"solver": solver, "seeds": 1, "samples": samples, "report": report},
            )
            jax.effects_barrier()
            done, totals = zip(*calls["simulating training"], strict=True)
            assert list(done) == sorted(done)
            assert len(set(totals)) == 1
            assert done[-1] == totals[0]

    def test_a_forecast_on_the_first_steps_of_a_warm_up(self, linear, data):
        """A learning rate of zero is gradient descent too."""
        plan = ntp.Plan(optax.sgd(optax.linear_schedule(0.0, 0.05, 10)), 8, 1, "squared_error")
        forecast = ask(linear, data, plan, ntp.MaxSteps(1), seeds=1)
        np.testing.assert_allclose(np.ptp(forecast.trajectory.train.loss), 0, atol=1e-6)


def real_rows(network, data, plan):
    """The validation loss of a real run, as rows."""
    return ntp.train(network, data, plan).trajectory.validation.loss
