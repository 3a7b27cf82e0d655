"""Which optax optimizers are gradient descent, and with which numbers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sde import GradientDescent, as_gradient_descent

STEPS = 60
COSINE = optax.cosine_decay_schedule(0.2, STEPS)
WARM = optax.warmup_cosine_decay_schedule(0.0, 0.3, 10, STEPS)
PIECES = optax.piecewise_constant_schedule(0.4, {20: 0.1, 40: 0.5})


def rates(schedule: Any) -> np.ndarray:
    return np.array([float(schedule(step)) for step in range(STEPS)])


CONSTANT = np.full(STEPS, 0.1)
# Optimizer: rates, momentum, Nesterov, weight decay.
KNOWN: dict[str, tuple[Any, np.ndarray, float, float, float]] = {
    "plain": (optax.sgd(0.1), CONSTANT, 0, 0, 0),
    "no momentum": (optax.sgd(0.1, momentum=0.0), CONSTANT, 0, 0, 0),
    "heavy ball": (optax.sgd(0.1, momentum=0.9), CONSTANT, 0.9, 0, 0),
    "long memory": (optax.sgd(0.1, momentum=0.99), CONSTANT, 0.99, 0, 0),
    "nesterov": (optax.sgd(0.1, momentum=0.9, nesterov=True), CONSTANT, 0.9, 1, 0),
    "weight decay": (
        optax.chain(optax.add_decayed_weights(5e-3), optax.sgd(0.1, momentum=0.9)),
        CONSTANT, 0.9, 0, 5e-3,
    ),
    "weight decay, nesterov": (
        optax.chain(optax.add_decayed_weights(0.05), optax.sgd(0.1, 0.8, nesterov=True)),
        CONSTANT, 0.8, 1, 0.05,
    ),
    "decay after, no momentum": (
        optax.chain(optax.add_decayed_weights(0.05), optax.scale(-0.1)), CONSTANT, 0, 0, 0.05,
    ),
    "cosine": (optax.sgd(COSINE, momentum=0.9), rates(COSINE), 0.9, 0, 0),
    "warm-up from zero": (optax.sgd(WARM, momentum=0.9), rates(WARM), 0.9, 0, 0),
    "warm-up, nesterov": (optax.sgd(WARM, momentum=0.9, nesterov=True), rates(WARM), 0.9, 1, 0),
    "piecewise": (optax.sgd(PIECES, momentum=0.5), rates(PIECES), 0.5, 0, 0),
    "injected": (
        optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9), CONSTANT, 0.9, 0, 0,
    ),
    "trace": (optax.chain(optax.trace(0.7), optax.scale(-0.1)), CONSTANT, 0.7, 0, 0),
    "everything": (
        optax.chain(optax.add_decayed_weights(0.01), optax.sgd(WARM, 0.9, nesterov=True)),
        rates(WARM), 0.9, 1, 0.01,
    ),
    "average, corrected": (
        optax.chain(optax.ema(0.9), optax.scale(-0.1)),
        0.1 * CONSTANT / (1 - 0.9 ** np.arange(1, STEPS + 1)), 0.9, 0, 0,
    ),
    # An average without its bias correction is momentum at the rate η(1 − m).
    "average": (
        optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.1)), 0.1 * CONSTANT, 0.9, 0, 0,
    ),
}  # fmt: skip
OTHER = {
    "clipping": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    "adam": optax.adam(1e-3),
    "adamw": optax.adamw(1e-3),
    "decoupled decay": optax.chain(
        optax.trace(0.9), optax.add_decayed_weights(0.1), optax.scale(-0.1)
    ),
    "several steps": optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation(),
    "normalised": optax.chain(optax.normalize_by_update_norm(), optax.sgd(0.1)),
    "no rate": optax.sgd(0.0),
    "unstable momentum": optax.sgd(0.1, momentum=1.01),
    "momentum that never forgets": optax.sgd(0.1, momentum=1.0),
    "not a number": optax.sgd(float("nan")),
}


@pytest.mark.parametrize("name", KNOWN)
def test_numbers(name: str) -> None:
    optimizer, expected, momentum, nesterov, decay = KNOWN[name]
    found = as_gradient_descent(optimizer, STEPS)
    assert found is not None
    np.testing.assert_allclose(found.learning_rate, expected, rtol=1e-4, atol=1e-7)
    assert float(found.momentum) == pytest.approx(momentum, abs=1e-5)
    if momentum:
        assert float(found.nesterov) == nesterov
    assert float(found.weight_decay) == pytest.approx(decay, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", OTHER)
def test_what_is_something_else(name: str) -> None:
    assert as_gradient_descent(OTHER[name], STEPS) is None


@pytest.mark.parametrize("name", KNOWN)
def test_the_transformation_does_what_the_optimizer_does(name: str) -> None:
    """Over 200 steps of random gradients, on another tree than the one that was probed."""
    optimizer, steps = KNOWN[name][0], 200
    found = as_gradient_descent(optimizer, steps)
    assert found is not None
    key = jax.random.key(0)
    params = {"head": {"kernel": jnp.ones((3, 2))}, "body": jnp.linspace(-1.0, 1.0, 5)}

    def run(which: optax.GradientTransformation) -> Any:
        def step(carry: Any, step_key: jax.Array) -> Any:
            at, state = carry
            leaves, tree = jax.tree.flatten(at)
            keys = jax.random.split(step_key, len(leaves))
            pull = [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
            updates, state = which.update(jax.tree.unflatten(tree, pull), state, at)
            return (optax.apply_updates(at, updates), state), updates

        return jax.jit(lambda: jax.lax.scan(
            step, (params, which.init(params)), jax.random.split(key, steps)
        )[1])()  # fmt: skip

    for a, b in zip(
        jax.tree.leaves(run(found.transformation())), jax.tree.leaves(run(optimizer)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("optimizer", ["plain", "nesterov", "weight decay", "cosine"])
def test_a_single_step(optimizer: str) -> None:
    """One step says nothing of momentum, and only the step must be right."""
    found = as_gradient_descent(KNOWN[optimizer][0], 1)
    assert found is not None
    assert np.shape(found.learning_rate) == (1,)
    params, gradient = jnp.array([1.0, -2.0]), jnp.array([0.3, 0.7])
    updates = [
        which.update(gradient, which.init(params), params)[0]
        for which in (KNOWN[optimizer][0], found.transformation())
    ]
    np.testing.assert_allclose(updates[1], updates[0], rtol=1e-5)


def test_two_steps_tell_momentum() -> None:
    found = as_gradient_descent(optax.sgd(0.1, momentum=0.9), 2)
    assert found is not None
    assert float(found.momentum) == pytest.approx(0.9, rel=1e-5)


@pytest.mark.parametrize("rate", [1e-8, 1e-3, 10.0, 1e6])
def test_rates_of_any_size(rate: float) -> None:
    found = as_gradient_descent(optax.sgd(rate, momentum=0.9), STEPS)
    assert found is not None
    np.testing.assert_allclose(found.learning_rate, rate, rtol=1e-4)


def test_the_effective_rate() -> None:
    given = GradientDescent(CONSTANT, np.array(0.9), np.array(1.0), np.array(0.2))
    got = given.at_effective_rate()
    np.testing.assert_allclose(got.learning_rate, 1.0)
    assert (float(got.momentum), float(got.nesterov), float(got.weight_decay)) == (0.0, 0.0, 0.2)
