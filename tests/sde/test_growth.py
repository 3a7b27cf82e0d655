"""A kernel that grows while training goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linearize import HeadExactTangent, Identity, LinearTangent, linearize
from sde import (
    CrossEntropy,
    Diffusion,
    Examples,
    Problem,
    Replay,
    Spectral,
    SquaredError,
    choose_solver,
    observe,
    stability,
)
from sde.growth import grown
from sde.training import optimizer_of
from tests import networks

SAMPLES, BATCH, STEPS = 16, 4, 12
GRID = np.arange(STEPS + 1)
OPTIMIZERS = {
    "momentum": optax.sgd(0.1, momentum=0.9),
    "clipping": optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.2)),
    "adam": optax.adam(0.02),
}


def examples(mode: Any) -> Examples:
    network, x = networks.perceptron(samples=SAMPLES)
    model = linearize(network, x, Identity(), mode=mode, checked=True)
    return Examples(model, CrossEntropy().targets(np.asarray(x[:, :3].argmax(1)), 3))


def problem(mode: Any, optimizer: Any, growth: Any = None, objective: Any = None) -> Problem:
    goal = CrossEntropy() if objective is None else objective
    seeds = (0, 1)
    return Problem(examples(mode), goal, optimizer, BATCH, seeds, growth=growth)


def scaled(given: Problem, factor: float) -> Problem:
    """The same with a Jacobian so many times as large."""
    model = given.train.model
    assert isinstance(model, (LinearTangent, HeadExactTangent))
    larger = replace(model, jacobian=factor * model.jacobian)
    return replace(given, train=given.train._replace(model=larger))


def curves(given: Problem) -> np.ndarray:
    return Replay().solve(given, GRID).train.loss


# The oracle


@pytest.mark.parametrize("mode", ["linear", "head_exact"])
@pytest.mark.parametrize(("optimizer", "power"), [("momentum", 0.5), ("adam", 1.0)])
def test_a_constant_growth_is_a_larger_jacobian(
    x64: None, optimizer: str, power: float, mode: str
) -> None:
    """Gradient descent sees the Jacobian twice, Adam, free of its gradients' scale, once."""
    given = problem(mode, OPTIMIZERS[optimizer])
    expected = curves(scaled(given, 3.0**power))
    got = curves(replace(given, growth=np.array([3.0])))
    np.testing.assert_allclose(got, expected, rtol=1e-10 if optimizer == "momentum" else 1e-5)
    assert np.abs(got[:, -1] / curves(given)[:, -1] - 1).min() > 0.01  # it makes a difference


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_growth_step_by_step_is_a_kernel_that_changes(x64: None, optimizer: str) -> None:
    """f moves by γ(t) J Δφ(t), and Δφ(t) follows the gradient Jᵀ∂L/∂f, written out."""
    growth = np.linspace(0.5, 2.5, STEPS)
    given = problem("linear", OPTIMIZERS[optimizer], growth)
    model, targets = given.train
    assert isinstance(model, LinearTangent)
    rule = given.optimizer

    @jax.jit
    def step(place: Any, outputs: Any, state: Any, factor: Any, batch: Any) -> Any:
        slope = jax.grad(lambda f: given.objective.loss(f[batch], targets[batch]).mean())(outputs)
        gradient = jnp.einsum("nc,nck->k", slope, model.jacobian)
        updates, state = rule.update(gradient, state, place)
        outputs = outputs + factor * model.jacobian @ updates
        return optax.apply_updates(place, updates), outputs, state

    for row, order in enumerate(given.orders(STEPS)):
        place, outputs = model.body_initial, model.outputs_initial
        state, losses = rule.init(place), [given.objective.loss(outputs, targets).mean()]
        for factor, batch in zip(growth, order, strict=True):
            place, outputs, state = step(place, outputs, state, factor, batch)
            losses.append(given.objective.loss(outputs, targets).mean())
        np.testing.assert_allclose(curves(given)[row], losses, rtol=1e-9)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_growth_of_one_changes_nothing(optimizer: str) -> None:
    given = problem("head_exact", OPTIMIZERS[optimizer])
    same = replace(given, growth=np.ones(STEPS, np.float32))
    np.testing.assert_array_equal(curves(same), curves(given))


def test_the_last_value_holds() -> None:
    short, long, back = (
        curves(problem("linear", OPTIMIZERS["adam"], np.array([1.0, 2.0, *later])))
        for later in ([], STEPS * [2.0], [1.0])
    )
    np.testing.assert_allclose(short, long, rtol=1e-6)
    np.testing.assert_allclose(back[:, :3], short[:, :3], rtol=1e-6)
    assert np.abs(back / short - 1)[:, -1].min() > 1e-3


def test_the_head_does_not_grow() -> None:
    """A step of growth 0 moves the head as ever, and nothing else."""
    given = problem("head_exact", optax.sgd(0.1))
    still, usual = (
        observe(replace(given, growth=growth), np.array([1]), lambda _, params: params)
        for growth in (np.zeros(1, np.float32), None)
    )
    jax.tree.map(np.testing.assert_array_equal, still["head"], usual["head"])
    initial = given.train.model.initial()["body"]
    np.testing.assert_array_equal(still["body"][0, 0], initial)
    assert jnp.abs(usual["body"][0, 0] - initial).max() > 0


def test_the_transformation_counts_its_own_steps() -> None:
    params = {"body": jnp.ones(2), "head": jnp.ones(1)}
    gradient = jax.tree.map(jnp.ones_like, params)
    optimizer = grown(optax.sgd(1.0), jnp.array([1.0, 3.0]))
    state, moves = optimizer.init(params), []
    for _ in range(3):
        updates, state = optimizer.update(gradient, state, params)
        moves.append((float(updates["body"][0]), float(updates["head"][0])))
    assert moves == [(-1.0, -1.0), (-3.0, -1.0), (-3.0, -1.0)]


# Problems and solvers


def test_a_problem_without_growth_has_its_own_optimizer() -> None:
    given = problem("linear", OPTIMIZERS["adam"])
    assert optimizer_of(given) is given.optimizer
    assert optimizer_of(replace(given, growth=np.ones(1))) is not given.optimizer


def test_a_problem_keeps_its_growth() -> None:
    given = problem("head_exact", OPTIMIZERS["adam"], np.ones(3))
    assert given.take(slice(8)).growth is given.growth
    assert given.at(given.train.model.initial()).growth is given.growth


def test_a_sweep_honours_it() -> None:
    given = problem("linear", optax.sgd(0.1), np.linspace(1, 3, STEPS))
    plans = [replace(given, optimizer=optax.sgd(0.2, momentum=0.5)), replace(given, batch_size=8)]
    for got, plan in zip(Replay().sweep(plans, GRID), plans, strict=True):
        np.testing.assert_allclose(got.train.loss, curves(plan), rtol=1e-4)
    frozen = curves(replace(plans[1], growth=None))
    assert np.abs(frozen / curves(plans[1]) - 1)[:, -1].min() > 0.01


def test_a_sweep_shares_it() -> None:
    given = problem("linear", optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"^problems: they differ in \['growth'\]; expected only"):
        Replay().sweep([given, replace(given, growth=np.ones(2))], GRID)


def test_solvers_of_a_frozen_kernel_refuse_it() -> None:
    given = problem("linear", optax.sgd(0.01), np.ones(1), SquaredError())
    stable = stability(given, STEPS)
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
    frozen = replace(given, growth=None, batch_size=SAMPLES)
    assert isinstance(choose_solver("auto", frozen, stability(frozen, STEPS)), Spectral)
