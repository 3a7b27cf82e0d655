"""Many learning rates in one program, held against one replay after the other."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linearize import HeadExactTangent, Identity, linearize
from sde import (
    CrossEntropy,
    Examples,
    Growth,
    Problem,
    Rates,
    Replay,
    Swept,
    Trajectory,
    as_gradient_descent,
    noise_scale,
    observe,
    observe_rates,
    stabilities,
    stability,
    subsets,
    sweep,
)
from tests import networks

SAMPLES, STEPS = 40, 12
GRID = np.array([0, 1, 2, 4, 6, 9, STEPS])
RATES = np.stack([np.full(STEPS, 0.02), np.linspace(0.3, 0.1, STEPS), np.full(STEPS, 0.05)])
DIRECTIONS = {"momentum": optax.trace(0.9), "adam": optax.scale_by_adam()}
BOUNDS = np.stack([np.full(STEPS, bound) for bound in (np.inf, 1.1, 1.5)]).astype(np.float32)


def problem(batch: int = 6, *, growing: bool = True) -> Problem:
    network, x = networks.perceptron(samples=SAMPLES + 8)
    model = linearize(network, x, Identity(), mode="head_exact", checked=True)
    assert isinstance(model, HeadExactTangent)
    examples = Examples(model, CrossEntropy().targets(np.asarray(x[:, :3].argmax(1)), 3))
    train, held_out = examples.take(slice(SAMPLES)), examples.take(slice(SAMPLES, None))
    origin = train.model.features_along(train.model.initial())  # type: ignore[attr-defined]
    growth = Growth(origin, np.full(1, np.inf, np.float32), 2) if growing else None
    goal = CrossEntropy()
    return Problem(train, goal, optax.sgd(1.0), batch, (3, 4), held_out, growth=growth)


def never(plan: int, curves: Swept) -> bool:
    return False


def plan(given: Problem, direction: Any, index: int) -> Problem:
    """One of the plans by itself."""
    schedule = lambda count: -jnp.asarray(RATES[index], float)[count]  # noqa: E731
    optimizer = optax.chain(direction, optax.scale_by_schedule(schedule))
    growth = given.growth and replace(given.growth, bound=BOUNDS[index])
    return replace(given, optimizer=optimizer, growth=growth)


def assert_same(got: Trajectory, expected: Trajectory) -> None:
    np.testing.assert_array_equal(got.steps, expected.steps)
    for mine, other in ((got.train, expected.train), (got.validation, expected.validation)):
        assert (mine is None) == (other is None)
        if mine is not None and other is not None:
            np.testing.assert_allclose(mine.loss, other.loss, rtol=2e-4)
            np.testing.assert_allclose(mine.accuracy, other.accuracy, atol=1e-6)


@pytest.mark.parametrize(("direction", "batch"), [("adam", 6), ("momentum", 16)])
def test_every_plan_is_what_its_own_replay_is(direction: str, batch: int) -> None:
    given, way = problem(batch), DIRECTIONS[direction]
    parts = subsets(SAMPLES)
    swept = sweep(given, way, Rates(RATES, BOUNDS), GRID, parts, never)
    for index, part in ((0, 0), (1, 2)):
        alone = plan(given, way, index).take(parts[part])
        assert_same(swept[index].parts[part], Replay().solve(alone, GRID))
        still = replace(alone, growth=None, seeds=alone.seeds[:1])
        assert_same(swept[index].frozen[part], Replay().solve(still, GRID))


def test_a_plan_ends_where_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["sde.sweep"], "_WORTH", 0.0)  # compiled anew
    given, way, parts = problem(), DIRECTIONS["momentum"], [slice(SAMPLES)]
    ends, looked = [2, 9, 6], list[int]()

    def enough(index: int, curves: Swept) -> bool:
        looked.append(int(curves.parts[0].steps[-1]))
        return looked[-1] >= ends[index]

    whole = sweep(given, way, Rates(RATES, BOUNDS), GRID, parts, never)
    ended = sweep(given, way, Rates(RATES, BOUNDS), GRID, parts, enough)
    assert [swept.parts[0].steps[-1] for swept in ended] == ends
    assert max(looked) == 9 < STEPS  # and nothing goes on once all have ended
    for got, expected in zip(ended, whole, strict=True):
        count = len(got.parts[0].steps)
        assert_same(got.parts[0], expected.parts[0].first(count))
        assert_same(got.frozen[0], expected.frozen[0].first(count))


def test_observed_rates_are_observed_problems() -> None:
    given, way = problem(growing=False), DIRECTIONS["adam"]
    found = observe_rates(given, way, RATES, GRID, lambda _, params: params["head"]["kernel"])
    for index in (1,):
        alone = observe(plan(given, way, index), GRID, lambda _, params: params["head"]["kernel"])
        np.testing.assert_allclose(found[index], alone, rtol=1e-3, atol=1e-5)


def test_stabilities_are_each_stability() -> None:
    given = problem(growing=False)
    optimizers = [optax.sgd(0.3, momentum=0.9), optax.sgd(1e6), optax.sgd(1e6)]
    descents = [as_gradient_descent(optimizer, STEPS) for optimizer in optimizers]
    sizes = [given.batch_size, given.batch_size, given.samples]
    found = stabilities(given, [descent for descent in descents if descent], STEPS, sizes)
    for optimizer, size, got in zip(optimizers, sizes, found, strict=True):
        alone = stability(replace(given, optimizer=optimizer, batch_size=size), STEPS)
        assert alone is not None
        assert got is not None
        np.testing.assert_allclose(
            [got.critical_learning_rate, got.noise_mass, got.sharpness],
            [alone.critical_learning_rate, alone.noise_mass, alone.sharpness],
            rtol=1e-3,
        )


def test_the_noise_scale_is_that_of_explicit_gradients() -> None:
    given = problem(growing=False)
    params = given.train.model.initial()

    def gradient(i: int) -> np.ndarray:
        sample = given.train.take(np.array([i]))
        slope = jax.grad(lambda p: sample.losses(p, given.objective).sum())(params)
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(slope)])

    each = np.stack([gradient(i) for i in range(SAMPLES)])
    spread = each.var(axis=0, ddof=1).sum()
    signal = (each.mean(0) ** 2).sum() - spread / SAMPLES
    assert noise_scale(given) == pytest.approx(spread / signal, rel=1e-3)


def test_a_sweep_is_compiled_once_however_many_points_it_looks_at() -> None:
    traced = list[int]()

    def update(gradient: Any, state: Any, params: Any = None) -> Any:
        traced.append(len(traced))
        return gradient, state

    direction = optax.GradientTransformation(lambda _: optax.EmptyState(), update)
    given, counts = problem(growing=False), list[int]()
    for grid in (GRID[1:2], GRID):
        traced.clear()
        sweep(given, direction, Rates(RATES, BOUNDS), grid, [slice(SAMPLES)], never)
        counts.append(len(traced))
    assert counts[0] == counts[1] > 0
