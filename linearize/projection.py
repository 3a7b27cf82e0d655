"""Random projections S of parameter space, drawn from a seed one tensor at a time.

Every kind but `ScaledSketch` is unbiased, E⟨Sa, Sb⟩ = ⟨a, b⟩; no D × k matrix is ever held and
nothing is compiled.
"""

from __future__ import annotations

import abc
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linearize.network import paths
from linearize.types import Params

_DRAWN = 2**16
"""Coordinates of a tensor, at most, in a `CountSketch`."""

_STANDING = 2**9
"""Coordinates of a bucket, at most, in a `ScaledSketch`."""


class _Sums(NamedTuple):
    """Which coordinates (all where None), the bucket of each, and its factor."""

    drawn: Array | None
    buckets: Array
    factors: Array


Project = Callable[[Params], Float[Array, "rows projected"]]


class Projection(abc.ABC):
    """A kind of projection. `bind` it to a tree of parameters to get the function."""

    @abc.abstractmethod
    def dimension(self, params: Params) -> int:
        """k, the number of columns of the projection of such a tree."""

    @abc.abstractmethod
    def _state(self, path: str, size: int) -> Any:
        """What is drawn once for the tensor at `path`."""

    @abc.abstractmethod
    def _project(self, state: Any, rows: Float[Array, "rows size"]) -> Float[Array, "rows _"]:
        """The projection of one tensor."""

    @abc.abstractmethod
    def _variance(self, state: Any, squares: Float[Array, " size"]) -> Float[Array, " _"]:
        """`variance` of one tensor."""

    def _combine(self, parts: list[Array]) -> Array:
        return sum(parts[1:], start=parts[0])

    def point(self, params: Params) -> Float[Array, " projected"]:
        """Where parameters lie in projected space: the projection itself, where it is isometric."""
        return self.bind(params)(jax.tree.map(lambda leaf: leaf[None], params))[0]

    def bind(self, params: Params) -> Project:
        """The projection of trees like `params` with one more leading axis, the rows.

        Returns:
            A function from a tree of (rows, ...) arrays to (rows, k), itself a pytree so that it
            passes through `jax.jit` as an argument.
        """
        tensors = paths(params)
        states = {path: self._state(path, leaf.size) for path, leaf in tensors.items()}
        return jax.tree_util.Partial(self._apply, states)

    def variance(self, squares: Params) -> Float[Array, " projected"]:
        """E (Sg)² over the random signs.

        Args:
            squares: g² of each parameter, or means of it; a tree as for `bind`, without rows.
        """
        tensors = paths(squares)
        return self._combine(
            [
                self._variance(self._state(path, leaf.size), jnp.asarray(np.ravel(leaf)))
                for path, leaf in tensors.items()
            ]
        )

    def _apply(self, states: dict[str, Any], rows: Params) -> Float[Array, "rows projected"]:
        tensors = paths(rows)
        return self._combine(
            [
                self._project(states[path], leaf.reshape(leaf.shape[0], -1))
                for path, leaf in tensors.items()
            ]
        )


class _Buckets(Projection):
    """Signed sums over `columns` buckets."""

    columns: int

    def dimension(self, params: Params) -> int:  # noqa: ARG002
        """`columns`."""
        return self.columns

    def _project(self, state: _Sums, rows: Array) -> Array:
        return _summed(state, rows, self.columns)

    def _variance(self, state: _Sums, squares: Array) -> Array:
        squared = state._replace(factors=jnp.asarray(np.square(state.factors)))
        return _summed(squared, squares[None], self.columns)[0]


@dataclass(frozen=True)
class CountSketch(_Buckets):
    """Signed sums over random buckets: the default, one addition per coordinate.

    Each coordinate falls into one of k buckets with a random sign.
    var ⟨Sa, Sb⟩ ≤ (‖a‖²‖b‖² + ⟨a, b⟩²)/k. Of a tensor with more than 2¹⁶ coordinates so many are
    drawn and scaled, which stays unbiased: adding all of a large network takes as long as
    differentiating it.

    Source: Charikar, Chen and Farach-Colton 2002; Weinberger et al. 2009, arXiv:0902.2206.

    Attributes:
        columns: k.
        seed: of the buckets and the signs.
    """

    columns: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        _check_columns(self.columns)

    def _state(self, path: str, size: int) -> _Sums:
        # NumPy: jax.random would compile two programs for each shape of tensor.
        random = np.random.default_rng((self.seed, _hash(path)))
        count = min(size, _DRAWN)
        buckets = random.integers(self.columns, size=count, dtype=np.int32)
        factors = (2.0 * random.integers(2, size=count, dtype=np.int8) - 1) * (size / count) ** 0.5
        drawn = None if count == size else np.sort(random.choice(size, count, replace=False))
        return _sums(drawn, buckets, factors)


@dataclass(frozen=True)
class Achlioptas(Projection):
    """The paper's projection: entries √(3/k)·{+1, 0, −1} with probabilities 1/6, 2/3, 1/6.

    The matrix is drawn anew, in blocks of rows, whenever it is needed, so a projection costs D·k
    operations; prefer `CountSketch`, whose error is the same.

    Source: Achlioptas 2003, doi:10.1016/S0022-0000(03)00025-4; Zancato et al. 2020.

    Attributes:
        columns: k.
        seed: of the entries.
        block: coordinates at a time; block · k numbers are held.
    """

    columns: int = 2048
    seed: int = 0
    block: int = 1024

    def __post_init__(self) -> None:
        _check_columns(self.columns)

    def dimension(self, params: Params) -> int:  # noqa: ARG002
        """`columns`."""
        return self.columns

    def _state(self, path: str, size: int) -> Array:  # noqa: ARG002
        return jax.random.fold_in(jax.random.key(self.seed), _hash(path))

    def _project(self, state: Array, rows: Array) -> Array:
        block = min(self.block, rows.shape[1])
        return _signed_sums(state, rows, self.columns, block) * (3 / self.columns) ** 0.5

    def _variance(self, state: Array, squares: Array) -> Array:  # noqa: ARG002
        return jnp.full(self.columns, squares.sum() / self.columns)


@dataclass(frozen=True)
class Identity(Projection):
    """No projection, k = D: the oracle, for networks small enough."""

    def dimension(self, params: Params) -> int:
        """D."""
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    def _state(self, path: str, size: int) -> tuple[()]:  # noqa: ARG002
        return ()

    def _project(self, state: tuple[()], rows: Array) -> Array:  # noqa: ARG002
        return rows

    def _variance(self, state: tuple[()], squares: Array) -> Array:  # noqa: ARG002
        return squares

    def _combine(self, parts: list[Array]) -> Array:
        return jnp.concatenate(parts, axis=-1)


class ScaledSketch(_Buckets):
    """Signed sums of coordinates whose gradients are alike, for Adam and its kin.

    Such an optimizer moves each coordinate by its learning rate, whatever the gradient's scale.
    Coordinates are sorted by the second moment of their gradient and cut into bins of equal share
    in what they move, Σ√v; each bin is summed into its own buckets, with random signs. A bucket of
    n coordinates is scaled by √n: its gradient is then that of one parameter whose moves, by the
    same optimizer, change the outputs as the moves of all n do (and its own place is Σ±θ/√n).

    Attributes:
        columns: k, at most; fewer where there are fewer coordinates with a gradient.
    """

    def __init__(
        self, moments: Params, columns: int = 2048, *, bins: int = 16, seed: int = 0
    ) -> None:
        """Draw the buckets.

        Args:
            moments: the second moments of the gradients, a tree like the parameters. A coordinate
                whose moment is 0 is left out.
            columns: of the projection.
            bins: into which coordinates are cut.
            seed: of the buckets and the signs.

        Raises:
            ValueError: fewer columns than bins, no bin, moments that are negative or not finite.
        """
        _check_columns(columns)
        if not 1 <= bins <= columns:
            msg = f"bins: got {bins}; expected 1..{columns}, the columns"
            raise ValueError(msg)
        tensors = paths(moments)
        flat = np.concatenate([np.ravel(leaf) for leaf in tensors.values()]).astype(float)
        if not (np.isfinite(flat).all() and (flat >= 0).all()):
            msg = "moments: got negative numbers, NaN or infinity; expected mean squared gradients"
            raise ValueError(msg)
        buckets, factors, self._members = _buckets(flat, columns, bins, np.random.default_rng(seed))
        self.columns = len(self._members)
        self._sizes = {path: leaf.size for path, leaf in tensors.items()}
        ends = np.cumsum(list(self._sizes.values()))[:-1]
        self._states = {}
        for path, bucket, factor in zip(
            tensors, np.split(buckets, ends), np.split(factors, ends), strict=True
        ):
            (drawn,) = factor.nonzero()
            self._states[path] = _sums(drawn, bucket[drawn], factor[drawn])

    def point(self, params: Params) -> Float[Array, " projected"]:
        """Σ±θ/√n of each bucket: where weight decay pulls from."""
        sums = self.bind(params)(jax.tree.map(lambda leaf: leaf[None], params))[0]
        return sums / self._members

    def _state(self, path: str, size: int) -> _Sums:
        if self._sizes.get(path) != size:
            msg = f"params: no moments of {path!r} with {size} numbers; expected a tree like theirs"
            raise ValueError(msg)
        return self._states[path]


def _sums(drawn: np.ndarray | None, buckets: np.ndarray, factors: np.ndarray) -> _Sums:
    index = None if drawn is None else jnp.asarray(drawn)
    return _Sums(index, jnp.asarray(buckets), jnp.asarray(factors, jnp.float32))


def _summed(state: _Sums, rows: Array, columns: int) -> Array:
    drawn, buckets, factors = state
    if drawn is not None:
        rows = rows[:, drawn]
    return jax.ops.segment_sum((rows * factors).T, buckets, num_segments=columns).T


def _buckets(
    moments: np.ndarray, columns: int, bins: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bucket and the factor of each coordinate, and how many each bucket stands for.

    A factor is 0 where the moment is 0 or others of the bucket stand for the coordinate.
    """
    buckets, factors = np.zeros(len(moments), np.int32), np.zeros(len(moments))
    order = np.argsort(moments)[::-1][: np.count_nonzero(moments)]
    moves = np.sqrt(moments[order])
    shares = moves.sum() * np.arange(1, bins) / bins
    edges = np.searchsorted(np.cumsum(moves), shares) + 1  # what completes a share belongs to it
    counts: list[np.ndarray] = []
    for members in np.split(order, edges):
        count = min(columns // bins, len(members))
        if not count:
            continue
        turn, dealt = np.divmod(np.arange(len(members)), count)
        sizes = np.bincount(dealt)
        shuffled = random.permutation(members)
        signs = random.choice([-1.0, 1.0], len(members)) * (turn < _STANDING)
        buckets[shuffled] = sum(map(len, counts)) + dealt
        factors[shuffled] = (signs * sizes[dealt]) / np.sqrt(np.minimum(sizes, _STANDING))[dealt]
        counts.append(sizes)
    return buckets, factors, np.concatenate(counts or [np.ones(1)])


@partial(jax.jit, static_argnames=("columns", "block"))
def _signed_sums(key: Array, rows: Array, columns: int, block: int) -> Array:
    """Rows times a matrix of {+1, 0, −1}, drawn in blocks; probabilities 1/6, 2/3, 1/6."""
    count = -(-rows.shape[1] // block)
    padded = jnp.pad(rows, ((0, 0), (0, count * block - rows.shape[1])))
    blocks = padded.reshape(rows.shape[0], count, block).swapaxes(0, 1)

    def add(total: Array, item: tuple[Array, Array]) -> tuple[Array, None]:
        index, values = item
        uniform = jax.random.randint(
            jax.random.fold_in(key, index), (block, columns), 0, 6, dtype=jnp.int8
        )
        signs = jnp.where(uniform == 0, 1, jnp.where(uniform == 1, -1, 0))
        return total + values @ signs.astype(values.dtype), None

    start = jnp.zeros((rows.shape[0], columns), rows.dtype)
    return jax.lax.scan(add, start, (jnp.arange(count), blocks))[0]


def _hash(path: str) -> int:
    return zlib.crc32(path.encode())


def _check_columns(columns: int) -> None:
    if columns < 1:
        msg = f"columns: got {columns}; expected at least 1"
        raise ValueError(msg)
