"""One suite for every solver: where two of them must agree, and what all of them must do."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linearize import LinearTangent
from sde import (
    CrossEntropy,
    Curve,
    Diffusion,
    Examples,
    Problem,
    Replay,
    Spectral,
    Trajectory,
    log_grid,
    stability,
)
from tests.sde.problems import (
    COLUMNS,
    GRID,
    OBJECTIVES,
    OPTIMIZERS,
    SAMPLES,
    SOLVERS,
    STEPS,
    arrays,
    assert_same,
    problem,
    with_optimizers,
)

# (solver, model, objective), all that are supported.
CASES = [
    (name, model, objective)
    for name in SOLVERS
    for model in ("linear", "head-exact")
    for objective in OBJECTIVES
    if name != "spectral" or (model, objective) == ("linear", "squared error")
]


# Full batches: nothing is random, so everything agrees


@pytest.mark.parametrize(
    ("solver", "model", "objective"), [CASES[0], *(case for case in CASES if case[0] != "replay")]
)
def test_full_batch_training_is_that_of_plain_optax(
    x64: None, solver: str, model: str, objective: str
) -> None:
    """In double precision, for every optimizer; the rates are read from optax in float32."""
    given = problem(model, objective)
    found = SOLVERS[solver].sweep(with_optimizers(given), GRID)
    for optimizer, got in zip(OPTIMIZERS.values(), found, strict=True):
        assert_same(got, trained(given, optimizer), rtol=2e-6)


@pytest.mark.parametrize("solver", ["sde", "spectral"])
@pytest.mark.parametrize("optimizer", ["nesterov", "weight decay"])
def test_single_precision_is_enough(solver: str, optimizer: str) -> None:
    given = problem(optimizer=optimizer)
    got, expected = (SOLVERS[name].solve(given, GRID) for name in (solver, "replay"))
    for a, b in zip(arrays(got), arrays(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def trained(given: Problem, optimizer: optax.GradientTransformation) -> Trajectory:
    """Full-batch training as a plain loop."""
    model = given.train.model

    def loss(params: Any) -> jax.Array:
        return given.objective.loss(model(params), given.train.targets).mean()

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params = model.initial()
    state, path = optimizer.init(params), [params]
    for _ in range(STEPS):
        params, state = step(params, state)
        path.append(params)
    curves = []
    for examples in given.sets:
        outputs = [np.asarray(examples.model(path[time])) for time in GRID]
        losses = [given.objective.loss(jnp.asarray(f), examples.targets).mean() for f in outputs]
        right = [np.mean(f.argmax(1) == examples.targets.argmax(1)) for f in outputs]
        curves.append(Curve(np.array([losses]), np.array([right])))
    return Trajectory(GRID, *curves)


# Minibatches


SEEDS = tuple(range(150))
LATE = np.array([0, 8, 20, 50])
# Rates at which the noise mass is between 0.05 and 0.12.
FACTORS = {"linear": 8.0, "head-exact": 1.5}
LIGHT = {
    "plain": optax.sgd(0.04),
    "heavy ball": optax.sgd(0.01, momentum=0.8),
    "nesterov": optax.sgd(0.01, momentum=0.8, nesterov=True),
    "weight decay": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.02, momentum=0.5)),
    "cosine": optax.sgd(optax.cosine_decay_schedule(0.04, 50), momentum=0.5),
}
# What each approximation may be off by, as a share of the loss, beside the standard error.
OFF = {"sde": 0.002, "spectral": 0.008}


@cache
def replayed(model: str, objective: str, sampling: str) -> list[Trajectory]:
    return Replay().sweep(noisy_plans(model, objective, sampling), LATE)


def noisy_plans(model: str, objective: str, sampling: str) -> list[Problem]:
    given = problem(model, objective, batch_size=4, seeds=SEEDS, sampling=sampling)
    slower = optax.scale(FACTORS[model])
    return [replace(given, optimizer=optax.chain(light, slower)) for light in LIGHT.values()]


@pytest.mark.parametrize("sampling", ["independent", "epochs"])
@pytest.mark.parametrize(
    ("solver", "model", "objective"), [case for case in CASES if case[0] != "replay"]
)
def test_minibatch_curves_agree_in_the_mean(
    optimized: None, solver: str, model: str, objective: str, sampling: str
) -> None:
    """Of batches drawn afresh the squared error's mean is that of the SDE, with no tolerance."""
    exact = replayed(model, objective, sampling)
    found = SOLVERS[solver].sweep(noisy_plans(model, objective, sampling), LATE)
    share = OFF[solver]
    if (solver, model, objective, sampling) == ("sde", "linear", "squared error", "independent"):
        share = 1e-6
    for plan, expected, got in zip(LIGHT, exact, found, strict=True):
        for on in ("train", "validation"):
            a, b = got.curve(on).loss, expected.curve(on).loss
            error = np.hypot(standard_error(a), standard_error(b))
            off = np.abs(a.mean(0) - b.mean(0))
            assert (off <= 4 * error + share * b.mean(0)).all(), (plan, on)


@pytest.mark.parametrize(("model", "objective"), [case[1:] for case in CASES[:4]])
def test_the_noise_that_is_compared_is_seen(optimized: None, model: str, objective: str) -> None:
    """The same comparison fails against full batches, so that it can tell."""
    expected = replayed(model, objective, "independent")[-1].train.loss
    plan = noisy_plans(model, objective, "independent")[-1]
    still = replace(plan, batch_size=SAMPLES, seeds=(0,))
    added = expected.mean(0) - Replay().solve(still, LATE).train.loss[0]
    assert (added / (4 * standard_error(expected) + 0.002 * expected.mean(0)))[1:].max() > 2


def standard_error(values: np.ndarray) -> np.ndarray:
    return values.std(0) / len(values) ** 0.5


# Sweeps


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sweep_is_one_solution_after_the_other(solver: str) -> None:
    given = problem(batch_size=16, seeds=(0, 5))
    plans = [
        replace(given, optimizer=optimizer, batch_size=size)
        for optimizer, size in [
            (optax.sgd(0.05), 16),
            (optax.sgd(0.02, momentum=0.9), 16),
            (OPTIMIZERS["weight decay"], 5),
            (OPTIMIZERS["cosine"], SAMPLES),
        ]
    ]
    for plan, got in zip(plans, SOLVERS[solver].sweep(plans, GRID), strict=True):
        assert_same(got, SOLVERS[solver].solve(plan, GRID), rtol=2e-4)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["train", "validation", "objective", "seeds", "sampling"])
def test_a_sweep_is_over_the_same_samples(solver: str, name: str) -> None:
    given = problem(batch_size=16)
    other: dict[str, Any] = {
        "train": given.train._replace(targets=-given.train.targets),
        "validation": None,
        "objective": CrossEntropy(),
        "seeds": (1,),
        "sampling": "independent",
    }
    named = "samples" if name in ("train", "validation") else name
    with pytest.raises(
        ValueError, match=rf"^problems: they differ in \['{named}'\]; expected only"
    ):
        SOLVERS[solver].sweep([given, replace(given, **{name: other[name]})], GRID)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sweep_is_of_something(solver: str) -> None:
    with pytest.raises(ValueError, match=r"^problems: got none; expected at least one$"):
        SOLVERS[solver].sweep([], GRID)


def test_a_replayed_sweep_takes_any_optimizer() -> None:
    given = problem(batch_size=16)
    clipped = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1))
    plans = [given, replace(given, optimizer=clipped)]
    for plan, got in zip(plans, Replay().sweep(plans, GRID), strict=True):
        assert_same(got, Replay().solve(plan, GRID), rtol=1e-5)


# What holds for every solver and any batch size


@pytest.mark.parametrize(("solver", "model", "objective"), CASES)
def test_curves(solver: str, model: str, objective: str) -> None:
    """Their rows are the seeds, they begin at the initial loss, and nothing hangs on chance."""
    given = problem(model, objective, batch_size=16, seeds=(0, 3), optimizer="heavy ball")
    got = SOLVERS[solver].solve(given, GRID)
    rows = 1 if solver == "spectral" else 2
    for values in arrays(got):
        assert values.shape == (rows, len(GRID))
        assert np.isfinite(values).all()
    for curve, examples in zip((got.train, got.curve("validation")), given.sets, strict=True):
        outputs = examples.model(examples.model.initial())
        loss = given.objective.loss(outputs, examples.targets).mean()
        np.testing.assert_allclose(curve.loss[:, 0], loss, rtol=1e-5)
        right = given.objective.accuracy(outputs, examples.targets)
        np.testing.assert_allclose(curve.accuracy[:, 0], right, rtol=1e-6)
        assert ((curve.accuracy >= 0) & (curve.accuracy <= 1)).all()
    assert_same(SOLVERS[solver].solve(given, GRID), got, rtol=0)
    np.testing.assert_array_equal(got.steps, GRID)


@pytest.mark.parametrize("solver", ["replay", "sde"])
def test_a_seed_is_the_same_in_any_company(solver: str) -> None:
    given = problem(batch_size=16, seeds=(0, 3, 7))
    several = SOLVERS[solver].solve(given, GRID).train.loss
    alone = SOLVERS[solver].solve(replace(given, seeds=(3,)), GRID).train.loss
    np.testing.assert_allclose(alone[0], several[1], rtol=1e-5)
    assert np.abs(np.diff(several[:, 1:], axis=0)).min() > 0


@pytest.mark.parametrize("solver", SOLVERS)
def test_where_curves_are_looked_at_does_not_change_full_batches(solver: str) -> None:
    given = problem(optimizer="cosine")
    everywhere = SOLVERS[solver].solve(given, np.arange(STEPS + 1)).train.loss
    got = SOLVERS[solver].solve(given, GRID[3:]).train.loss
    np.testing.assert_allclose(got, everywhere[:, GRID[3:]], rtol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_without_validation_there_is_no_validation_curve(solver: str) -> None:
    given = problem(batch_size=16)
    alone = SOLVERS[solver].solve(replace(given, validation=None), GRID)
    assert alone.validation is None
    both = SOLVERS[solver].solve(given, GRID)
    np.testing.assert_allclose(alone.train.loss, both.train.loss, rtol=1e-5)


@pytest.mark.parametrize(
    ("solver", "objective"), [case[::2] for case in CASES if case[1] == "linear"]
)
def test_units_of_parameters_and_their_axes_do_not_matter(solver: str, objective: str) -> None:
    """Features times c and rates over c² leave the outputs unchanged, so does a rotation."""
    c, decay = 3.0, 0.2
    given = problem("linear", objective, batch_size=16, seeds=(0, 1))
    model = given.train.model
    assert isinstance(model, LinearTangent)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(COLUMNS, COLUMNS)))[0]

    def turned(model: Any) -> LinearTangent:
        jacobian = c * model.jacobian @ rotation.T
        start = rotation @ model.body_initial / c
        return replace(model, jacobian=jacobian, body_initial=start)

    def optimizer(rate: float, decay: float) -> optax.GradientTransformation:
        return optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, momentum=0.6))

    assert given.validation is not None
    other = replace(
        given,
        train=given.train._replace(model=turned(model)),
        validation=given.validation._replace(model=turned(given.validation.model)),
        optimizer=optimizer(0.09 / c**2, decay * c**2),
    )
    got = SOLVERS[solver].solve(other, GRID)
    expected = SOLVERS[solver].solve(replace(given, optimizer=optimizer(0.09, decay)), GRID)
    assert_same(got, expected, rtol=2e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_units_of_outputs_scale_the_squared_error(solver: str) -> None:
    """Features, start and targets times c, rate over c²: the loss times c²."""
    c, given = 10.0, problem(batch_size=16, optimizer="heavy ball")

    def scaled(examples: Examples | None) -> Examples:
        assert examples is not None
        model = examples.model
        assert isinstance(model, LinearTangent)
        larger = replace(
            model, jacobian=c * model.jacobian, outputs_initial=c * model.outputs_initial
        )
        return Examples(larger, c * examples.targets)

    other = replace(
        given,
        train=scaled(given.train),
        validation=scaled(given.validation),
        optimizer=optax.sgd(0.1 / c**2, momentum=0.8),
    )
    got, expected = (SOLVERS[solver].solve(which, GRID) for which in (other, given))
    np.testing.assert_allclose(got.train.loss, c**2 * expected.train.loss, rtol=1e-4)
    np.testing.assert_array_equal(got.train.accuracy, expected.train.accuracy)


# Divergence


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["plain", "heavy ball", "nesterov"])
def test_divergence_begins_at_the_critical_rate(solver: str, kind: str) -> None:
    momentum = {} if kind == "plain" else {"momentum": 0.8, "nesterov": kind == "nesterov"}
    given = problem()
    steps = 150
    stable = stability(replace(given, optimizer=optax.sgd(0.1, **momentum)), steps)
    assert stable is not None
    rates = [share * stable.critical_learning_rate for share in (0.9, 1.1, 2.0)]
    grid = log_grid(steps)
    plans = [replace(given, optimizer=optax.sgd(rate, **momentum)) for rate in rates]
    swept = SOLVERS[solver].sweep(plans, grid)
    assert [bool(found.diverged.all()) for found in swept] == [False, True, True]
    if solver == "spectral":  # another way of solving
        solved = [Spectral().solve(plan, grid) for plan in plans]
        assert [bool(found.diverged.all()) for found in solved] == [False, True, True]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("batch_size", [16, SAMPLES])
def test_divergence_beyond_all_numbers_is_no_error(solver: str, batch_size: int) -> None:
    plans = [problem(batch_size=batch_size, optimizer=optax.sgd(rate)) for rate in (1e3, 1e10)]
    for plan in plans:
        assert SOLVERS[solver].solve(plan, log_grid(1000)).diverged.all()


# Momentum by the effective rate


@pytest.mark.parametrize(("momentum", "share", "agrees"), [(0.5, 0.02, True), (0.98, 0.2, False)])
def test_the_effective_rate_is_good_while_momentum_forgets_fast(
    momentum: float, share: float, agrees: bool
) -> None:
    """Late in training, at a time of ten of the mode's own; ηλ/N against (1 − m)²."""
    given = problem(seeds=(0,))
    stable = stability(given, STEPS)
    assert stable is not None
    effective = share / stable.sharpness
    given = replace(given, optimizer=optax.sgd(effective * (1 - momentum), momentum=momentum))
    stable = stability(given, STEPS)
    assert stable is not None
    assert stable.overshoot == pytest.approx(
        effective * stable.sharpness / (1 - momentum), rel=0.01
    )
    assert (stable.overshoot < 0.05) if agrees else (stable.overshoot >= 1)
    grid = np.array([0, 20, 100, 300])
    true = Replay().solve(given, grid).train.loss[0]
    carried = Diffusion().solve(given, grid).train.loss[0]
    paper = Diffusion(effective_rate=True).solve(given, grid).train.loss[0]
    np.testing.assert_allclose(carried, true, rtol=1e-4)
    floor = Replay().solve(problem(), np.array([3000])).train.loss[0, -1]
    off = np.abs(np.log((paper - floor) / (true - floor)))
    assert (off[1:] < 0.05).all() if agrees else off[1:].max() > 0.3


def test_the_sde_does_not_follow_clipping() -> None:
    given = problem(optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)))
    with pytest.raises(ValueError, match=r"^solver: needs gradient descent .*solver='replay'$"):
        Diffusion().solve(given, GRID)


@pytest.mark.parametrize("stride", [0.0, -1.0, float("nan")])
def test_a_stride_is_positive(stride: float) -> None:
    with pytest.raises(ValueError, match=r"^stride: got .*; expected a number greater than 0$"):
        Diffusion(stride)
