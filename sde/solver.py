"""What turns a problem into curves."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from linearize.types import Params, Progress
from sde.descent import GradientDescent, as_gradient_descent
from sde.problem import Problem
from sde.rollout import Grid
from sde.stability import Stability
from sde.trajectory import Curve, Trajectory

NO_DESCENT = "needs gradient descent with momentum (no clipping); use solver='replay'"
GROWING = "follows a frozen kernel only; use solver='replay'"


class Solver(abc.ABC):
    """One way to solve the training of a tangent model.

    Attributes:
        name: as users choose it.
    """

    name: ClassVar[str]

    @abc.abstractmethod
    def obstacle(self, problem: Problem, stable: Stability | None) -> str | None:
        """What makes this solver wrong for a problem, and what to do instead; None where nothing.

        Args:
            problem: what is trained.
            stable: its `stability`.
        """

    @abc.abstractmethod
    def solve(self, problem: Problem, grid: Grid, progress: Progress | None = None) -> Trajectory:
        """The curves of training.

        Args:
            problem: what is trained.
            grid: the steps at which the curves are wanted, increasing.
            progress: called with (steps done, steps in all).

        Returns:
            One row a seed, or a single one where the solver gives the expectation. A run that
            diverges shows as infinity, NaN or a loss that ends above its start.

        Raises:
            ValueError: an optimizer, model or objective that the solver cannot follow.
        """

    def sweep(
        self, problems: Sequence[Problem], grid: Grid, progress: Progress | None = None
    ) -> list[Trajectory]:
        """`solve` for problems that differ in optimizer and batch size only, in one go."""
        check_alike(problems)
        return [self.solve(problem, grid, progress) for problem in problems]


def check_alike(problems: Sequence[Problem]) -> None:
    """A sweep shares everything but optimizer and batch size.

    Raises:
        ValueError: no problem, or problems of other samples, objectives, seeds or growth.
    """
    if not problems:
        msg = "problems: got none; expected at least one"
        raise ValueError(msg)
    first = problems[0]
    for problem in problems[1:]:
        differing = [
            name
            for name in ("objective", "seeds", "sampling")
            if getattr(problem, name) != getattr(first, name)
        ]
        if problem.train is not first.train or problem.validation is not first.validation:
            differing.append("samples")
        if problem.growth is not first.growth:
            differing.append("growth")
        if differing:
            msg = f"problems: they differ in {differing}; expected only optimizer and batch size to"
            raise ValueError(msg)


def evaluate(problem: Problem, params: Params) -> list[tuple[Array, Array]]:
    """Loss and accuracy on each of the problem's sets."""
    outputs = [(examples.model(params), examples.targets) for examples in problem.sets]
    objective = problem.objective
    return [(objective.loss(f, y).mean(), objective.accuracy(f, y)) for f, y in outputs]


def as_trajectory(grid: Grid, curves: list[tuple[Any, Any]]) -> Trajectory:
    """Loss and accuracy on each set, each (seeds, grid), as a trajectory."""
    train, *validation = [Curve(np.asarray(loss), np.asarray(right)) for loss, right in curves]
    return Trajectory(np.asarray(grid), train, validation[0] if validation else None)


def gradient_descents(problems: Sequence[Problem], steps: int) -> list[GradientDescent]:
    """Their optimizers as numbers.

    Raises:
        ValueError: an optimizer that is something else, or a kernel that grows.
    """
    if any(problem.growth is not None for problem in problems):
        msg = f"solver: {GROWING}"
        raise ValueError(msg)
    found = [as_gradient_descent(problem.optimizer, steps) for problem in problems]
    descents = [descent for descent in found if descent is not None]
    if len(descents) < len(found):
        msg = f"solver: {NO_DESCENT}"
        raise ValueError(msg)
    return descents


def too_noisy(stable: Stability, limit: float) -> str | None:
    """What stands against an approximation that holds up to a noise mass, and what to do instead.

    None where the mass is within the limit, and where training diverges at any mass.
    """
    if stable.noise_mass <= limit or stable.margin < 1:
        return None
    return (
        f"holds up to a noise mass of {limit:g}, and here it is {stable.noise_mass:.2g}; "
        "use solver='replay', a smaller learning rate or larger batches"
    )


def stack(plans: Sequence[Any]) -> Any:
    """Several plans as one, along a new leading axis of each array, as `rollout` takes them."""
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves), float), *plans)


def unstack(grid: Grid, curves: list[tuple[Array, Array]], plans: int) -> list[Trajectory]:
    """The curves of a `rollout`, one trajectory a plan."""
    arrays = jax.tree.map(np.asarray, curves)
    return [
        as_trajectory(grid, jax.tree.map(lambda leaf: leaf[plan], arrays))  # noqa: B023
        for plan in range(plans)
    ]
