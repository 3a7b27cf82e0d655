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

from linearize import HeadExactTangent, Identity, LinearTangent, linearize
from sde import (
    CrossEntropy,
    Curve,
    Diffusion,
    Examples,
    Problem,
    Replay,
    Solver,
    Spectral,
    SquaredError,
    Stability,
    Trajectory,
    choose_solver,
    log_grid,
    stability,
)
from sde import diffusion as sde_diffusion
from sde import spectral as sde_spectral
from sde.choice import check_name
from tests import networks

SAMPLES, HELD_OUT, OUTPUTS, COLUMNS, STEPS = 64, 32, 3, 12, 40
GRID = np.array([0, 1, 2, 5, 8, 17, 30, STEPS])
SOLVERS: dict[str, Solver] = {"replay": Replay(), "sde": Diffusion(), "spectral": Spectral()}
OBJECTIVES = {"squared error": SquaredError(), "cross-entropy": CrossEntropy(0.1)}
OPTIMIZERS = {
    "plain": optax.sgd(0.5),
    "heavy ball": optax.sgd(0.1, momentum=0.8),
    "nesterov": optax.sgd(0.1, momentum=0.8, nesterov=True),
    "weight decay": optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.2, momentum=0.5)),
    "cosine": optax.sgd(optax.cosine_decay_schedule(0.3, STEPS), momentum=0.5),
}
# (solver, model, objective), all that are supported.
CASES = [
    (name, model, objective)
    for name in SOLVERS
    for model in ("linear", "head-exact")
    for objective in OBJECTIVES
    if name != "spectral" or (model, objective) == ("linear", "squared error")
]


@cache
def _linear(_x64: bool) -> LinearTangent:
    """Features with a spectrum, a start that is not zero, noise that no weight explains."""
    random = np.random.default_rng(0)
    scales = np.arange(1, COLUMNS + 1) ** -0.5
    features = random.normal(size=(SAMPLES + HELD_OUT, OUTPUTS, COLUMNS)) * scales
    return LinearTangent(
        outputs_initial=jnp.asarray(0.5 * random.normal(size=features.shape[:2]), float),
        jacobian=jnp.asarray(0.7 * features, float),
        body_initial=jnp.asarray(random.normal(size=COLUMNS), float),
        exact=True,
    )


@cache
def _head_exact(_x64: bool) -> HeadExactTangent:
    network, x = networks.perceptron(samples=SAMPLES + HELD_OUT, width=5)
    model = linearize(network, x, Identity(), checked=True)
    assert isinstance(model, HeadExactTangent)
    return model


def problem(
    model: str = "linear", objective: str = "squared error", optimizer: Any = "plain", **more: Any
) -> Problem:
    """Full batches, unless it is asked for something else."""
    make = _linear if model == "linear" else _head_exact
    tangent, goal = make(bool(jax.config.jax_enable_x64)), OBJECTIVES[objective]
    truth = np.asarray(tangent(tangent.initial()))
    truth = truth + np.random.default_rng(1).normal(size=truth.shape)
    targets = goal.targets(truth.argmax(1), OUTPUTS)
    both = Examples(tangent, targets)
    seen, unseen = both.take(slice(SAMPLES)), both.take(slice(SAMPLES, None))
    settings = {"batch_size": SAMPLES, "validation": unseen} | more
    chosen = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    return Problem(seen, goal, chosen, **settings)


def with_optimizers(given: Problem) -> list[Problem]:
    return [replace(given, optimizer=optimizer) for optimizer in OPTIMIZERS.values()]


def arrays(trajectory: Trajectory) -> list[np.ndarray]:
    curves: list[Curve] = [trajectory.train, trajectory.curve("validation")]
    return [values for curve in curves for values in (curve.loss, curve.accuracy)]


def assert_same(got: Trajectory, expected: Trajectory, rtol: float) -> None:
    np.testing.assert_array_equal(got.steps, expected.steps)
    for a, b in zip(arrays(got), arrays(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol)


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


# The spectral solver


def spectral_problem(optimizer: Any, **more: Any) -> Problem:
    return problem(**({"optimizer": optimizer} | more))


@pytest.mark.parametrize("optimizer", ["plain", "heavy ball", "nesterov", "weight decay"])
def test_the_closed_form_is_the_recursion(x64: None, optimizer: str) -> None:
    given = problem(optimizer=optimizer)
    grid = log_grid(500)
    solved, (swept,) = Spectral().solve(given, grid), Spectral().sweep([given], grid)
    assert_same(solved, swept, rtol=2e-6)  # the rates are read from optax in float32


@pytest.mark.parametrize(("modes", "share"), [(10, 0.03), (160, 0.002)])
def test_many_modes_follow_the_volterra_equation(x64: None, modes: int, share: float) -> None:
    """L(t) = F(t) + Σ K(t − 1 − s) L(s), written out; the kernel's sum is the noise mass."""
    random = np.random.default_rng(0)
    features = np.linalg.qr(random.normal(size=(200, modes)))[0][:, None] * 200**0.5
    model = LinearTangent(jnp.zeros((200, 1)), jnp.asarray(features), jnp.zeros(modes), exact=True)
    examples = Examples(model, jnp.asarray(features @ random.normal(size=modes)))
    rate, batch_size = 0.3 / modes, 2
    plan = Problem(examples, SquaredError(), optax.sgd(rate), batch_size, sampling="independent")
    grid = np.arange(6 * modes)
    full = Spectral().solve(replace(plan, batch_size=200), grid).train.loss[0]
    intensity = (200 - batch_size) / 199 / batch_size
    curvature = np.linalg.eigvalsh(features[:, 0].T @ features[:, 0]) / 200
    decay = (1 - rate * curvature) ** (2 * np.arange(20 * modes)[:, None])
    kernel = intensity * rate**2 * (curvature**2 * decay).sum(1)
    loss = full.copy()
    for t in grid[1:]:
        loss[t] += kernel[:t][::-1] @ loss[:t]
    stable = stability(plan, 6)
    assert stable is not None
    assert kernel.sum() == pytest.approx(stable.noise_mass, rel=0.05)
    assert loss[-1] > 1.03 * full[-1]
    np.testing.assert_allclose(Spectral().solve(plan, grid).train.loss[0], loss, rtol=share)


def test_more_columns_than_rows_and_a_start_that_only_decay_moves(x64: None) -> None:
    """The eigenvectors come from the other side, and one mode has no curvature."""
    given = replace(problem(optimizer="weight decay"), batch_size=3).take(slice(3))
    assert given.train.targets.size < COLUMNS
    got, expected = (SOLVERS[name].solve(given, GRID) for name in ("spectral", "replay"))
    assert_same(got, expected, rtol=2e-6)


@pytest.mark.parametrize(
    ("optimizer", "batch_size"),
    [("weight decay", SAMPLES), ("cosine", SAMPLES), ("plain", 32)],
)
def test_steps_to_a_loss_are_those_of_a_scan(optimizer: str, batch_size: int) -> None:
    slow = optax.chain(OPTIMIZERS[optimizer], optax.scale(0.02))
    given = problem(optimizer=slow, batch_size=batch_size)
    steps = 200
    every = Spectral().solve(given, np.arange(steps + 1)).train.loss[0]
    level = float(every[0] - 0.7 * (every[0] - every.min()))
    expected = int((every <= level).argmax())
    assert Spectral().steps_to(given, level, steps) == expected
    assert 5 < expected < steps
    assert Spectral().steps_to(given, 0.0, steps) is None
    assert Spectral().steps_to(given, float(every[0]) * 2, steps) == 0


def test_what_the_spectral_solver_cannot_follow() -> None:
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    for given, advice in [
        (problem(objective="cross-entropy"), "needs loss='squared_error'; use solver='replay'"),
        (problem("head-exact"), "needs a linear tangent model; use mode='linear', or solver='re"),
        (problem(optimizer=clipped), "needs gradient descent with momentum (no clipping); use so"),
    ]:
        obstacle = Spectral().obstacle(given, stability(given, STEPS))
        assert obstacle is not None
        assert obstacle.startswith(advice)
        with pytest.raises(ValueError, match=r"^solver: ") as caught:
            Spectral().solve(given, GRID)
        assert advice in str(caught.value)


def test_the_sde_does_not_follow_clipping() -> None:
    given = problem(optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)))
    with pytest.raises(ValueError, match=r"^solver: needs gradient descent .*solver='replay'$"):
        Diffusion().solve(given, GRID)


@pytest.mark.parametrize("stride", [0.0, -1.0, float("nan")])
def test_a_stride_is_positive(stride: float) -> None:
    with pytest.raises(ValueError, match=r"^stride: got .*; expected a number greater than 0$"):
        Diffusion(stride)


# The choice


def stable_with(mass: float, margin: float = 10.0) -> Stability:
    found = stability(problem(batch_size=16), STEPS)
    assert found is not None
    critical = margin * found.learning_rate
    return replace(found, noise_mass=mass, critical_learning_rate=critical)


@pytest.mark.parametrize(
    ("solver", "objective", "limit"),
    [
        ("sde", "squared error", sde_diffusion.LARGEST_MASS),
        ("sde", "cross-entropy", sde_diffusion.LARGEST_MASS_BOUNDED),
        ("spectral", "squared error", sde_spectral.LARGEST_MASS),
    ],
)
def test_too_much_noise(solver: str, objective: str, limit: float) -> None:
    given = problem("linear", objective, batch_size=16)
    assert SOLVERS[solver].obstacle(given, stable_with(limit)) is None
    obstacle = SOLVERS[solver].obstacle(given, stable_with(1.01 * limit))
    assert obstacle is not None
    assert obstacle.startswith(f"holds up to a noise mass of {limit:g}, and here it is ")
    assert "use solver='replay', a smaller learning rate or larger batches" in obstacle
    # Where training diverges anyway, every solver says so.
    assert SOLVERS[solver].obstacle(given, stable_with(9.0, margin=0.9)) is None


def test_replay_has_no_obstacle() -> None:
    assert Replay().obstacle(problem(), None) is None
    assert Replay().obstacle(problem(batch_size=16), stable_with(9.0)) is None


def test_the_automatic_choice() -> None:
    """The closed forms for a quiet quadratic, the SDE where a step is an epoch, else replay."""
    few, full = problem(batch_size=16), problem()
    limit = sde_spectral.LARGEST_MASS
    quiet, loud = stable_with(limit / 2), stable_with(2 * limit)
    unstable = stable_with(limit / 2, margin=0.9)
    slow = replace(quiet, effective_learning_rate=1e-4)  # the SDE takes long strides
    assert sde_diffusion.accurate_stride(quiet) == 1
    assert sde_diffusion.accurate_stride(slow) > SAMPLES / 16
    for given, stable, kind in [
        (few, quiet, Spectral),
        (full, quiet, Spectral),
        (few, loud, Replay),
        (few, None, Replay),
        (few, unstable, Replay),
        (problem("head-exact", batch_size=16), quiet, Replay),
        (problem("head-exact", batch_size=16), slow, Diffusion),
        (problem("head-exact"), quiet, Diffusion),
        (problem("linear", "cross-entropy", batch_size=16), quiet, Replay),
        (problem("linear", "cross-entropy", batch_size=16), slow, Diffusion),
    ]:
        assert isinstance(choose_solver("auto", given, stable), kind)


def test_the_choice_by_name() -> None:
    given, quiet = problem(batch_size=16), stable_with(0.5 * sde_spectral.LARGEST_MASS)
    loud = stable_with(2 * sde_diffusion.LARGEST_MASS)
    for name, kind in [("replay", Replay), ("sde", Diffusion), ("spectral", Spectral)]:
        assert isinstance(choose_solver(name, given, quiet), kind)
    assert isinstance(choose_solver("replay", given, None), Replay)
    for name, refused, stable, reason in [
        ("sde", given, None, "'sde' needs gradient descent"),
        ("sde", given, loud, "'sde' holds up to a noise mass of 0"),
        ("spectral", problem("head-exact"), quiet, "'spectral' needs a linear tangent model"),
        ("spectral", problem("linear", "cross-entropy"), quiet, "'spectral' needs loss='squared_e"),
    ]:
        with pytest.raises(ValueError, match=rf"^solver: {reason}"):
            choose_solver(name, refused, stable)


def test_the_chosen_sde_strides_far_where_training_is_slow_and_stays_accurate() -> None:
    given = problem(optimizer=optax.sgd(0.002))
    stable = stability(given, STEPS)
    assert stable is not None
    chosen = choose_solver("sde", given, stable)
    assert isinstance(chosen, Diffusion)
    assert chosen.stride == pytest.approx(0.1 / (0.002 * stable.sharpness), rel=1e-4)
    grid = np.array([0, 100, 1000])
    got, expected = (solver.solve(given, grid).train.loss for solver in (chosen, Replay()))
    np.testing.assert_allclose(got, expected, rtol=0.01)


def test_a_model_of_no_features_does_not_hinder_the_choice() -> None:
    """Nothing can be learnt, and that is no error."""
    given = problem()
    model = given.train.model
    assert isinstance(model, LinearTangent)
    flat = replace(model, jacobian=jnp.zeros_like(model.jacobian))
    given = replace(given, train=given.train._replace(model=flat), validation=None)
    assert isinstance(choose_solver("replay", given, stability(given, STEPS)), Replay)


def test_an_unknown_solver() -> None:
    """By the check itself: in tests, types are checked before it is reached."""
    message = r"^solver: got 'magic'; expected one of \('auto', 'replay', 'sde', 'spectral'\)$"
    with pytest.raises(ValueError, match=message):
        check_name("magic")
