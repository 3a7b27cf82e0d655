"""From a subset of the samples to the full data set."""

import numpy as np

from linearize.types import Progress
from sde.problem import Problem
from sde.rollout import Grid, part
from sde.solver import Solver
from sde.trajectory import Curve, Trajectory


def extrapolate(
    solver: Solver,
    problem: Problem,
    samples: int,
    grid: Grid,
    progress: Progress | None = None,
) -> Trajectory:
    """The curves of training on all samples, from a tangent model on some of them.

    A subset is learnt by heart too soon: losses on the samples seen come out too low, on unseen
    ones too high, both by a term in 1/m for m samples. Two sizes show it, so solve for the subset
    and its two halves and go on to N samples (Richardson extrapolation):
    L_N = L_m + (L_m − L_{m/2})·(1 − m/N), at each step, for each curve. On unseen samples, where
    that goes down, it does so in the logarithm; what would lower the training loss is noise and is
    left out, and so are runs that diverge.

    Args:
        solver: of each of the three problems.
        problem: on m samples of the training data, an even number.
        samples: N, the number of training samples in all, at least m.
        grid: as for `Solver.solve`.
        progress: called with (steps done, steps in all).
    """
    m, parts = problem.samples, subsets(problem.samples)
    return onward(
        *(
            solver.solve(problem.take(index), grid, part(progress, i, 3))
            for i, index in enumerate(parts)
        ),
        share=m / samples,
    )


def subsets(samples: int) -> list[slice]:
    """All of the samples, and their two halves."""
    return [slice(samples), slice(samples // 2), slice(samples // 2, samples)]


def onward(whole: Trajectory, *halves: Trajectory, share: float) -> Trajectory:
    """The last step of `extrapolate`.

    Args:
        whole: the curves of the subset.
        halves: of its halves.
        share: m/N.
    """
    diverged = np.any([curve.diverged for curve in (whole, *halves)], axis=0)
    reach = np.where(diverged, 0.0, 1 - share)[:, None]
    train = _onward(whole.train, [half.train for half in halves], reach)
    upwards = Curve(np.maximum(train.loss, whole.train.loss), train.accuracy)
    validated = None
    if whole.validation is not None:
        validated = _onward(whole.validation, [half.curve("validation") for half in halves], reach)
    return Trajectory(whole.steps, upwards, validated)


def _onward(whole: Curve, halves: list[Curve], reach: np.ndarray) -> Curve:
    still = reach == 0  # and what is not finite must not spread
    loss = np.where(still, whole.loss, np.mean([half.loss for half in halves], axis=0))
    accuracy = np.mean([half.accuracy for half in halves], axis=0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        higher = whole.loss + np.where(still, 0, reach * (whole.loss - loss))
        lower = whole.loss * np.where(still, 1, whole.loss / loss) ** reach
    return Curve(
        np.where(loss > whole.loss, lower, higher),
        np.clip(whole.accuracy + reach * (whole.accuracy - accuracy), 0, 1),
    )
