"""What every kind of projection must do, and how fast its error falls."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

from linearize import Achlioptas, CountSketch, Identity, Projection, ScaledSketch, linearize
from tests import networks

COLUMNS = 32
SEEDS = 150
KINDS: dict[str, Callable[[int], Projection]] = {
    "CountSketch": lambda seed: CountSketch(COLUMNS, seed),
    "Achlioptas": lambda seed: Achlioptas(COLUMNS, seed, block=64),  # several blocks a tensor
    "Identity": lambda _seed: Identity(),
    "ScaledSketch": lambda seed: ScaledSketch(moments(), COLUMNS, bins=4, seed=seed),
}
RANDOM = ["CountSketch", "Achlioptas"]
UNBIASED = [*RANDOM, "Identity"]
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


def moments() -> Any:
    return jax.tree.map(lambda leaf: jnp.square(leaf[0]), tree(1, 5))


def flat(rows: Any) -> np.ndarray:
    return np.asarray(jax.vmap(lambda row: ravel_pytree(row)[0])(rows))


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=UNBIASED)
def unbiased_kind(request: pytest.FixtureRequest) -> str:
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


def test_the_point_of_parameters_has_the_width(kind: str) -> None:
    projection = KINDS[kind](0)
    assert projection.point(params()).shape == (projection.dimension(params()),)
    if kind != "ScaledSketch":
        expected = projection.bind(params())(jax.tree.map(lambda leaf: leaf[None], params()))[0]
        np.testing.assert_array_equal(projection.point(params()), expected)


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


def test_inner_products_are_unbiased(unbiased_kind: str) -> None:
    estimates, (inner, bound) = sketched(unbiased_kind)
    error = estimates.mean(0) - inner
    standard_error = np.sqrt(bound / SEEDS) * (unbiased_kind != "Identity")
    assert (np.abs(error) <= 3.5 * standard_error + 1e-5 * np.sqrt(bound)).all()


def test_variance_is_within_the_bound(unbiased_kind: str) -> None:
    estimates, (_, bound) = sketched(unbiased_kind)
    ratio = estimates.var(0, ddof=1) / bound
    if unbiased_kind == "Identity":
        assert ratio.max() < 1e-8
    else:
        # A sample variance of SEEDS nearly normal numbers, averaged over correlated pairs.
        assert ratio.max() <= 1 + 5 * np.sqrt(2 / (SEEDS - 1))
        assert ratio.mean() <= 1 + 2 * np.sqrt(2 / (SEEDS - 1))
        assert ratio.mean() >= 0.5


def test_of_a_large_tensor_some_coordinates_stand_for_all() -> None:
    """Inner products are as good as those of all would be, if they are spread out."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(4, 200_000)).astype(np.float32)
    rows[1:] += rows[0]
    sketched = CountSketch().bind({"w": jnp.zeros(200_000)})({"w": jnp.asarray(rows)})
    exact = rows.astype(float) @ rows.T.astype(float)
    lengths = np.sqrt(np.diag(exact))
    error = (np.asarray(sketched @ sketched.T) - exact) / np.outer(lengths, lengths)
    assert np.abs(error).max() < 5 * np.sqrt(2 / 2048)


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


# ScaledSketch


def test_scaled_sketch_of_one_coordinate_a_bucket_is_a_signed_permutation() -> None:
    sketch = ScaledSketch(moments(), SIZE, bins=1)
    assert sketch.columns == SIZE
    entries = np.asarray(sketch.bind(params())(unit_rows()))
    assert set(np.unique(entries)) == {-1.0, 0.0, 1.0}
    np.testing.assert_array_equal(np.abs(entries).sum(0), np.ones(SIZE))
    np.testing.assert_array_equal(np.abs(entries).sum(1), np.ones(SIZE))
    assert 0.3 < (entries.sum(1) > 0).mean() < 0.7
    np.testing.assert_array_equal(sketch.point(params()), flat_params() @ entries)


def unit_rows() -> Any:
    """Each coordinate by itself, a row each."""
    return jax.vmap(ravel_pytree(params())[1])(jnp.eye(SIZE))


def flat_params() -> np.ndarray:
    return np.asarray(ravel_pytree(params())[0])


def test_scaled_sketch_sums_coordinates_of_like_moments() -> None:
    """Four sizes with an equal share in Σ√v each, and four buckets at most for each."""
    sizes = np.repeat([64.0, 16.0, 4.0, 1.0], [1, 4, 16, 64])
    sizes = np.random.default_rng(0).permutation(sizes)
    sketch = ScaledSketch(jnp.asarray(sizes**2), 16, bins=4)
    entries = matrix(sketch, 85)
    assert sketch.columns == 1 + 4 + 4 + 4
    assert (np.count_nonzero(entries, axis=1) == 1).all()
    for column in entries.T:
        (members,) = column.nonzero()
        (size,) = set(sizes[members])
        count = {64.0: 1, 16.0: 1, 4.0: 4, 1.0: 16}[size]
        assert len(members) == count
        np.testing.assert_array_equal(np.abs(column[members]), count**0.5)


def test_the_point_of_a_scaled_sketch_is_the_mean_of_signed_coordinates() -> None:
    """Σ±θ/√n: what is scaled by √n, over n."""
    sketch = ScaledSketch(moments(), COLUMNS, bins=4)
    entries = np.asarray(sketch.bind(params())(unit_rows()), float)
    counts = np.count_nonzero(entries, axis=0)
    expected = flat_params() @ np.sign(entries) / np.sqrt(counts)
    np.testing.assert_allclose(sketch.point(params()), expected, rtol=1e-5, atol=1e-6)


def test_weight_decay_of_the_point_moves_the_outputs_as_that_of_the_parameters() -> None:
    """E over signs: J Sᵀ point = J θ, though S Sᵀ is not the identity."""
    random = np.random.default_rng(0)
    like = {"w": jnp.asarray(random.uniform(0.5, 2.0, 400))}
    theta = {"w": jnp.asarray(random.normal(size=400), jnp.float32)}
    rows = {"w": jnp.asarray(random.normal(size=(3, 400)) + 0.3 * theta["w"], jnp.float32)}
    found = []
    for seed in range(100):
        sketch = ScaledSketch(like, 80, bins=4, seed=seed)
        found.append(np.asarray(sketch.bind(theta)(rows) @ sketch.point(theta)))
    expected = np.asarray(rows["w"] @ theta["w"])
    error = np.std(found, axis=0, ddof=1) / len(found) ** 0.5
    assert (np.abs(np.mean(found, axis=0) - expected) < 3.5 * error).all()
    assert (error < 0.05 * np.abs(expected)).all()


def test_of_a_large_bucket_some_coordinates_stand_for_all() -> None:
    """E over signs and draws: J Sᵀ point = J θ all the same, and no move is larger."""
    random = np.random.default_rng(0)
    size = 40_000
    like = {"w": jnp.ones(size)}
    theta = {"w": jnp.asarray(random.normal(size=size), jnp.float32)}
    rows = {"w": jnp.asarray(random.normal(size=(1, size)) + theta["w"], jnp.float32)}
    found = []
    for seed in range(60):
        sketch = ScaledSketch(like, 16, bins=4, seed=seed)
        found.append((sketch.bind(theta)(rows) @ sketch.point(theta)).item())
    entries = np.asarray(sketch.bind(theta)({"w": jnp.ones((1, size))}))
    assert np.abs(entries).max() < 5 * size / 16  # signed sums of 512 that stand for 2,500
    expected = float(rows["w"][0] @ theta["w"])
    assert np.mean(found) == pytest.approx(expected, abs=3.5 * np.std(found) / 60**0.5)
    assert np.std(found) < 0.5 * expected


def test_coordinates_without_a_gradient_are_left_out() -> None:
    like = {"a": jnp.array([0.0, 1.0, 4.0]), "b": jnp.zeros(2)}
    sketch = ScaledSketch(like, 4, bins=2)
    assert sketch.columns == 2
    rows = {"a": jnp.eye(5)[:, :3], "b": jnp.eye(5)[:, 3:]}
    entries = np.asarray(sketch.bind(like)(rows))
    np.testing.assert_array_equal(np.abs(entries).sum(1), [0, 1, 1, 0, 0])
    np.testing.assert_array_equal(np.abs(entries).sum(0), [1, 1])
    ones = jax.tree.map(jnp.ones_like, like)
    np.testing.assert_array_equal(np.abs(sketch.point(ones)), [1, 1])


def test_a_scaled_sketch_of_nothing_that_moves_is_zero() -> None:
    nothing = {"a": jnp.zeros(3)}
    sketch = ScaledSketch(nothing, 4, bins=2)
    assert sketch.columns == 1
    np.testing.assert_array_equal(sketch.bind(nothing)({"a": jnp.ones((2, 3))}), np.zeros((2, 1)))
    np.testing.assert_array_equal(sketch.point({"a": jnp.ones(3)}), [0])


@pytest.mark.parametrize(
    ("values", "columns", "bins", "message"),
    [
        ([1.0, 2.0], 0, 1, "columns: got 0; expected at least 1"),
        ([1.0, 2.0], 4, 5, "bins: got 5; expected 1..4, the columns"),
        ([1.0, 2.0], 4, 0, "bins: got 0; expected 1..4, the columns"),
        ([1.0, -2.0], 4, 2, "moments: got negative numbers, NaN or infinity; expected mean squ"),
        ([1.0, float("nan")], 4, 2, "moments: got negative numbers, NaN or infinity"),
        ([1.0, float("inf")], 4, 2, "moments: got negative numbers, NaN or infinity"),
    ],
)
def test_bad_arguments_of_a_scaled_sketch(
    values: list[float], columns: int, bins: int, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        ScaledSketch({"w": jnp.array(values)}, columns, bins=bins)


@pytest.mark.parametrize("other", [{"v": jnp.ones(3)}, {"w": jnp.ones(4)}])
def test_a_scaled_sketch_is_of_the_parameters_that_it_was_made_for(other: Any) -> None:
    with pytest.raises(ValueError, match=r"^params: no moments of '[vw]' with [34] numbers; exp"):
        ScaledSketch({"w": jnp.ones(3)}, 2, bins=1).bind(other)


PARAMETERS, BUCKETS, DRAWS = 6000, 512, 3
COORDINATE_WISE = {
    "adam": optax.adam(1e-2),
    "adamw": optax.adamw(1e-2, weight_decay=3.0),
    "rmsprop": optax.rmsprop(3e-3),
    "lion": optax.lion(3e-3),
}
BATCHES = np.concatenate(
    [np.random.default_rng(epoch).permutation(8).reshape(4, 2) for epoch in range(15)]
)


@cache
def linear_models() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Jacobians, starts and targets of linear models: drawn anew three times, and of each all
    coordinates, two scaled sketches and two count sketches, with columns of zeros added.

    The scales of the coordinates are spread over four decades.
    """
    jacobians, starts, targets = [], [], []
    for draw in range(DRAWS):
        random = np.random.default_rng(draw)
        scale = 10 ** random.uniform(-4, 0, PARAMETERS)
        shared = random.normal(size=(8, 4)) @ random.normal(size=(4, PARAMETERS)) / 2
        rows = (shared + 0.3 * random.normal(size=shared.shape)) * scale
        rows = jnp.asarray(rows / np.linalg.norm(rows, axis=1).mean(), jnp.float32)
        theta = jnp.asarray(0.1 * random.normal(size=PARAMETERS), jnp.float32)
        target = 3 * random.normal(size=8)
        gradients = np.stack([target[batch] @ np.asarray(rows)[batch] for batch in BATCHES[:16]])
        like = {"w": jnp.asarray(np.square(gradients).mean(0))}
        kinds: list[Projection] = [Identity()]
        kinds += [ScaledSketch(like, BUCKETS, seed=seed) for seed in range(2)]
        kinds += [CountSketch(BUCKETS, seed) for seed in range(2)]
        for kind in kinds:
            features, start = kind.bind({"w": theta})({"w": rows}), kind.point({"w": theta})
            missing = PARAMETERS - len(start)
            jacobians.append(np.pad(features, ((0, 0), (0, missing))))
            starts.append(np.pad(start, (0, missing)))
            targets.append(target)
    return np.stack(jacobians), np.stack(starts), np.stack(targets)


@pytest.mark.parametrize("name", COORDINATE_WISE)
def test_a_scaled_sketch_moves_the_outputs_as_all_coordinates_do(name: str) -> None:
    """Their path within 15 % and their speed within 10 %, where a count sketch is far too slow."""
    optimizer = COORDINATE_WISE[name]

    @jax.jit
    @jax.vmap
    def moves(jacobian: jax.Array, start: jax.Array, target: jax.Array) -> jax.Array:
        def step(carry: Any, batch: jax.Array) -> Any:
            place, state = carry
            outputs = jacobian @ (place - start)
            gradient = (outputs - target)[batch] @ jacobian[batch] / len(batch)
            updates, state = optimizer.update(gradient, state, place)
            place = optax.apply_updates(place, updates)
            return (place, state), jacobian @ (place - start)

        return jax.lax.scan(step, (start, optimizer.init(start)), BATCHES)[1]

    found = np.asarray(moves(*map(jnp.asarray, linear_models())), float)
    found = found.reshape(DRAWS, 5, -1)
    whole, norm = found[:, :1], np.linalg.norm(found[:, :1], axis=-1)
    errors = np.linalg.norm(found - whole, axis=-1) / norm
    speeds = (found * whole).sum(-1) / norm**2
    assert errors[:, 1:3].mean() < 0.15
    assert speeds[:, 1:3].mean() == pytest.approx(1, abs=0.1)
    assert errors[:, 3:].mean() > 0.25
    assert speeds[:, 3:].mean() < 0.8


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
