"""A forecast whose first steps are known by now, gone on with from where they lead."""

from __future__ import annotations

import numpy as np

from sde import Trajectory


def continuation(known: Trajectory, expected: Trajectory) -> Trajectory:
    """The known curves, then the expected ones from where their training loss is the same.

    They go on at the speed that they have there: how much faster or slower than expected the known
    steps went tells nothing of later ones (`experiments/suite/TRIED.md`). A run that has lost its
    weights does not find them again.

    Args:
        known: real curves, one row.
        expected: the predicted ones, one row a simulated run.
    """
    end = int(known.steps[-1])
    steps = known.onto(expected.steps)
    if not np.isfinite(known.train.loss[:, -1]).all():
        return known.at(steps, steps).beginning(known)
    times = meeting(known, expected) + steps - end
    return expected.at(np.maximum(times, 0), steps).beginning(known)


def meeting(known: Trajectory, expected: Trajectory) -> float:
    """The step at which the expected training loss is as the known one in the end.

    Where it is so several times, the one that is the nearest; where it never is, when it is least
    off; the end itself where it is not finite.
    """
    steps, end = expected.steps, int(known.steps[-1])
    off = np.median(expected.train.loss, axis=0) - known.train.loss[0, -1]
    if not np.isfinite(off).all():
        return float(end)
    here = np.flatnonzero(off[:-1] * off[1:] <= 0)
    if not len(here):
        return float(steps[np.abs(off).argmin()])
    fall = off[here] - off[here + 1]
    share = np.divide(off[here], fall, out=np.zeros_like(fall), where=fall != 0)
    times = steps[here] + share * (steps[here + 1] - steps[here])
    return float(times[np.abs(times - end).argmin()])
