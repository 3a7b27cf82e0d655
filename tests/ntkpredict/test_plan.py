from dataclasses import replace

import numpy as np
import optax
import pytest

import ntkpredict as ntp

STEPS = 12


def trained(plan, start, gradients):
    """Parameters after each gradient."""
    params = {"w": np.float32(start)}
    state = plan.optimizer.init(params)
    values = []
    for gradient in gradients:
        updates, state = plan.optimizer.update({"w": np.float32(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        values.append(float(params["w"]))
    return np.array(values)


def rates(schedule, lr, steps):
    t = np.arange(steps)
    return (
        np.full(steps, lr) if schedule == "constant" else lr / 2 * (1 + np.cos(np.pi * t / steps))
    )


@pytest.fixture
def gradients():
    return np.random.default_rng(0).normal(size=STEPS)


class TestSgd:
    @pytest.mark.parametrize("momentum", [0.0, 0.9])
    @pytest.mark.parametrize("nesterov", [False, True])
    @pytest.mark.parametrize("decay", [0.0, 0.1])
    @pytest.mark.parametrize("schedule", ["constant", "cosine"])
    def test_is_the_recursion_it_says(self, gradients, momentum, nesterov, decay, schedule):
        plan = ntp.Plan.sgd(
            0.1,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=decay,
            schedule=schedule,
            max_steps=STEPS,
        )
        w, v, expected = 2.0, 0.0, []
        for lr, gradient in zip(rates(schedule, 0.1, STEPS), gradients, strict=True):
            g = gradient + decay * w
            v = momentum * v + g
            w -= lr * (g + momentum * v if nesterov else v)
            expected.append(w)
        np.testing.assert_allclose(trained(plan, 2.0, gradients), expected, rtol=1e-5)

    def test_description(self):
        plan = ntp.Plan.sgd(0.01, batch_size=64)
        assert plan.description == "sgd, lr 0.01, momentum 0.9, batch size 64"
        plan = ntp.Plan.sgd(
            1e-5, momentum=0.5, nesterov=True, weight_decay=0.1, schedule="cosine", batch_size=1
        )
        assert plan.description == (
            "sgd, lr 1e-05, momentum 0.5, nesterov, weight decay 0.1, cosine, batch size 1"
        )


class TestAdamw:
    @pytest.mark.parametrize("decay", [0.0, 0.1])
    @pytest.mark.parametrize("schedule", ["constant", "cosine"])
    def test_is_adam_with_decoupled_decay(self, gradients, decay, schedule):
        plan = ntp.Plan.adamw(0.1, weight_decay=decay, schedule=schedule, max_steps=STEPS)
        w, m, v, expected = 2.0, 0.0, 0.0, []
        for t, (lr, g) in enumerate(zip(rates(schedule, 0.1, STEPS), gradients, strict=True), 1):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            update = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            w -= lr * (update + decay * w)
            expected.append(w)
        np.testing.assert_allclose(trained(plan, 2.0, gradients), expected, rtol=1e-4)

    def test_description(self):
        assert ntp.Plan.adamw(1e-3).description == (
            "adamw, lr 0.001, weight decay 0.01, batch size 32"
        )


class TestPlan:
    def test_any_optimizer(self):
        plan = ntp.Plan(optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)), 16)
        assert plan.description == "custom optimizer, batch size 16"
        assert ntp.Plan(optax.sgd(0.1), name="mine").description == "mine, batch size 32"

    def test_a_scaled_direction_is_an_optimizer_whose_factors_are_known(self, gradients):
        direction, rate = optax.trace(0.5), optax.linear_schedule(0.1, 0.0, STEPS)
        plan = ntp.Plan(ntp.Scaled(direction, rate), max_steps=STEPS)
        whole = ntp.Plan(optax.sgd(rate, momentum=0.5), max_steps=STEPS)
        np.testing.assert_array_equal(trained(plan, 2.0, gradients), trained(whole, 2.0, gradients))
        assert plan.learning_rate is rate
        assert plan.factors()[0] is direction
        np.testing.assert_allclose(plan.factors()[1], rate(np.arange(STEPS)))

    def test_another_optimizer_brings_its_own_factors(self):
        plan = replace(ntp.Plan.sgd(0.1), optimizer=optax.adam(0.2))
        assert plan.learning_rate is None
        assert plan.factors()[0] is plan.optimizer

    @pytest.mark.parametrize(
        ("loss", "objective"),
        [
            ("cross_entropy", ntp.CrossEntropy()),
            ("squared_error", ntp.SquaredError()),
            (ntp.CrossEntropy(label_smoothing=0.1), ntp.CrossEntropy(label_smoothing=0.1)),
        ],
    )
    def test_loss_by_name_or_as_an_object(self, loss, objective):
        assert ntp.Plan.sgd(0.1, loss=loss).objective == objective

    def test_passes_everything_on(self):
        for build in (ntp.Plan.sgd, ntp.Plan.adamw):
            plan = build(0.1, batch_size=3, max_steps=5, loss="squared_error", seed=7)
            assert (plan.batch_size, plan.max_steps, plan.seed) == (3, 5, 7)
            assert plan.objective == ntp.SquaredError()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"batch_size": 0}, "batch_size: got 0; expected a whole number, at least 1"),
            ({"max_steps": 0}, "max_steps: got 0; expected a whole number, at least 1"),
            ({"seed": -1}, "seed: got -1; expected a whole number, at least 0"),
            ({"loss": "hinge"}, "loss: got 'hinge'; expected one of ['cross_entropy', "),
        ],
    )
    def test_bad_arguments(self, refused, arguments, message):
        with refused(message):
            ntp.Plan(optax.sgd(0.1), **arguments)

    @pytest.mark.parametrize("build", [ntp.Plan.sgd, ntp.Plan.adamw])
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"lr": 0.0}, "lr: got 0.0; expected a number greater than 0"),
            ({"lr": -0.1}, "lr: got -0.1; expected a number greater than 0"),
            ({"lr": np.nan}, "lr: got nan"),
            ({"lr": np.inf}, "lr: got inf"),
            ({"weight_decay": -0.1}, "weight_decay: got -0.1; expected a number, at least 0"),
            ({"weight_decay": np.nan}, "weight_decay: got nan"),
            ({"weight_decay": np.inf}, "weight_decay: got inf"),
            ({"batch_size": 0}, "batch_size: got 0"),
            ({"max_steps": 0}, "max_steps: got 0"),
            ({"max_steps": 0, "schedule": "cosine"}, "max_steps: got 0"),
            ({"seed": -3}, "seed: got -3"),
            ({"loss": "hinge"}, "loss: got 'hinge'"),
        ],
    )
    def test_bad_arguments_of_both(self, refused, build, arguments, message):
        with refused(message):
            build(**{"lr": 0.1, **arguments})

    @pytest.mark.parametrize("momentum", [-0.1, 1.0, 2.0, np.nan])
    def test_bad_momentum(self, refused, momentum):
        with refused(f"momentum: got {momentum}; expected 0 <= momentum < 1"):
            ntp.Plan.sgd(0.1, momentum=momentum)

    def test_arguments_of_the_wrong_type(self, unchecked_messages):
        cases = {
            "ntp.Plan.sgd(0.1, schedule='linear')": (
                "schedule: got 'linear'; expected 'constant' or 'cosine'"
            ),
            "ntp.Plan.adamw(0.1, schedule='linear')": (
                "schedule: got 'linear'; expected 'constant' or 'cosine'"
            ),
            "ntp.Plan.sgd(0.1, batch_size=2.5)": (
                "batch_size: got 2.5; expected a whole number, at least 1"
            ),
            "ntp.Plan(optax.sgd(0.1), max_steps=1e3)": (
                "max_steps: got 1000.0; expected a whole number, at least 1"
            ),
            "ntp.Plan.sgd(0.1, max_steps=1e3, schedule='cosine')": (
                "max_steps: got 1000.0; expected a whole number, at least 1"
            ),
            "ntp.Plan.sgd(0.1, seed=0.5)": "seed: got 0.5; expected a whole number, at least 0",
        }
        assert unchecked_messages(cases) == [f"ValueError: {text}" for text in cases.values()]
