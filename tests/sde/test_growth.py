"""A kernel that grows while features form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linearize import HeadExactTangent, Identity, Network, linearize
from linearize.types import Params
from sde import (
    CrossEntropy,
    Diffusion,
    Examples,
    Growth,
    Problem,
    Replay,
    Spectral,
    SquaredError,
    as_gradient_descent,
    choose_solver,
    observe,
    stability,
    stable_growth,
)
from sde.growth import change
from tests import networks

SAMPLES, BATCH, STEPS = 24, 16, 12
GRID = np.arange(STEPS + 1)
UNBOUNDED = np.full(1, np.inf, np.float32)
OPTIMIZERS = {
    "momentum": optax.sgd(0.3, momentum=0.9),
    "clipping": optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(1.0)),
    "adam": optax.adam(0.1),
}


def problem(optimizer: Any, batch: int = BATCH, objective: Any = None) -> Problem:
    """With a frozen kernel."""
    network, x = networks.perceptron(samples=SAMPLES)
    model = linearize(network, x, Identity(), mode="head_exact", checked=True)
    targets = CrossEntropy().targets(np.asarray(x[:, :3].argmax(1)), 3)
    goal = CrossEntropy() if objective is None else objective
    return Problem(Examples(model, targets), goal, optimizer, batch, (0, 1))


def growing(given: Problem, *, depth: int = 2, bound: Any = UNBOUNDED) -> Problem:
    model = tangent(given)
    origin = model.features_along(model.initial())
    return replace(given, growth=Growth(origin, np.asarray(bound, np.float32), depth))


def tangent(given: Problem) -> HeadExactTangent:
    assert isinstance(given.train.model, HeadExactTangent)
    return given.train.model


def curves(given: Problem) -> np.ndarray:
    return Replay().solve(given, GRID).train.loss


def trained(given: Problem) -> list[Params]:
    """The parameters of the first seed at each step."""
    path = observe(given, GRID, lambda _, params: params)
    return [jax.tree.map(lambda leaf: leaf[0, i], path) for i in GRID]  # noqa: B023


def changed(given: Problem, params: Params, samples: Any = slice(None)) -> tuple[float, float]:
    """a and b of some of the samples: before = a·before + b·|before|·(orthogonal to it)."""
    model = tangent(given).take(samples)
    centred = [
        np.asarray(values - values.mean(0), float)
        for values in (
            model.features_initial @ model.directions,
            model.features_along(params),
        )
    ]
    before, after = (values.ravel() / np.linalg.norm(centred[0]) for values in centred)
    return before @ after, np.linalg.norm(after - (before @ after) * before)


def squared(given: Problem, params: Params, samples: Any = slice(None)) -> float:
    """ρ² for depth 2 and c = 1, bounded by nothing: all there is of features, to the half."""
    return np.hypot(*changed(given, params, samples))


# The law


def test_a_is_what_is_left_and_b_is_what_has_formed(x64: None) -> None:
    random = np.random.default_rng(0)
    before, other = random.normal(size=(2, 30, 4))
    before -= before.mean(0)
    other -= other.mean(0)
    other -= (before * other).sum() / (before**2).sum() * before
    other *= np.linalg.norm(before) / np.linalg.norm(other)
    offsets = random.normal(size=(2, 4))
    found = change(*map(jnp.asarray, (before + offsets[0], 0.5 * before + 3 * other + offsets[1])))
    np.testing.assert_allclose(found, (0.5, 3), rtol=1e-12)
    np.testing.assert_allclose(change(jnp.asarray(before), jnp.asarray(-before)), (-1, 0))


@pytest.mark.parametrize(("depth", "power"), [(1, 0), (2, 0.5), (3, 2 / 3), (20, 0.95)])
def test_growth_is_a_power_of_the_size_of_the_features(depth: int, power: float) -> None:
    growth = Growth(jnp.ones((2, 1)), UNBOUNDED, depth)
    kept, formed = np.array([1, 0.5, -0.5, 0]), np.array([0, 2, 0.1, 5])
    expected = (kept**2 + formed**2) ** power
    np.testing.assert_allclose(growth.squared(kept, formed), expected, rtol=1e-12)
    np.testing.assert_allclose(growth.squared(1.0, 0.0), 1)


@pytest.mark.parametrize("depth", [2, 20])
def test_the_scale_is_the_law_within_the_bound(depth: int) -> None:
    given = growing(problem(OPTIMIZERS["momentum"]), depth=depth)
    growth, params = given.growth, trained(given)[-1]
    assert growth is not None
    model = tangent(given)
    kept, formed = changed(given, params)
    expected = (kept**2 + formed**2) ** (1 - 1 / depth)
    assert expected > 1.5
    np.testing.assert_allclose(growth.scale(model, params, 3) ** 2, expected, rtol=1e-4)
    np.testing.assert_allclose(growth.scale(model, model.initial(), 3), 1, rtol=1e-6)
    bounded = replace(growth, bound=np.array([1.0, 1.2], np.float32))
    scales = [bounded.scale(model, params, step) ** 2 for step in (0, 1, 2, 1000)]
    np.testing.assert_allclose(scales, [1, 1.2, 1.2, 1.2], rtol=1e-6)  # the last one holds


def test_what_relus_take_from_the_jacobian_is_not_taken_twice(x64: None) -> None:
    given = growing(problem(OPTIMIZERS["momentum"]))
    growth, params = given.growth, trained(given)[-1]
    assert growth is not None
    linear = tangent(given)
    features = jnp.abs(linear.features_initial)
    model = replace(linear, features_initial=features, nonnegative=True)
    growth = replace(growth, origin=features @ model.directions)
    shrunk = np.asarray(model.sensitivity(params))[:, :, None] * np.asarray(model.directions)
    own = (shrunk**2).sum() / shrunk.shape[0] / shrunk.shape[2]
    assert own < 0.9
    law = growth.squared(*change(growth.origin, model.features_along(params)))
    np.testing.assert_allclose(growth.scale(model, params, 0) ** 2 * own, law, rtol=1e-4)


@pytest.mark.parametrize("spoil", [jnp.nan, jnp.inf, 1e30])
def test_features_that_are_not_numbers_do_not_grow(spoil: float) -> None:
    given = growing(problem(OPTIMIZERS["momentum"]))
    assert given.growth is not None
    params = {**tangent(given).initial()}
    params["body"] = params["body"].at[0].set(spoil)
    assert given.growth.scale(tangent(given), params, 0) == 1


def test_features_that_are_all_alike_do_not_grow() -> None:
    """There is nothing to compare with."""
    given = growing(problem(OPTIMIZERS["momentum"]))
    assert given.growth is not None
    alike = replace(given.growth, origin=jnp.ones_like(given.growth.origin))
    params = trained(given)[-1]
    assert given.growth.scale(tangent(given), params, 0) > 1
    assert alike.scale(tangent(given), params, 0) == 1


# Training


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_layer_alone_stays(optimizer: str) -> None:
    given = problem(OPTIMIZERS[optimizer])
    np.testing.assert_allclose(curves(growing(given, depth=1)), curves(given), rtol=1e-5)
    assert np.abs(curves(growing(given)) / curves(given) - 1)[:, -1].min() > 0.01


def test_a_bound_of_one_leaves_a_kernel_that_may_shrink() -> None:
    """It does where features do."""
    given = problem(OPTIMIZERS["momentum"])
    free, bounded = growing(given), growing(given, bound=[1.0])
    assert free.growth is not None
    assert bounded.growth is not None
    scales = [
        (
            free.growth.scale(tangent(given), params, 0),
            bounded.growth.scale(tangent(given), params, 0),
        )
        for params in trained(bounded)
    ]
    np.testing.assert_array_equal([min(scale, 1) for scale, _ in scales], [s for _, s in scales])
    assert max(scale for scale, _ in scales) > 1.1
    model, start = tangent(given), tangent(given).initial()
    size = jax.grad(lambda body: (model.features_along({**start, "body": body}) ** 2).mean())
    shrunk = {**start, "body": start["body"] - 2 * size(start["body"])}
    assert 0.5 < bounded.growth.scale(model, shrunk, 0) < 0.99


def momentum(rate: float, memory: float) -> Callable[..., tuple[Params, Any]]:
    """Its update, written out."""

    def update(gradient: Params, state: Any, _count: int) -> tuple[Params, Any]:
        if state is None:
            state = jax.tree.map(jnp.zeros_like, gradient)
        state = jax.tree.map(lambda v, g: memory * v + g, state, gradient)
        return jax.tree.map(lambda v: -rate * v, state), state

    return update


def adam(rate: float) -> Callable[..., tuple[Params, Any]]:
    def update(gradient: Params, state: Any, count: int) -> tuple[Params, Any]:
        zero = jax.tree.map(jnp.zeros_like, gradient)
        mean, square = (zero, zero) if state is None else state
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
        square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, square, gradient)
        first, second = 1 - 0.9 ** (count + 1), 1 - 0.999 ** (count + 1)
        moves = jax.tree.map(
            lambda m, v: -rate * (m / first) / (jnp.sqrt(v / second) + 1e-8), mean, square
        )
        return moves, (mean, square)

    return update


@pytest.mark.parametrize("batch", [16, 20, 5])
@pytest.mark.parametrize(
    ("optimizer", "rule"), [("momentum", momentum(0.3, 0.9)), ("adam", adam(0.1))]
)
def test_training_is_that_through_a_larger_jacobian(
    x64: None, optimizer: str, rule: Any, batch: int
) -> None:
    """Written out: ρ times the body's gradient goes in, ρ times its update comes out. ρ is that of
    the minibatch, or of the first 16 samples where it is smaller."""
    given = growing(problem(OPTIMIZERS[optimizer], batch))
    model, targets = tangent(given), given.train.targets

    def outputs(params: Params, index: Any) -> Any:
        kernel = params["head"]["kernel"]
        features = model.features_initial[index]
        moved = model.jacobian[index] @ (params["body"] - model.body_initial)
        return features @ kernel + moved @ model.directions.T @ kernel + params["head"]["bias"]

    def mean_loss(params: Params, index: Any) -> Any:
        return optax.softmax_cross_entropy(outputs(params, index), targets[index]).mean()

    slope, every = jax.jit(jax.grad(mean_loss)), np.arange(SAMPLES)
    for row, order in enumerate(given.orders(STEPS)):
        params, state, largest = model.initial(), None, 1.0
        losses = [mean_loss(params, every)]
        for count, index in enumerate(order):
            seen = index if batch >= 16 else np.arange(16)
            scale = np.sqrt(squared(given, params, seen))
            gradient = slope(params, index)
            gradient["body"] = scale * gradient["body"]
            moves, state = rule(gradient, state, count)
            moves["body"] = scale * moves["body"]
            params = optax.apply_updates(params, moves)
            losses.append(mean_loss(params, every))
            largest = max(largest, scale)
        assert largest > 1.2
        np.testing.assert_allclose(curves(given)[row], losses, rtol=1e-6)


def test_the_head_does_not_grow() -> None:
    """From grown features on, a step moves the head as ever, and the body ρ² times as far."""
    given = growing(problem(OPTIMIZERS["momentum"], SAMPLES))
    later = given.at(trained(given)[-1])
    growing_step, frozen_step = (
        jax.tree.map(jnp.subtract, *reversed(trained(each)[:2]))
        for each in (later, replace(later, growth=None))
    )
    factor = squared(given, tangent(later).initial())
    assert factor > 1.2
    close = {"rtol": 1e-3, "atol": 1e-6}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **close),
        growing_step,
        {**frozen_step, "body": factor * frozen_step["body"]},
    )


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_training_goes_on_elsewhere_with_the_same_origin(optimizer: str) -> None:
    """`at` begins from other parameters, and what growth is relative to stays."""
    given = growing(problem(OPTIMIZERS[optimizer], SAMPLES))
    params = trained(given)[-1]
    moved = given.at(params)
    assert moved.growth is given.growth
    assert given.growth is not None
    scales = [given.growth.scale(each.train.model, params, 0) for each in (given, moved)]
    assert scales[0] > 1.1
    np.testing.assert_allclose(scales[1], scales[0], rtol=1e-4)


@pytest.mark.parametrize("index", [slice(4, 20), np.arange(0, SAMPLES, 2)], ids=["slice", "index"])
def test_some_of_the_samples_have_their_own_origin(index: Any) -> None:
    given = growing(problem(OPTIMIZERS["momentum"]))
    part = replace(given, batch_size=4).take(index)
    assert given.growth is not None
    assert part.growth is not None
    np.testing.assert_array_equal(part.growth.origin, given.growth.origin[index])
    assert part.growth.bound is given.growth.bound
    params = trained(given)[-1]
    found = part.growth.scale(tangent(part), params, 0) ** 2
    np.testing.assert_allclose(found, squared(given, params, index), rtol=1e-4)


def test_divergence_stays_divergence() -> None:
    wild = growing(problem(optax.sgd(1e4), objective=SquaredError()))
    assert Replay().solve(wild, GRID).diverged.all()


# The edge of stability


@pytest.mark.parametrize("memory", [None, 0.9])
def test_growth_is_stable_up_to_the_critical_rate(memory: float | None) -> None:
    schedule = optax.piecewise_constant_schedule(0.1, {4: 5.0, 8: 0.0})
    found = stable_growth(optax.sgd(schedule, momentum=memory), 0.3, 10)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:8], [3] * 4 + [1] * 4, rtol=1e-5)  # never less than 1
    assert (found[8:] > 1e20).all()  # a rate of zero is stable at any growth
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("optimizer", "critical"),
    [(optax.sgd(0.1), None), (OPTIMIZERS["adam"], 0.3), (OPTIMIZERS["clipping"], 0.3)],
    ids=["unknown rate", "adam", "clipping"],
)
def test_where_no_rule_is_known_there_is_no_bound(optimizer: Any, critical: float | None) -> None:
    np.testing.assert_array_equal(stable_growth(optimizer, critical, 10), [np.inf])


# Solvers


def test_a_sweep_honours_it() -> None:
    given = growing(problem(optax.sgd(0.1)), bound=[1.5, 3.0, 1.2])
    plans = [replace(given, optimizer=OPTIMIZERS["momentum"]), replace(given, batch_size=8)]
    assert all(as_gradient_descent(plan.optimizer, STEPS) for plan in plans)
    for got, plan in zip(Replay().sweep(plans, GRID), plans, strict=True):
        np.testing.assert_allclose(got.train.loss, curves(plan), rtol=1e-4)
    frozen = curves(replace(plans[0], growth=None))
    assert np.abs(frozen / curves(plans[0]) - 1)[:, -1].min() > 0.01


def test_a_sweep_shares_it() -> None:
    given = problem(optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"^problems: they differ in \['growth'\]; expected only"):
        Replay().sweep([given, growing(given)], GRID)


def test_solvers_of_a_frozen_kernel_refuse_it() -> None:
    given = growing(problem(optax.sgd(0.01), objective=SquaredError()))
    stable = stability(replace(given, growth=None), STEPS)
    assert Replay().obstacle(given, stable) is None
    for solver in (Diffusion(), Spectral()):
        advice = "follows a frozen kernel only; use solver='replay'"
        assert solver.obstacle(given, stable) == advice
        with pytest.raises(ValueError, match=f"^solver: {advice}$"):
            solver.solve(given, GRID)
        with pytest.raises(ValueError, match=f"^solver: {advice}$"):
            solver.sweep([given], GRID)
        with pytest.raises(ValueError, match=f"^solver: {solver.name!r} {advice}$"):
            choose_solver(solver.name, given, stable)
    assert isinstance(choose_solver("auto", given, stable), Replay)


# The physics


@pytest.mark.parametrize("formed", [False, True], ids=["the same feature", "another one"])
@pytest.mark.parametrize("depth", [2, 3])
def test_the_kernel_of_real_layers_grows_so(x64: None, depth: int, formed: bool) -> None:
    """Linear layers of one feature, small and balanced, under a head that stays: the trace of their
    kernel along their real training, be it their feature that grows or that another one forms."""
    random = np.random.default_rng(0)
    turns = [np.linalg.qr(random.normal(size=(6, 6)))[0] for _ in range(depth + 1)]
    pairs = pairwise(turn[:, 0] for turn in turns)
    start = [jnp.asarray(0.5 * np.outer(*pair)) for pair in pairs]
    head = {"kernel": jnp.asarray(turns[-1][:, :1])}
    points = random.normal(size=(SAMPLES, 6))
    inputs = jnp.asarray(np.linalg.qr(points - points.mean(0))[0] * SAMPLES**0.5)  # white
    targets = 3 * inputs @ turns[0][:, [int(formed)]]

    def evaluate(params: Params, x: Any) -> Any:
        for layer in params["body"]:
            x = x @ layer
        return x @ params["head"]["kernel"]

    def loss(body: Any) -> Any:
        return SquaredError().loss(evaluate({"body": body, "head": head}, inputs), targets).mean()

    @jax.jit
    def train(body: Any) -> Any:
        def step(_: Any, body: Any) -> Any:
            return jax.tree.map(lambda w, g: w - 0.01 * g, body, jax.grad(loss)(body))

        return jax.lax.fori_loop(0, 15, step, body)

    def seen(body: Any) -> tuple[Any, Any]:
        """Features, and the trace of the body's kernel."""
        network = Network.from_function(evaluate, {"body": body, "head": head}, head="head")
        model = linearize(
            network, inputs, Identity(), directions=head["kernel"], mode="head_exact", checked=True
        )
        assert isinstance(model, HeadExactTangent)
        return model.features_along(model.initial()), (model.jacobian**2).sum()

    origin, trace = seen(start)
    law, body, found, expected = Growth(origin, UNBOUNDED, depth), start, [], []
    while loss(body) > 0.01 * loss(start):
        body = train(body)
        features, now = seen(body)
        found.append(now / trace)
        expected.append(law.squared(*change(origin, features)))
    assert len(found) > 3
    assert found[-1] > 10
    np.testing.assert_allclose(expected, found, rtol=0.01)
