"""What the closed forms must do beside what every solver does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linearize import LinearTangent
from sde import (
    Examples,
    Problem,
    Spectral,
    SquaredError,
    log_grid,
    stability,
)
from tests.sde.problems import (
    COLUMNS,
    GRID,
    OPTIMIZERS,
    SAMPLES,
    SOLVERS,
    STEPS,
    assert_same,
    problem,
)


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
