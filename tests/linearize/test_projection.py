"""What every kind of projection must do, and how fast its error falls."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

from linearize import Achlioptas, CountSketch, Identity, Projection, linearize
from tests import networks

COLUMNS = 32
SEEDS = 150
KINDS: dict[str, Callable[[int], Projection]] = {
    "CountSketch": lambda seed: CountSketch(COLUMNS, seed),
    "Achlioptas": lambda seed: Achlioptas(COLUMNS, seed, block=64),  # several blocks a tensor
    "Identity": lambda _seed: Identity(),
}
RANDOM = ["CountSketch", "Achlioptas"]
SHAPES: Any = {"body": {"conv": (3, 5, 10), "scale": (1,)}, "head": {"bias": (3,)}}
SIZE = 154


def tree(rows: int, seed: int = 0) -> Any:
    """Rows of parameters: one tensor of several blocks and two small ones, one a single number."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(random.normal(size=(rows, *shape)), jnp.float32),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def params() -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree(1))


def flat(rows: Any) -> np.ndarray:
    return np.asarray(jax.vmap(lambda row: ravel_pytree(row)[0])(rows))


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=RANDOM)
def random_kind(request: pytest.FixtureRequest) -> str:
    return request.param


# The conformance suite


def test_dimension_is_the_width(kind: str) -> None:
    projection = KINDS[kind](0)
    expected = SIZE if kind == "Identity" else COLUMNS
    assert projection.dimension(params()) == expected
    assert projection.bind(params())(tree(2)).shape == (2, expected)


def test_linear(kind: str) -> None:
    project = KINDS[kind](0).bind(params())
    a, b = tree(3, 1), tree(3, 2)
    mixed = jax.tree.map(lambda x, y: 2 * x - 3 * y, a, b)
    np.testing.assert_allclose(project(mixed), 2 * project(a) - 3 * project(b), atol=1e-4)


def test_rows_are_projected_one_by_one(kind: str) -> None:
    project = KINDS[kind](0).bind(params())
    rows = tree(3)
    last = jax.tree.map(lambda leaf: leaf[2:], rows)
    np.testing.assert_allclose(project(rows)[2:], project(last), atol=1e-5)


def test_the_seed_determines_it(kind: str) -> None:
    rows = tree(2)
    a, b = (KINDS[kind](7).bind(params())(rows) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_passes_through_jit_as_an_argument(kind: str) -> None:
    project, rows = KINDS[kind](0).bind(params()), tree(2)
    jitted = jax.jit(lambda project, rows: project(rows))
    np.testing.assert_allclose(jitted(project, rows), project(rows), atol=1e-5)


def test_missing_leaves_are_left_out(kind: str) -> None:
    without = {**tree(2), "absent": None}
    projection = KINDS[kind](0)
    project = projection.bind({**params(), "absent": None})
    np.testing.assert_allclose(project(without), projection.bind(params())(tree(2)), atol=1e-5)


@cache
def sketched(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Estimates of ⟨a, b⟩, shape (seeds, pairs), and the true ones with their bound, (2, pairs).

    The pairs: independent vectors, equal ones, and ones that meet in a single small tensor.
    """
    a, b = tree(6, 1), tree(6, 2)
    b = jax.tree.map(
        lambda x, y: jnp.where(np.arange(6).reshape(-1, *[1] * (x.ndim - 1)) < 3, x, y), a, b
    )
    small = jax.tree.map(jnp.zeros_like, a)
    rows = [a, b, {**small, "head": a["head"]}, {**small, "head": b["head"]}]
    stacked = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *rows)
    left, right = np.r_[0:6, 12:18], np.r_[6:12, 18:24]
    estimates = []
    for seed in range(SEEDS):
        projected = np.asarray(KINDS[kind](seed).bind(params())(stacked), float)
        estimates.append((projected[left] * projected[right]).sum(1))
    exact = flat(stacked).astype(float)
    inner = (exact[left] * exact[right]).sum(1)
    bound = (exact[left] ** 2).sum(1) * (exact[right] ** 2).sum(1) + inner**2
    return np.stack(estimates), np.stack([inner, bound / COLUMNS])


def test_inner_products_are_unbiased(kind: str) -> None:
    estimates, (inner, bound) = sketched(kind)
    error = estimates.mean(0) - inner
    standard_error = np.sqrt(bound / SEEDS) * (kind != "Identity")
    assert (np.abs(error) <= 3.5 * standard_error + 1e-5 * np.sqrt(bound)).all()


def test_variance_is_within_the_bound(kind: str) -> None:
    estimates, (_, bound) = sketched(kind)
    ratio = estimates.var(0, ddof=1) / bound
    if kind == "Identity":
        assert ratio.max() < 1e-8
    else:
        # A sample variance of SEEDS nearly normal numbers, averaged over correlated pairs.
        assert ratio.max() <= 1 + 5 * np.sqrt(2 / (SEEDS - 1))
        assert ratio.mean() <= 1 + 2 * np.sqrt(2 / (SEEDS - 1))
        assert ratio.mean() >= 0.5


def test_other_seeds_and_other_names_draw_anew(random_kind: str) -> None:
    twins = {"a": jnp.ones((1, 200)), "b": -jnp.ones((1, 200))}
    projection = KINDS[random_kind](0)
    project = projection.bind(jax.tree.map(lambda leaf: leaf[0], twins))
    assert jnp.abs(project(twins)).max() > 1e-3  # tensors with the same draws would cancel
    other = KINDS[random_kind](1).bind(params())(tree(1))
    assert jnp.abs(other - projection.bind(params())(tree(1))).max() > 1e-3


def test_a_tensor_is_drawn_whatever_the_others_are(random_kind: str) -> None:
    projection = KINDS[random_kind](3)
    rows = {"kernel": jnp.ones((1, 40)), "bias": jnp.zeros((1, 5))}
    alone = {"kernel": rows["kernel"]}
    both = projection.bind({"kernel": jnp.ones(40), "bias": jnp.ones(5)})(rows)
    np.testing.assert_array_equal(both, projection.bind({"kernel": jnp.ones(40)})(alone))


# Each kind by itself


def matrix(projection: Projection, size: int) -> np.ndarray:
    """S as a matrix, (size, columns)."""
    return np.asarray(projection.bind(jnp.zeros(size))(jnp.eye(size)))


def test_count_sketch_has_one_sign_a_coordinate() -> None:
    entries = matrix(CountSketch(COLUMNS, 0), 2000)
    assert (np.count_nonzero(entries, axis=1) == 1).all()
    assert set(np.unique(entries)) == {-1.0, 0.0, 1.0}
    assert stats.chisquare(np.count_nonzero(entries, axis=0)).pvalue > 1e-3
    assert stats.binomtest(int((entries == 1).sum()), 2000).pvalue > 1e-3


def test_achlioptas_has_entries_of_the_paper() -> None:
    entries = matrix(Achlioptas(COLUMNS, 0, block=300), 1000) / (3 / COLUMNS) ** 0.5
    np.testing.assert_allclose(np.unique(entries), [-1, 0, 1], rtol=1e-6)
    counts = np.unique(entries.round(), return_counts=True)[1]
    expected = entries.size * np.array([1 / 6, 2 / 3, 1 / 6])
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_identity_is_the_parameters_themselves() -> None:
    np.testing.assert_array_equal(Identity().bind(params())(tree(2)), flat(tree(2)))


@pytest.mark.parametrize("kind", [CountSketch, Achlioptas])
@pytest.mark.parametrize("columns", [0, -3])
def test_columns_must_be_positive(kind: Any, columns: int) -> None:
    with pytest.raises(ValueError, match=rf"^columns: got {columns}; expected at least 1$"):
        kind(columns)


# Convergence


@pytest.mark.parametrize("kind", [CountSketch, Achlioptas])
def test_error_of_inner_products_falls_as_one_over_root_k(kind: Any) -> None:
    """On real Jacobian rows: the slope of log error against log k is −1/2, within its own error."""
    network, x = networks.perceptron(samples=6, width=16)
    rows = linearize(network, x, Identity(), mode="linear", checked=True).jacobian.reshape(18, -1)
    unravel = ravel_pytree(network.params)[1]
    grads = jax.vmap(unravel)(rows)
    exact = np.asarray(rows @ rows.T)
    columns, errors = [], []
    for k in (64, 256, 1024, 4096):
        for seed in range(16):
            projected = np.asarray(kind(k, seed).bind(network.params)(grads))
            columns.append(k)
            errors.append(np.linalg.norm(projected @ projected.T - exact) / np.linalg.norm(exact))
    fit = stats.linregress(np.log(columns), np.log(errors))
    assert fit.stderr < 0.04  # so that other orders would be seen
    assert abs(fit.slope + 0.5) < 3 * fit.stderr
