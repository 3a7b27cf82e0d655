"""The training that a plan would do, simulated on a tangent model."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Array

from linearize import Network, Projection, compress, linearize
from linearize.tangent import Mode
from linearize.types import Progress
from ntkpredict.data import Data, subset_index, take
from ntkpredict.plan import Plan
from sde import Examples, Problem, Solver, Trajectory, extrapolate, head_directions, log_grid


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
    """

    def __init__(
        self, network: Network, data: Data, plan: Plan, outputs: int, samples: int, seeds: int
    ) -> None:
        self._network = network
        self._plan = plan
        self._samples = data.samples
        looked_at = max(samples // 2 * 2, 4 * plan.batch_size)
        self._split = take(data.train, subset_index(data.samples, looked_at))
        self._held_out = None
        if data.validation is not None:
            count = max(samples // 4, 2)
            self._held_out = take(data.validation, subset_index(len(data.validation[1]), count))
        self._outputs = outputs
        self._grid = log_grid(plan.max_steps)
        self._seeds = tuple(range(plan.seed, plan.seed + seeds))

    def problem(
        self, mode: Mode | None, projection: Projection | None, progress: Progress
    ) -> Problem:
        """The training of the tangent model on the samples looked at."""
        inputs, labels = self._split
        count = len(labels)
        if self._held_out is not None:
            inputs = jax.tree.map(lambda *leaves: np.concatenate(leaves), inputs, self._held_out[0])
            labels = np.concatenate([labels, self._held_out[1]])
        targets = self._plan.objective.targets(labels, self._outputs)
        model = linearize(
            self._network,
            inputs,
            projection,
            mode=mode,
            directions=lambda still: self._directions(Examples(still, targets).take(slice(count))),
            checked=True,
            progress=progress,
        )
        every = Examples(compress(model), targets)
        validation = None if self._held_out is None else every.take(slice(count, None))
        return self._training(every.take(slice(count)), self._seeds, validation)

    def solve(self, solver: Solver, problem: Problem, progress: Progress) -> Trajectory:
        """The curves of training on all samples."""
        if problem.samples == self._samples:
            return solver.solve(problem, self._grid, progress)
        return extrapolate(solver, problem, self._samples, self._grid, progress)

    def _training(
        self, train: Examples, seeds: tuple[int, ...], validation: Examples | None = None
    ) -> Problem:
        plan = self._plan
        return Problem(train, plan.objective, plan.optimizer, plan.batch_size, seeds, validation)

    def _directions(self, still: Examples) -> Array:
        """The directions of feature space that the head will read, from training it alone."""
        count = max(1, 2 * (self._outputs - 1))
        return head_directions(self._training(still, self._seeds[:2]), self._grid, count)
