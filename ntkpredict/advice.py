"""What a forecast says beside its numbers."""

from __future__ import annotations

import numpy as np

from ntkpredict.data import Data
from ntkpredict.opening import Opening
from sde import Problem, Stability, Trajectory


def reason_of(trajectory: Trajectory, stable: Stability | None) -> str:
    """Why a target is not reached, and what to expect instead."""
    loss = trajectory.train.loss
    if trajectory.diverged.mean() > 0.5:
        cause = "lower the learning rate"
        if stable is not None and stable.margin < 1:
            cause += (
                f": {stable.learning_rate:.3g} is {1 / stable.margin:.2g} times the largest stable "
                f"one, {stable.critical_learning_rate:.3g}"
            )
        elif stable is not None and stable.noise_mass > 1:
            cause += f" or take larger batches: their noise mass is {stable.noise_mass:.2g}"
        return f"diverges: the loss ends above its start; {cause}"
    return (
        f"not reached within {trajectory.steps[-1]} steps: expected training loss there "
        f"{np.median(loss[:, -1]):.3g}, from {loss[:, 0].mean():.3g}"
    )


def notes_of(
    data: Data, problem: Problem, stable: Stability | None, opening: Opening | None = None
) -> tuple[str, ...]:
    """What to keep in mind."""
    notes = []
    if problem.samples < data.samples:
        notes.append(
            f"Looked at {problem.samples:,} of {data.samples:,} training samples and "
            "extrapolated; more of them make late targets more certain."
        )
    if stable is not None and stable.margin < 1:
        notes.append(
            f"The learning rate is {1 / stable.margin:.2g} times the largest stable one; training "
            "may oscillate or diverge."
        )
    if opening is not None:
        loss = opening.trajectory.train.loss[0]
        led = f"{loss[-1]:.3g}; the forecast goes on from there"
        if opening.lost:
            led = "weights that are no numbers"
        notes.append(
            f"The first {opening.steps:,} steps, trained for real on a copy, went from a training "
            f"loss of {loss[0]:.3g} to {led}."
        )
    return tuple(notes)


def ended_note(last: int, max_steps: int) -> tuple[str, ...]:
    """What to keep in mind of curves that were followed up to a step."""
    if last >= max_steps:
        return ()
    return (
        f"The curves were followed to step {last:,}: nothing of the answer depends on what comes "
        "later, and their last values are repeated there.",
    )
