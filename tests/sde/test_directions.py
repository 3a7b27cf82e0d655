"""The directions of feature space that a head reads while it trains."""

from __future__ import annotations

from functools import cache
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
    Problem,
    Replay,
    SquaredError,
    head_directions,
    head_path,
    log_grid,
    minibatch_order,
    moved_directions,
)
from tests import networks

SAMPLES, STEPS, WIDTH = 32, 60, 16
GRID = log_grid(STEPS)
OBJECTIVE = CrossEntropy()
OPTIMIZER = optax.sgd(0.1, momentum=0.9)


@cache
def whole() -> Examples:
    """All directions of a small network's feature space, exact features."""
    network, x = networks.perceptron(samples=SAMPLES, width=WIDTH)
    labels = np.asarray(x[:, :3].argmax(1))
    model = linearize(network, x, Identity(), checked=True)
    return Examples(model, OBJECTIVE.targets(labels, 3))


@cache
def still() -> Examples:
    """The head alone moves."""
    examples = whole()
    model = examples.model
    assert isinstance(model, HeadExactTangent)
    nothing = HeadExactTangent(
        features_initial=model.features_initial,
        jacobian=jnp.zeros((SAMPLES, 0, 0)),
        directions=jnp.zeros((WIDTH, 0)),
        lift=jnp.zeros((WIDTH, 0)),
        origin=jnp.zeros(0),
        body_initial=jnp.zeros(0),
        kernel_initial=model.kernel_initial,
        bias_initial=model.bias_initial,
        bias_trains=True,
        nonnegative=model.nonnegative,
        exact=True,
    )
    return Examples(nothing, examples.targets)


def along(directions: jax.Array) -> Examples:
    """The model whose body moves along these directions only, linearised anew."""
    network, x = networks.perceptron(samples=SAMPLES, width=WIDTH)
    model = linearize(network, x, Identity(), directions=directions, checked=True)
    return Examples(model, whole().targets)


def problem(examples: Examples, optimizer: Any = OPTIMIZER) -> Problem:
    return Problem(examples, OBJECTIVE, optimizer, 8, seeds=(0, 1))


def loss(examples: Examples) -> np.ndarray:
    return Replay().solve(problem(examples), GRID).train.loss


def find(pilot: Examples, count: int) -> jax.Array:
    return head_directions(head_path(problem(pilot), GRID), count)


def test_the_path_is_that_of_the_head_trained_alone() -> None:
    path = head_path(problem(still()), GRID)
    assert path.shape == (2, len(GRID), WIDTH, networks.OUTPUTS)
    features, targets = still().model.features_initial, still().targets
    head = {"kernel": still().model.kernel_initial, "bias": still().model.bias_initial}
    state = OPTIMIZER.init(head)

    @jax.jit
    def step(head: Any, state: Any, batch: jax.Array) -> Any:
        def mean_loss(head: Any) -> jax.Array:
            outputs = features[batch] @ head["kernel"] + head["bias"]
            return OBJECTIVE.loss(outputs, targets[batch]).mean()

        updates, state = OPTIMIZER.update(jax.grad(mean_loss)(head), state)
        return optax.apply_updates(head, updates), state

    kernels = [head["kernel"]]
    for batch in minibatch_order(SAMPLES, 8, STEPS, 0):
        head, state = step(head, state, batch)
        kernels.append(head["kernel"])
    np.testing.assert_allclose(path[0], jnp.stack(kernels)[GRID], rtol=1e-4, atol=1e-5)
    assert jnp.abs(path[1, -1] - path[0, -1]).max() > 1e-3  # another order of minibatches


@pytest.mark.parametrize("count", [1, 4, WIDTH, WIDTH + 5])
def test_directions_are_orthonormal_and_no_more_than_there_are(count: int) -> None:
    directions = find(still(), count)
    kept = min(count, WIDTH)
    assert directions.shape == (WIDTH, kept)
    np.testing.assert_allclose(directions.T @ directions, np.eye(kept), atol=1e-5)


def test_directions_are_the_principal_ones_of_the_kernel_along_the_path() -> None:
    """No other q directions keep more of W(t)'s squared norm, relative to that of each W(t)."""
    kernels = head_path(problem(still()), GRID)
    kernels /= jnp.linalg.norm(kernels, axis=(2, 3), keepdims=True)
    moments = np.einsum("sgdc,sgec->de", kernels, kernels)
    kept = np.trace(find(still(), 4).T @ moments @ find(still(), 4))
    assert kept == pytest.approx(np.linalg.eigvalsh(moments)[-4:].sum(), rel=1e-4)


def test_no_more_directions_than_keep_a_share_of_the_path() -> None:
    kernels = head_path(problem(still()), GRID)
    kernels /= jnp.linalg.norm(kernels, axis=(2, 3), keepdims=True)
    chosen = head_directions(kernels, WIDTH, kept=0.99)
    fewer = chosen[:, :-1]
    lost = [float(1 - jnp.square(d.T @ kernels).sum((2, 3)).mean()) for d in (chosen, fewer)]
    assert lost[0] <= 0.01 < lost[1]


def test_a_small_fresh_head_counts_as_much_as_what_it_becomes() -> None:
    """It is read all along where the body moves faster than the head."""
    path = np.zeros((1, 2, WIDTH, 1), np.float32)
    path[0, 0, 3], path[0, 1, 5] = 0.01, 10.0
    kept = jnp.square(head_directions(jnp.asarray(path), 2)).sum(1)
    np.testing.assert_allclose(kept[jnp.array([3, 5])], 1, atol=1e-5)


def test_what_outputs_have_in_common_is_left_out_where_it_does_not_count() -> None:
    random = np.random.default_rng(0)
    apart, common = random.normal(size=(WIDTH, 1)), random.normal(size=(WIDTH, 1))
    path = jnp.asarray(apart * [1, -1] + 5 * common)[None, None]
    directions = head_directions(path, 1, centred=True)[:, 0]
    along = directions @ apart[:, 0] / np.linalg.norm(apart)
    assert abs(along) == pytest.approx(1, abs=1e-5)
    assert CrossEntropy.relative
    assert not SquaredError.relative


def test_directions_are_added_until_they_keep_a_share_of_the_movements() -> None:
    random = np.random.default_rng(0)
    read = find(still(), 4)
    moves = jnp.asarray(random.normal(size=(50, WIDTH)) * 0.5 ** np.arange(WIDTH))
    chosen = moved_directions(read, moves, WIDTH, kept=0.99)
    np.testing.assert_allclose(chosen.T @ chosen, np.eye(chosen.shape[1]), atol=1e-5)
    np.testing.assert_allclose(chosen @ (chosen.T @ read), read, atol=1e-5)  # those given stay

    def lost(directions: jax.Array) -> float:
        off = moves - (moves @ directions) @ directions.T
        return float(jnp.square(off).sum() / jnp.square(moves).sum())

    _, _, others = np.linalg.svd(moves - (moves @ read) @ read.T, full_matrices=False)
    fewer = jnp.concatenate([read, others[: chosen.shape[1] - 5].T], axis=1)
    assert lost(chosen) <= 0.01 < lost(fewer)


@pytest.mark.parametrize(("most", "kept", "found"), [(6, 1.0, 6), (2, 1.0, 4), (8, 0.0, 4)])
def test_no_more_directions_are_added_than_asked_for(most: int, kept: float, found: int) -> None:
    moves = np.random.default_rng(0).normal(size=(50, WIDTH))
    chosen = moved_directions(find(still(), 4), jnp.asarray(moves), most, kept=kept)
    assert chosen.shape == (WIDTH, found)


def test_nothing_that_moves_adds_no_directions() -> None:
    read = find(still(), 4)
    for moves in (jnp.zeros((3, WIDTH)), jnp.zeros((0, WIDTH)), read.T):
        assert moved_directions(read, moves, WIDTH, kept=0.99).shape == (WIDTH, 4)


def test_keeping_all_directions_changes_nothing() -> None:
    directions = find(still(), WIDTH)
    np.testing.assert_allclose(loss(along(directions)), loss(whole()), rtol=1e-3)


@pytest.mark.parametrize("pilot", [whole, still])
def test_few_directions_carry_nearly_everything(pilot: object) -> None:
    """2(C − 1) directions close the gap between no body at all and all of it."""
    assert callable(pilot)
    everything, nothing = loss(whole()), loss(still())
    few = loss(along(find(pilot(), 2 * (networks.OUTPUTS - 1))))
    gap = np.abs(np.log(nothing / everything))[:, -1]
    left = np.abs(np.log(few / everything))[:, -1]
    assert (gap > 0.2).all()  # there is something to carry
    assert (left < 0.15 * gap).all()


def test_a_pilot_that_diverges_still_gives_directions() -> None:
    directions = head_directions(head_path(problem(still(), optax.sgd(1e30)), GRID), 4)
    np.testing.assert_allclose(directions.T @ directions, np.eye(4), atol=1e-5)
