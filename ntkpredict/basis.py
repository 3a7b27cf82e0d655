"""The coordinates of a tangent model: which of a network's features and parameters it looks at."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from linearize import (
    CountSketch,
    HeadExactTangent,
    Identity,
    Network,
    Projection,
    ScaledSketch,
    feature_movement,
    gradient_moments,
    pullback,
)
from linearize.batches import map_batches
from linearize.types import Inputs, Params
from ntkpredict.opening import Opening
from ntkpredict.plan import Plan
from sde import (
    Examples,
    Problem,
    head_directions,
    head_kernel,
    head_path,
    moved_directions,
    observe_rates,
)

_MOMENT_BATCHES = 8
"""Whose gradients tell how large each coordinate's are."""

_KEPT = 0.9995
"""Of what the head reads, by the directions."""

_KEPT_MOVES = 0.985
"""Of how features move under Adam, by the directions. Fewer leave it slower than it is."""

MOVES, MOVED = 4, 64
"""Steps of the body, and samples, that tell how features move."""


class Basis:
    """Directions of feature space and columns of parameter space, from training the head alone.

    Args:
        network: the network.
        train: the inputs and the targets looked at.
        plans: those that share the tangent model, its own first; they differ in optimizer and
            batch size only.
        seeds: of minibatch orders.
        grid: the steps of the curves.
        scaled: whether the optimizers treat coordinates one by one.
        opening: the first plan's first steps where they are trained already.

    Attributes:
        projection: the last `sketch`.
        movements: of the features of some samples, at some times of the head's training, (moves,
            features); none before the directions are found.
    """

    def __init__(
        self,
        network: Network,
        train: tuple[Inputs, Float[Array, "samples outputs"]],
        plans: Sequence[Plan],
        seeds: tuple[int, ...],
        grid: Int[np.ndarray, " grid"],
        *,
        scaled: bool,
        opening: Opening | None = None,
    ) -> None:
        self._network = network
        self._inputs, self._targets = train
        self._plans = plans
        self._plan = plans[0]
        self._seeds = seeds[:2]
        self._grid = grid
        self._scaled = scaled
        self._opening = opening
        self._path = jnp.zeros((1, 0, 0, 0))
        self.projection: Projection = Identity()
        self.movements: Float[Array, "moves features"] = jnp.zeros((0, 0))

    def directions(self, still: HeadExactTangent) -> Float[Array, "features directions"]:
        """The directions of feature space that count.

        Those that the head will read, from training it alone, and under Adam, which moves features
        off them as much, those along which they move. A learning rate so high that the head is
        noise asks for all of feature space, and among plans that share directions there often is
        one: there is a limit, and a lower one for these.

        Args:
            still: the model in which only the head moves, on the inputs looked at.
        """
        plan, outputs = self._plan, self._targets.shape[1]
        if self._opening is not None:
            plan = self._opening.resumed(plan, still.initial(), Identity())
        examples = Examples(still, self._targets)
        problem = Problem(examples, plan.objective, plan.optimizer, plan.batch_size, self._seeds)
        if len(self._plans) == 1:
            every = self._path = head_path(problem, self._grid)
            most = max(8, 3 * (outputs - 1))
        else:
            paths = self._paths(problem)
            moved = jnp.abs(paths[:, :, -1] - paths[:, :, 0]).sum((1, 2, 3))
            self._path = paths[jnp.argsort(moved)[len(paths) // 2]]  # a head that moves as most do
            every = paths.reshape(-1, *paths.shape[2:])
            most = max(1, 2 * (outputs - 1))
        read = head_directions(every, most, kept=_KEPT, centred=plan.objective.relative)
        self.movements = self._moves(still)
        if not self._scaled:
            return read
        return moved_directions(read, self.movements, most, kept=_KEPT_MOVES)

    def sketch(self, still: HeadExactTangent | None) -> Projection:
        """Of the body's coordinates, by how large their gradients are while the head trains.

        Args:
            still: as for `directions`; None where the model has no head of its own, and all
                coordinates count by their gradients at the start.
        """
        self.projection = _sketch(self._moments(still))
        return self.projection

    def _moments(self, still: HeadExactTangent | None) -> Params:
        network, size = self._network, self._plan.batch_size
        inputs = jax.tree.map(lambda leaf: leaf[: _MOMENT_BATCHES * size], self._inputs)
        targets = self._targets[: _MOMENT_BATCHES * size]
        if still is None:
            outputs = map_batches(partial(network.apply, network.params), inputs, size)
            cotangents = self._residuals(outputs, targets)
            return gradient_moments(
                pullback(network.apply), network.params, inputs, cotangents, batch=size
            )
        # One moment of the head's training for each minibatch.
        starts = range(0, len(targets), size)
        parts = [slice(start, min(start + size, len(targets))) for start in starts]
        heads = self._heads(_MOMENT_BATCHES)[: len(parts)]
        cotangents = jnp.concatenate(
            [self._pulls(still, part, head) for part, head in zip(parts, heads, strict=True)]
        )
        pull, body = network.features_pullback, network.body(network.params)
        return gradient_moments(pull, body, inputs, cotangents, batch=size)

    def _moves(self, still: HeadExactTangent) -> Float[Array, "moves features"]:
        some = slice(min(MOVED, len(self._targets)))
        moves = feature_movement(
            self._network,
            jax.tree.map(lambda leaf: leaf[some], self._inputs),
            jnp.stack([self._pulls(still, some, head) for head in self._heads(MOVES)]),
            batch=self._plan.batch_size,
            signs=self._scaled,
        )
        return moves.reshape(-1, moves.shape[2])

    def _paths(self, problem: Problem) -> Float[Array, "plans seeds grid features outputs"]:
        """The head's way with each optimizer, at this plan's own batch size."""
        rates: dict[Any, dict[bytes, Any]] = {}
        for plan in self._plans:
            direction, rate = plan.factors()
            rates.setdefault(direction, {})[rate.tobytes()] = rate
        ways = [
            observe_rates(
                problem, direction, np.stack(list(group.values())), self._grid, head_kernel
            )
            for direction, group in rates.items()
        ]
        return jnp.concatenate(ways)

    def _heads(self, count: int) -> Float[Array, "times features outputs"]:
        """W at some times of the head's training."""
        return self._path[0, np.linspace(0, self._path.shape[1] - 1, count).astype(int)]

    def _pulls(
        self, still: HeadExactTangent, part: slice, head: Array
    ) -> Float[Array, "samples features"]:
        """The gradient of each sample's loss by its features."""
        outputs = still.features_initial[part] @ head + still.bias_initial
        return self._residuals(outputs, self._targets[part]) @ head.T

    def _residuals(self, outputs: Array, targets: Array) -> Array:
        """The gradient of each sample's loss by its outputs."""
        return jax.grad(lambda f: self._plan.objective.loss(f, targets).sum())(outputs)


def _sketch(moments: Params) -> Projection:
    small = sum(leaf.size for leaf in jax.tree.leaves(moments)) <= CountSketch.columns
    # A head that diverges by itself has none to tell, and its forecast is divergence.
    finite = jax.tree.map(lambda leaf: np.where(np.isfinite(leaf), leaf, 0), moments)
    return Identity() if small else ScaledSketch(finite)
