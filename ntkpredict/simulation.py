"""The training that a plan would do, simulated on a tangent model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from linearize import (
    HeadExactTangent,
    Network,
    Projection,
    compress,
    linearize,
)
from linearize.linearization import Mode
from linearize.network import paths
from linearize.types import Params, Progress
from ntkpredict.basis import Basis
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
    is_coordinate_wise,
    log_grid,
    stable_growth,
)

_ADDED = ("bias", "beta", "b")
"""Names of parameters that are added, in Flax, Keras and Haiku."""


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
        plan: the plan.
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
        self._coordinate_wise = is_coordinate_wise(plan.optimizer)
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
            self.grid = opening.trajectory.onto(self.grid)
        self._seeds = tuple(range(plan.seed, plan.seed + seeds))

    def problem(
        self, mode: Mode | None, projection: Projection | None, progress: Progress
    ) -> Problem:
        """The training of the tangent model on the samples looked at.

        Its optimizer waits while the opening lasts.
        """
        inputs, labels = self._split
        count = len(labels)
        if self._held_out is not None:
            inputs = jax.tree.map(lambda *leaves: np.concatenate(leaves), inputs, self._held_out[0])
            labels = np.concatenate([labels, self._held_out[1]])
        targets = self.plan.objective.targets(labels, self._outputs)
        scaled = self._coordinate_wise
        train = self._split[0], targets[:count]
        basis = Basis(
            self._network,
            train,
            self._plans,
            self._seeds,
            self.grid,
            scaled=scaled,
            opening=self._opening,
        )
        model = linearize(
            self._network,
            inputs,
            basis.sketch if scaled and projection is None else projection,
            mode=mode,
            directions=lambda still: basis.directions(still.take(slice(count))),
            movements=lambda _: basis.movements,
            checked=True,
            progress=progress,
        )
        # Coordinates of a coordinate-wise optimizer must not be mixed.
        every = Examples(model if scaled else compress(model), targets)
        validation = None if self._held_out is None else every.take(slice(count, None))
        plan = self.plan
        if self._opening is not None:
            chosen = basis.projection if projection is None else projection
            plan = self._opening.resumed(plan, model.initial(), chosen)
        return Problem(
            every.take(slice(count)),
            plan.objective,
            plan.optimizer,
            plan.batch_size,
            self._seeds,
            validation,
        )

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
            coordinate_wise=self._coordinate_wise,
            difference=0.0 if frozen is None else difference(frozen, trajectory),
            margin=None if stable is None else stable.margin,
            start=float(trajectory.train.loss[:, 0].mean() / nothing),
            piloted=self._opening is not None and self._opening.budgeted,
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


def layers(body: Params) -> int:
    """The layers that train, by their arrays that multiply: not biases."""
    return max(1, sum(path.rpartition("/")[2] not in _ADDED for path in paths(body)))
