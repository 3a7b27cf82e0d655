"""Which solver is taken, and which is refused."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linearize import LinearTangent
from sde import (
    Diffusion,
    Replay,
    Spectral,
    Stability,
    choose_solver,
    stability,
)
from sde import diffusion as sde_diffusion
from sde import spectral as sde_spectral
from sde.choice import check_name
from tests.sde.problems import (
    SAMPLES,
    SOLVERS,
    STEPS,
    problem,
)


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
