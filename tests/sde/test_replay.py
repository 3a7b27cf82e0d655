"""Replay against real training with the same optimizer and the same minibatches."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

from linearize import CountSketch, HeadExactTangent, Identity, LinearTangent, Network, linearize
from linearize.types import Params
from sde import CrossEntropy, Examples, Problem, Replay, SquaredError, minibatch_order, observe
from sde.solver import evaluate
from sde.training import train_all
from tests import networks

SAMPLES, HELD_OUT, BATCH, STEPS = 24, 9, 6, 40
OBJECTIVES = {"cross-entropy": CrossEntropy(0.1), "squared error": SquaredError()}
OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.05, momentum=0.9),
    "nesterov": optax.sgd(0.05, momentum=0.9, nesterov=True),
    "weight decay": optax.chain(optax.add_decayed_weights(0.2), optax.sgd(0.1, momentum=0.5)),
    # The threshold lies within the norms of the gradients here: some are clipped, some are not.
    "clipping": optax.chain(optax.clip_by_global_norm(0.6), optax.sgd(0.1, momentum=0.9)),
    "cosine": optax.sgd(optax.cosine_decay_schedule(0.2, STEPS), momentum=0.9),
}
GRID = np.array([0, 1, 2, 5, 17, 40])


def orders(seeds: int = 2) -> np.ndarray:
    return np.stack([minibatch_order(SAMPLES, BATCH, STEPS, seed) for seed in range(seeds)])


def problem(seen: Examples, objective: Any, optimizer: Any, **settings: Any) -> Problem:
    return Problem(seen, objective, optimizer, BATCH, **({"seeds": (0, 1)} | settings))


def samples() -> tuple[jax.Array, np.ndarray]:
    """Training samples, then samples held out, and labels that depend on them."""
    x = jax.random.normal(jax.random.key(5), (SAMPLES + HELD_OUT, 5))
    noisy = x[:, :3] + 0.5 * jax.random.normal(jax.random.key(6), (len(x), 3))
    return x, np.asarray(noisy.argmax(1))


def linear_network() -> Network:
    """Linear in its parameters over fixed random features, and far from zero at the start."""
    fixed = jax.random.normal(jax.random.key(0), (5, 7))
    params = {
        "w": 0.5 * jax.random.normal(jax.random.key(1), (7, 3)),
        "b": 0.5 * jax.random.normal(jax.random.key(2), (3,)),
    }
    return Network.from_function(lambda p, x: jnp.cos(x @ fixed) @ p["w"] + p["b"], params)


def examples(network: Network, objective: Any, mode: Any = None) -> tuple[Examples, Examples]:
    x, labels = samples()
    model = linearize(network, x, Identity(), mode=mode, checked=True)
    both = Examples(model, objective.targets(labels, networks.OUTPUTS))
    return both.take(slice(SAMPLES)), both.take(slice(SAMPLES, None))


def train(network: Network, objective: Any, optimizer: Any, order: np.ndarray) -> list[Params]:
    """The network's parameters after every step of the plainest training loop there is."""
    x, labels = samples()
    targets = objective.targets(labels, networks.OUTPUTS)

    @jax.jit
    def step(params: Params, state: Any, batch: jax.Array) -> tuple[Params, Any]:
        def loss(params: Params) -> jax.Array:
            return objective.loss(network.apply(params, x[batch]), targets[batch]).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = network.params, optimizer.init(network.params)
    path = [params]
    for batch in order:
        params, state = step(params, state, batch)
        path.append(params)
    return path


def curves(network: Network, objective: Any, path: list[Params]) -> np.ndarray:
    """Loss and accuracy on the training samples and on those held out, (4, grid)."""
    x, labels = samples()
    targets = objective.targets(labels, networks.OUTPUTS)
    found = []
    for params in (path[step] for step in GRID):
        f = network.apply(params, x)
        loss, right = objective.loss(f, targets), f.argmax(1) == labels
        parts = [slice(SAMPLES), slice(SAMPLES, None)]
        found.append([values[part].mean() for part in parts for values in (loss, right)])
    return np.array(found).T


def assert_equals_training(network: Network, objective: Any, optimizer: Any, mode: Any) -> None:
    seen, unseen = examples(network, objective, mode)
    got = Replay().solve(problem(seen, objective, optimizer, validation=unseen), GRID)
    assert got.validation is not None
    assert got.train.loss[:, -1].mean() < 0.9 * got.train.loss[:, 0].mean()  # it trains at all
    np.testing.assert_array_equal(got.steps, GRID)
    for seed, order in enumerate(orders()):
        expected = curves(network, objective, train(network, objective, optimizer, order))
        fields = [
            values[seed]
            for curve in (got.train, got.validation)
            for values in (curve.loss, curve.accuracy)
        ]
        np.testing.assert_allclose(np.stack(fields), expected, rtol=1e-9)


# Exactness


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_network_that_is_linear_is_replayed_exactly(
    x64: None, optimizer: str, objective: str
) -> None:
    assert_equals_training(linear_network(), OBJECTIVES[objective], OPTIMIZERS[optimizer], "linear")


@pytest.mark.parametrize("optimizer", ["weight decay", "clipping"])
@pytest.mark.parametrize("trainable", ["head/*", "head/kernel"])
def test_a_head_on_a_frozen_body_is_replayed_exactly(
    x64: None, optimizer: str, trainable: str
) -> None:
    given = networks.perceptron()[0]
    network = Network.from_function(given.function, given.params, head="head", trainable=trainable)
    assert_equals_training(network, CrossEntropy(), OPTIMIZERS[optimizer], "head_exact")


def test_some_gradients_are_clipped_and_some_are_not(x64: None) -> None:
    network, (x, labels) = linear_network(), samples()
    for objective in OBJECTIVES.values():
        targets = objective.targets(labels, networks.OUTPUTS)
        path = train(network, objective, OPTIMIZERS["clipping"], orders()[0])
        norms = [
            optax.tree.norm(
                jax.grad(
                    lambda p, batch=batch, objective=objective, targets=targets: objective.loss(
                        network.apply(p, x[batch]), targets[batch]
                    ).mean()
                )(params)
            )
            for params, batch in zip(path, orders()[0], strict=False)
        ]
        assert min(norms) < 0.6 < max(norms)


def test_parameters_are_those_of_training(x64: None) -> None:
    """With no projection, what is replayed are the weights."""
    network, objective, optimizer = linear_network(), CrossEntropy(), OPTIMIZERS["weight decay"]
    seen, _ = examples(network, objective, "linear")
    given = problem(seen, objective, optimizer, seeds=(0,))
    got = observe(given, GRID, lambda _, params: params["body"])
    path = train(network, objective, optimizer, orders(1)[0])
    expected = np.stack([ravel_pytree(path[step])[0] for step in GRID])
    np.testing.assert_allclose(got[0], expected, rtol=1e-9, atol=1e-12)


# Invariants


@cache
def perceptron_examples(mode: str) -> tuple[Examples, Examples]:
    return examples(networks.perceptron()[0], CrossEntropy(), mode)


def curve(seen: Examples, optimizer: Any, grid: np.ndarray = GRID) -> np.ndarray:
    return Replay().solve(problem(seen, CrossEntropy(), optimizer), grid).train.loss


def rotated(model: Any) -> Any:
    """The same model in rotated coordinates of parameter space."""
    size = model.body_initial.size
    rotation = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (size, size)))[0]
    start = rotation @ model.body_initial
    origin = {"origin": start} if isinstance(model, HeadExactTangent) else {}
    return replace(model, jacobian=model.jacobian @ rotation.T, body_initial=start, **origin)


@pytest.mark.parametrize("mode", ["linear", "head_exact"])
@pytest.mark.parametrize("optimizer", ["weight decay", "clipping"])
def test_a_rotation_of_parameter_space_changes_nothing(optimizer: str, mode: str) -> None:
    seen, _ = perceptron_examples(mode)
    turned = seen._replace(model=rotated(seen.model))
    expected = curve(seen, OPTIMIZERS[optimizer])
    np.testing.assert_allclose(curve(turned, OPTIMIZERS[optimizer]), expected, rtol=1e-5)


def test_a_rotation_changes_what_adam_does() -> None:
    seen, _ = perceptron_examples("linear")
    turned = seen._replace(model=rotated(seen.model))
    a, b = (curve(which, optax.adam(0.1))[:, -1] for which in (seen, turned))
    assert np.abs(np.log(a / b)).min() > 0.1


def test_the_order_of_samples_in_memory_changes_nothing() -> None:
    seen, _ = perceptron_examples("head_exact")
    index = np.random.default_rng(0).permutation(SAMPLES)
    place = np.argsort(index).astype(np.int32)
    optimizer = OPTIMIZERS["momentum"]
    given = problem(seen.take(index), CrossEntropy(), optimizer)

    @jax.jit
    def losses(given: Problem) -> Any:
        arguments = (lambda _: optimizer, jnp.zeros(1), jnp.asarray(place[orders()]), GRID)
        return train_all(given, *arguments, evaluate, None)[0][0]

    np.testing.assert_allclose(losses(given)[0], curve(seen, optimizer), rtol=1e-4)


def test_where_curves_are_looked_at_does_not_change_them() -> None:
    seen, _ = perceptron_examples("head_exact")
    optimizer = OPTIMIZERS["cosine"]
    everywhere = curve(seen, optimizer, np.arange(STEPS + 1))
    np.testing.assert_allclose(curve(seen, optimizer), everywhere[:, GRID], rtol=1e-5)
    late = np.array([17, 40])  # a grid need not begin at zero
    np.testing.assert_allclose(curve(seen, optimizer, late), everywhere[:, late], rtol=1e-5)


def test_before_training_the_loss_is_that_of_the_network() -> None:
    network, (x, labels) = networks.perceptron()[0], samples()
    objective = CrossEntropy()
    for mode in ("linear", "head_exact"):
        seen, _ = perceptron_examples(mode)
        f = network.apply(network.params, x[:SAMPLES])
        expected = objective.loss(f, objective.targets(labels[:SAMPLES], 3)).mean()
        np.testing.assert_allclose(curve(seen, optax.sgd(0.1))[:, 0], expected, rtol=1e-5)


def test_small_steps_follow_the_real_network() -> None:
    """Both tangent models are exact while training has not moved far."""
    network, objective, optimizer = networks.perceptron()[0], CrossEntropy(), optax.sgd(1e-3)
    path = train(network, objective, optimizer, orders(1)[0])
    expected = curves(network, objective, path)[0]
    for mode in ("linear", "head_exact"):
        got = curve(perceptron_examples(mode)[0], optimizer)[0]
        change = expected[-1] - expected[0]
        assert abs(got[-1] - got[0] - change) < 0.01 * abs(change)


def test_validation_on_the_training_samples_is_the_training_curve() -> None:
    seen, _ = perceptron_examples("head_exact")
    optimizer = OPTIMIZERS["momentum"]
    given = problem(seen, CrossEntropy(), optimizer)
    both = Replay().solve(replace(given, validation=seen), GRID)
    assert both.validation is not None
    np.testing.assert_array_equal(both.validation.loss, both.train.loss)
    np.testing.assert_array_equal(both.validation.accuracy, both.train.accuracy)
    alone = Replay().solve(given, GRID)
    assert alone.validation is None
    np.testing.assert_allclose(alone.train.loss, both.train.loss, rtol=1e-5)


def test_divergence_is_seen_and_no_error() -> None:
    got = curve(perceptron_examples("head_exact")[0], optax.sgd(1e20))
    assert np.isfinite(got[:, 0]).all()
    assert not np.isfinite(got[:, -1]).any()


def test_progress_counts_the_steps() -> None:
    ticks: list[tuple[int, int]] = []
    seen, _ = perceptron_examples("linear")

    def progress(done: Any, total: Any) -> None:
        ticks.append((int(done), int(total)))

    given = problem(seen, CrossEntropy(), optax.sgd(0.1))
    Replay().solve(given, GRID, progress)
    jax.effects_barrier()
    assert ticks == [(step, STEPS) for step in GRID]


def test_progress_of_a_sweep_counts_the_steps_of_all_batch_sizes() -> None:
    ticks: list[tuple[int, int]] = []
    seen, _ = perceptron_examples("linear")

    def progress(done: Any, total: Any) -> None:
        ticks.append((int(done), int(total)))

    given = problem(seen, CrossEntropy(), optax.sgd(0.1))
    Replay().sweep([replace(given, batch_size=size) for size in (3, 6)], GRID, progress)
    jax.effects_barrier()
    assert [done for done, _ in ticks] == [*GRID, *(GRID + STEPS)]
    assert {total for _, total in ticks} == {2 * STEPS}


# Random projections


@cache
def wide() -> tuple[Network, Examples]:
    """A body of many parameters along few directions, so that a sketch has much to mix."""
    network, x = networks.perceptron(inputs=20, width=32, samples=SAMPLES)
    directions = jax.random.normal(jax.random.key(0), (32, 4))
    model = linearize(network, x, Identity(), directions=directions, checked=True)
    labels = np.asarray(x[:, :3].argmax(1))
    return network, Examples(model, CrossEntropy().targets(labels, networks.OUTPUTS))


def sketches(columns: int, seeds: range) -> tuple[jax.Array, jax.Array]:
    """Features and start as `linearize` with a `CountSketch` makes them, one for every seed."""
    network, examples = wide()
    body = network.body(network.params)
    flat, unravel = ravel_pytree(body)
    rows = jax.vmap(unravel)(examples.model.jacobian.reshape(-1, flat.size))
    start = jax.tree.map(lambda leaf: leaf[None], body)
    projections = [CountSketch(columns, seed).bind(body) for seed in seeds]
    shape = (*examples.model.jacobian.shape[:2], columns)
    return (
        jnp.stack([project(rows).reshape(shape) for project in projections]),
        jnp.stack([project(start)[0] for project in projections]),
    )


def test_error_of_projected_replay_falls_as_one_over_root_k() -> None:
    objective, optimizer, seen = CrossEntropy(), optax.sgd(0.01, momentum=0.9), wide()[1]
    expected = np.log(curve(seen, optimizer)[0, 1:])

    def losses(jacobian: jax.Array, start: jax.Array) -> Any:
        place = {"body_initial": start, "origin": start}
        model = replace(seen.model, jacobian=jacobian, exact=False, **place)
        sketch = seen._replace(model=model)

        def loss(given: Problem, params: Params) -> jax.Array:
            return given.train.losses(params, objective).mean()

        return observe(problem(sketch, objective, optimizer, seeds=(0,)), GRID[1:], loss)[0]

    columns, errors = [], []
    for k in (64, 512, 4096):
        found = jax.vmap(losses)(*sketches(k, range(40)))
        columns += [k] * len(found)
        errors += [*np.sqrt(((np.log(found) - expected) ** 2).mean(1))]
    fit = stats.linregress(np.log(columns), np.log(errors))
    assert fit.stderr < 0.06
    assert abs(fit.slope + 0.5) < 3 * fit.stderr
    assert np.mean(errors[-40:]) < 0.02


def test_models_of_both_kinds_are_replayed() -> None:
    assert isinstance(perceptron_examples("linear")[0].model, LinearTangent)
    assert isinstance(perceptron_examples("head_exact")[0].model, HeadExactTangent)
