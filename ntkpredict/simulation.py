"""The training that a plan would do, simulated on a tangent model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linearize import (
    CountSketch,
    HeadExactTangent,
    Identity,
    Network,
    Projection,
    ScaledSketch,
    compress,
    feature_movement,
    gradient_moments,
    linearize,
    pullback,
)
from linearize.batches import map_batches
from linearize.linearization import Mode
from linearize.network import paths
from linearize.types import Params, Progress
from ntkpredict.data import Data, subset_index, take
from ntkpredict.opening import Opening
from ntkpredict.plan import Plan
from ntkpredict.stopping import StoppingRule
from ntkpredict.validity import Signals, difference
from sde import (
    Examples,
    Growth,
    Problem,
    Solver,
    Stability,
    Trajectory,
    extrapolate,
    head_directions,
    head_kernel,
    head_path,
    is_coordinate_wise,
    log_grid,
    moved_directions,
    observe_rates,
    stable_growth,
)

_ADDED = ("bias", "beta", "b")
"""Names of parameters that are added, in Flax, Keras and Haiku."""

_MOMENT_BATCHES = 8
"""Whose gradients tell how large each coordinate's are."""

_KEPT = 0.9995
"""Of what the head reads, by the directions."""

_KEPT_MOVES = 0.985
"""Of how features move under Adam, by the directions. Fewer leave it slower than it is."""

MOVES, MOVED = 4, 64
"""Steps of the body, and samples, that tell how features move."""


class Simulation:
    """The samples looked at, and how training on them is solved.

    Args:
        network: the network; it has passed `linearize.check`.
        data: the data.
        plan: the plan.
        outputs: C, the network's outputs.
        samples: how many training samples to look at, at most, but four batches at least (so that
            half of them are two batches); a quarter as many for validation.
        seeds: how many minibatch orders, the plan's own first.
        until: the stopping rule; the curves have the points that it needs.
        beside: other plans of its kind that are simulated on the same samples and features; they
            differ from it in optimizer and batch size only.
        opening: the plan's first steps where they are trained already; the tangent model is that
            of the network they lead to.

    Attributes:
        plan: the plan; its optimizer waits while the opening lasts.
        grid: the steps at which curves are known.
    """

    def __init__(
        self,
        network: Network,
        data: Data,
        plan: Plan,
        outputs: int,
        samples: int,
        seeds: int,
        until: StoppingRule,
        beside: Sequence[Plan] = (),
        opening: Opening | None = None,
    ) -> None:
        self._network = network if opening is None else opening.network
        self._opening = opening
        if opening is not None:
            plan = replace(plan, optimizer=opening.waiting(plan.optimizer))
        self.plan = plan
        self._plans = (plan, *beside)
        self._samples = data.samples
        largest = max(plan.batch_size for plan in self._plans)
        looked_at = max(samples // 2 * 2, 4 * largest)
        self._split = take(data.train, subset_index(data.samples, looked_at))
        self._held_out = None
        if data.validation is not None:
            count = max(samples // 4, 2)
            self._held_out = take(data.validation, subset_index(len(data.validation[1]), count))
        self._outputs = outputs
        self.grid = np.union1d(log_grid(plan.max_steps), until.evaluations(plan.max_steps))
        if opening is not None:
            known = opening.trajectory.steps
            self.grid = np.concatenate([known, self.grid[self.grid > known[-1]]])
        self._seeds = tuple(range(plan.seed, plan.seed + seeds))
        self._path = jnp.zeros((1, 0, 0, 0))
        self._moves = jnp.zeros((0, 0))

    def problem(
        self, mode: Mode | None, projection: Projection | None, progress: Progress
    ) -> Problem:
        """The training of the tangent model on the samples looked at."""
        inputs, labels = self._split
        count = len(labels)
        if self._held_out is not None:
            inputs = jax.tree.map(lambda *leaves: np.concatenate(leaves), inputs, self._held_out[0])
            labels = np.concatenate([labels, self._held_out[1]])
        targets = self.plan.objective.targets(labels, self._outputs)
        scaled = is_coordinate_wise(self.plan.optimizer)
        model = linearize(
            self._network,
            inputs,
            self._scaled_sketch if scaled and projection is None else projection,
            mode=mode,
            directions=lambda still: self._directions(still.take(slice(count)), targets[:count]),
            movements=lambda _: self._moves,
            checked=True,
            progress=progress,
        )
        # Coordinates of a coordinate-wise optimizer must not be mixed.
        every = Examples(model if scaled else compress(model), targets)
        validation = None if self._held_out is None else every.take(slice(count, None))
        return self._training(every.take(slice(count)), self._seeds, validation)

    def growing(self, problem: Problem, stable: Stability | None) -> Problem:
        """The same training with a kernel that grows as features form.

        Args:
            problem: the training of a `HeadExactTangent`.
            stable: its `stability`.
        """
        model = problem.train.model
        if not isinstance(model, HeadExactTangent):
            msg = "problem: got a model with a frozen head; expected mode='head_exact'"
            raise ValueError(msg)  # noqa: TRY004 (it is its mode that is wrong)
        critical = None if stable is None else stable.critical_learning_rate
        bound = stable_growth(problem.optimizer, critical, self.plan.max_steps)
        origin = model.features_along(model.initial())
        growth = Growth(origin, bound, layers(self._network.body(self._network.params)))
        return replace(problem, growth=growth)

    def signals(
        self,
        problem: Problem,
        trajectory: Trajectory,
        frozen: Trajectory | None,
        stable: Stability | None,
    ) -> Signals:
        """What the forecast knows of itself.

        Args:
            problem: the one that was solved.
            trajectory: its curves.
            frozen: the curves of a frozen kernel, where the problem's one grows.
            stable: its `stability`.
        """
        targets = problem.train.targets
        nothing = problem.objective.loss(jnp.zeros_like(targets), targets).mean()
        return Signals(
            kernel="frozen" if frozen is None else "growing",
            coordinate_wise=is_coordinate_wise(problem.optimizer),
            difference=0.0 if frozen is None else difference(frozen, trajectory),
            margin=None if stable is None else stable.margin,
            start=float(trajectory.train.loss[:, 0].mean() / nothing),
        )

    def solve(
        self,
        solver: Solver,
        problem: Problem,
        progress: Progress,
        frozen: Trajectory | None = None,
    ) -> Trajectory:
        """The curves of training on all samples.

        Args:
            solver: how.
            problem: on the samples looked at.
            progress: called with (steps done, steps in all).
            frozen: the curves of a frozen kernel, where the problem's one grows. One factor on all
                of the Jacobian learns by heart more than training does; how well features that
                form generalise is closer to what the frozen ones do at the same training loss.
        """
        if problem.samples == self._samples:
            trajectory = solver.solve(problem, self.grid, progress)
        else:
            trajectory = extrapolate(solver, problem, self._samples, self.grid, progress)
        return trajectory if frozen is None else trajectory.generalizing_like(frozen)

    def whole(self, curves: Trajectory) -> Trajectory:
        """The run from its start: simulated curves, after the opening's where there is one."""
        return curves if self._opening is None else curves.beginning(self._opening.trajectory)

    def _training(
        self, train: Examples, seeds: tuple[int, ...], validation: Examples | None = None
    ) -> Problem:
        plan = self.plan
        return Problem(train, plan.objective, plan.optimizer, plan.batch_size, seeds, validation)

    def _directions(self, still: HeadExactTangent, targets: Array) -> Array:
        """The directions of feature space that count.

        Those that the head will read, from training it alone, and under Adam, which moves features
        off them as much, those along which they move. A learning rate so high that the head is
        noise asks for all of feature space, and among plans that share directions there often is
        one: there is a limit, and a lower one for these.
        """
        pilot = self._training(Examples(still, targets), self._seeds[:2])
        others, centred = self._outputs - 1, self.plan.objective.relative
        if len(self._plans) == 1:
            every = self._path = head_path(pilot, self.grid)
            most = max(8, 3 * others)
        else:
            paths = self._paths(pilot)
            moved = jnp.abs(paths[:, :, -1] - paths[:, :, 0]).sum((1, 2, 3))
            self._path = paths[jnp.argsort(moved)[len(paths) // 2]]  # a head that moves as most do
            every = paths.reshape(-1, *paths.shape[2:])
            most = max(1, 2 * others)
        read = head_directions(every, most, kept=_KEPT, centred=centred)
        self._moves = self._movements(still, targets)
        if not is_coordinate_wise(self.plan.optimizer):
            return read
        return moved_directions(read, self._moves, most, kept=_KEPT_MOVES)

    def _movements(self, still: HeadExactTangent, targets: Array) -> Float[Array, "moves features"]:
        """Of the features of some samples, at some times of the head's training."""
        some = slice(min(MOVED, len(self._split[1])))
        moves = feature_movement(
            self._network,
            take(self._split, some)[0],
            jnp.stack([self._pulls(still, targets, some, head) for head in self._heads(MOVES)]),
            batch=self.plan.batch_size,
            signs=is_coordinate_wise(self.plan.optimizer),
        )
        return moves.reshape(-1, moves.shape[2])

    def _paths(self, pilot: Problem) -> Float[Array, "plans seeds grid features outputs"]:
        """The head's way with each optimizer, at this plan's own batch size."""
        rates: dict[Any, dict[bytes, Any]] = {}
        for plan in self._plans:
            direction, rate = plan.factors()
            rates.setdefault(direction, {})[rate.tobytes()] = rate
        ways = [
            observe_rates(pilot, direction, np.stack(list(group.values())), self.grid, head_kernel)
            for direction, group in rates.items()
        ]
        return jnp.concatenate(ways)

    def _scaled_sketch(self, still: HeadExactTangent | None) -> Projection:
        """Of the body's coordinates, by how large their gradients are while the head trains."""
        network, size = self._network, self.plan.batch_size
        inputs, labels = take(self._split, slice(_MOMENT_BATCHES * size))
        targets = self.plan.objective.targets(labels, self._outputs)
        if still is None:
            outputs = map_batches(partial(network.apply, network.params), inputs, size)
            cotangents = self._residuals(outputs, targets)
            moments = gradient_moments(
                pullback(network.apply), network.params, inputs, cotangents, batch=size
            )
            return _sketch(moments)
        # One moment of the head's training for each minibatch.
        starts = range(0, len(labels), size)
        parts = [slice(start, min(start + size, len(labels))) for start in starts]
        heads = self._heads(_MOMENT_BATCHES)[: len(parts)]
        cotangents = jnp.concatenate(
            [
                self._pulls(still, targets, part, head)
                for part, head in zip(parts, heads, strict=True)
            ]
        )
        pull, body = network.features_pullback, network.body(network.params)
        return _sketch(gradient_moments(pull, body, inputs, cotangents, batch=size))

    def _heads(self, count: int) -> Float[Array, "times features outputs"]:
        """W at some times of the head's training."""
        return self._path[0, np.linspace(0, self._path.shape[1] - 1, count).astype(int)]

    def _pulls(
        self, still: HeadExactTangent, targets: Array, part: slice, head: Array
    ) -> Float[Array, "samples features"]:
        """The gradient of each sample's loss by its features."""
        outputs = still.features_initial[part] @ head + still.bias_initial
        return self._residuals(outputs, targets[part]) @ head.T

    def _residuals(self, outputs: Array, targets: Array) -> Array:
        """The gradient of each sample's loss by its outputs."""
        return jax.grad(lambda f: self.plan.objective.loss(f, targets).sum())(outputs)


def layers(body: Params) -> int:
    """The layers that train, by their arrays that multiply: not biases."""
    return max(1, sum(path.rpartition("/")[2] not in _ADDED for path in paths(body)))


def _sketch(moments: Params) -> Projection:
    small = sum(leaf.size for leaf in jax.tree.leaves(moments)) <= CountSketch.columns
    # A head that diverges by itself has none to tell, and its forecast is divergence.
    finite = jax.tree.map(lambda leaf: np.where(np.isfinite(leaf), leaf, 0), moments)
    return Identity() if small else ScaledSketch(finite)
