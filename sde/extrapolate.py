"""From a subset of the samples to the full data set."""

import numpy as np
import optax

from linearize.types import Progress
from sde.objective import Objective
from sde.replay import Examples, Grid, Orders, replay
from sde.trajectory import Curve, Trajectory


def extrapolated_replay(
    examples: Examples,
    samples: int,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    orders: tuple[Orders, Orders],
    grid: Grid,
    *,
    validation: Examples | None = None,
    progress: Progress | None = None,
) -> Trajectory:
    """The curves of training on all samples, from a tangent model on some of them.

    A subset is learnt by heart too soon: losses on the samples seen come out too low, on unseen
    ones too high, both by a term in 1/m for m samples. Two sizes show it, so replay the subset and
    its two halves and go on to N samples (Richardson extrapolation):
    L_N = L_m + (L_m − L_{m/2})·(1 − m/N), at each step, for each curve.

    Args:
        examples: m samples of the training data, an even number.
        samples: N, the number of training samples in all, at least m.
        objective: as for `replay`.
        optimizer: as for `replay`.
        orders: as for `replay`, of m samples and of m/2.
        grid: as for `replay`.
        validation: as for `replay`.
        progress: as for `replay`.
    """
    m = examples.model.samples
    parts = [slice(m), slice(m // 2), slice(m // 2, m)]
    whole, first, second = (
        replay(
            examples.take(part),
            objective,
            optimizer,
            orders[min(i, 1)],
            grid,
            validation=validation,
            progress=progress and _third(progress, i),
        )
        for i, part in enumerate(parts)
    )
    reach = 1 - m / samples
    validated = None
    if whole.validation and first.validation and second.validation:
        validated = _onward(whole.validation, (first.validation, second.validation), reach)
    return Trajectory(
        whole.steps, _onward(whole.train, (first.train, second.train), reach), validated
    )


def _onward(whole: Curve, halves: tuple[Curve, Curve], reach: float) -> Curve:
    loss = np.mean([half.loss for half in halves], axis=0)
    accuracy = np.mean([half.accuracy for half in halves], axis=0)
    return Curve(
        np.maximum(whole.loss + reach * (whole.loss - loss), 0),
        np.clip(whole.accuracy + reach * (whole.accuracy - accuracy), 0, 1),
    )


def _third(progress: Progress, done_before: int) -> Progress:
    return lambda done, total: progress(done + done_before * total, 3 * total)
