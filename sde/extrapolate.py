"""From a subset of the samples to the full data set."""

import numpy as np
import optax

from linearize.types import Progress
from sde.objective import Objective
from sde.replay import Examples, Grid, Orders, replay_curves
from sde.trajectory import Curve, Trajectory


def extrapolated_replay(
    examples: Examples,
    samples: int,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    orders: Orders,
    grid: Grid,
    *,
    validation: Examples | None = None,
    progress: Progress | None = None,
) -> Trajectory:
    """The curves of training on all samples, from a tangent model on some of them.

    A subset of m samples is learnt by heart too soon. To first order in 1/m the loss on the samples
    seen and that on samples unseen lie symmetrically around the loss of infinite data, so train on
    one half, test on the other, swap, average, and interpolate to N samples:
    L_N = (L_seen + L_unseen)/2 − (m/N)·(L_unseen − L_seen)/2. The validation loss falls by what the
    unseen one falls from m to N samples. Accuracies likewise.

    Args:
        examples: an even number of samples, 2m, of the training data.
        samples: N, the number of training samples in all.
        objective: as for `replay`.
        optimizer: as for `replay`.
        orders: as for `replay`, of m samples.
        grid: as for `replay`.
        validation: as for `replay`.
        progress: as for `replay`.
    """
    half = examples.model.samples // 2
    parts = [examples.take(slice(half)), examples.take(slice(half, 2 * half))]
    rest = [] if validation is None else [validation]
    replays = [
        replay_curves(
            seen,
            objective,
            optimizer,
            orders,
            grid,
            [seen, unseen, *rest],
            progress=progress and _half_of(progress, second),
        )
        for second, (seen, unseen) in enumerate([parts, parts[::-1]])
    ]
    seen, unseen, *others = (_mean(curves) for curves in zip(*replays, strict=True))
    share = half / samples
    train = _combine(seen, unseen, (1 + share) / 2)
    if not others:
        return Trajectory(np.asarray(grid), train, None)
    gain = (1 - share) / 2
    held_out = Curve(
        others[0].loss - gain * (unseen.loss - seen.loss),
        np.clip(others[0].accuracy - gain * (unseen.accuracy - seen.accuracy), 0, 1),
    )
    return Trajectory(np.asarray(grid), train, held_out)


def _mean(curves: tuple[Curve, ...]) -> Curve:
    return Curve(
        np.mean([curve.loss for curve in curves], axis=0),
        np.mean([curve.accuracy for curve in curves], axis=0),
    )


def _combine(seen: Curve, unseen: Curve, weight: float) -> Curve:
    return Curve(
        weight * seen.loss + (1 - weight) * unseen.loss,
        weight * seen.accuracy + (1 - weight) * unseen.accuracy,
    )


def _half_of(progress: Progress, second: int) -> Progress:
    return lambda done, total: progress(done + second * total, 2 * total)
