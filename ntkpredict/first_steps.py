"""The first steps of a run, trained for real on a copy."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from linearize.types import Params, Progress
from ntkpredict.plan import Plan
from ntkpredict.step import TrainingStep
from ntkpredict.stopping import StoppingRule
from sde import Curve, Trajectory, log_grid, minibatch_order

_PER_DECADE = 8
"""Evaluations on the way."""


def train_first_steps(
    step: TrainingStep,
    samples: int,
    plan: Plan,
    until: StoppingRule,
    steps: int,
    progress: Progress,
) -> tuple[Trajectory, Params]:
    """Train the first steps of a run.

    Args:
        step: of the plan.
        samples: N.
        plan: the plan.
        until: the stopping rule.
        steps: how many.
        progress: called with (steps done, steps in all).

    Returns:
        Their curves, one row, and where they lead.
    """
    grid = evaluations(until, steps)
    state = step.initial()
    found = {split: [step.evaluate(state.params, split)] for split in step.evaluated}
    for i, index in enumerate(minibatch_order(samples, plan.batch_size, steps, plan.seed), 1):
        state, _ = step(state, index)
        for split, curve in found.items():
            if i in grid:
                curve.append(step.evaluate(state.params, split))
        progress(i, steps)
    curves = {split: Curve.of(points) for split, points in found.items()}
    return Trajectory(grid, curves["train"], curves.get("validation")), state.params


def evaluations(until: StoppingRule, steps: int) -> Int[np.ndarray, " grid"]:
    """The first steps at which the network is evaluated."""
    return np.union1d(log_grid(steps, per_decade=_PER_DECADE), until.evaluations(steps))
