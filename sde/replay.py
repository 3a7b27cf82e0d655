"""The exact solver: replay every minibatch."""

from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array

from linearize.types import Progress
from sde.descent import GradientDescent, as_gradient_descent
from sde.problem import Problem
from sde.rollout import Grid, part
from sde.solver import Solver, as_trajectory, check_alike, evaluate, stack, unstack
from sde.stability import Stability
from sde.training import observe, train_all
from sde.trajectory import Trajectory


class Replay(Solver):
    """Every minibatch step, with the user's own optimizer, for every seed: no approximation."""

    name = "replay"

    def obstacle(self, problem: Problem, stable: Stability | None) -> str | None:  # noqa: ARG002
        """None: it follows any optimizer that its model is projected for, at any noise."""
        return None

    def solve(self, problem: Problem, grid: Grid, progress: Progress | None = None) -> Trajectory:
        """One row a seed, each with its own order of minibatches."""
        return as_trajectory(grid, observe(problem, grid, evaluate, progress))

    def sweep(
        self, problems: Sequence[Problem], grid: Grid, progress: Progress | None = None
    ) -> list[Trajectory]:
        """One compiled call, where every optimizer is a `GradientDescent`."""
        check_alike(problems)
        steps = int(grid[-1])
        descents = [as_gradient_descent(problem.optimizer, steps) for problem in problems]
        if None in descents:
            return super().sweep(problems, grid, progress)
        # The plans of one batch size train side by side: (their indices, the plans, the orders).
        sizes = [problem.batch_size for problem in problems]
        groups = [[i for i, other in enumerate(sizes) if other == size] for size in set(sizes)]
        plans = [stack([descents[i] for i in group]) for group in groups]
        orders = [problems[group[0]].orders(steps) for group in groups]

        @jax.jit
        def run(problem: Problem, plans: list[GradientDescent], orders: list[Array]) -> list[Any]:
            return [
                train_all(
                    problem,
                    GradientDescent.transformation,
                    plans[i],
                    orders[i],
                    grid,
                    evaluate,
                    part(progress, i, len(plans)),
                )
                for i in range(len(plans))
            ]

        found: dict[int, Trajectory] = {}
        for group, curves in zip(groups, run(problems[0], plans, orders), strict=True):
            found |= dict(zip(group, unstack(grid, curves, len(group)), strict=True))
        return [found[i] for i in range(len(problems))]
