"""How long curves are followed that are simulated side by side."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ntkpredict.stopping import (
    AnyOf,
    EarlyStopping,
    MaxSteps,
    StoppingRule,
    TargetAccuracy,
    TargetLoss,
)
from ntkpredict.validity import TENTH
from sde import Trajectory

_REACH = 2.0
"""Curves go on so many times beyond a limit, as faster clocks look at them there."""


class Race:
    """Plans side by side, each until nothing that comes later counts.

    Only a target on the training samples ends one: other rules read the curves up to the end of
    the budget, and so does the error to expect until a tenth of the initial loss is left.

    Args:
        until: the stopping rule.
        limit: the step beyond which nothing counts.
        patience: how many times the steps of the fastest a plan may take before it is given up.
    """

    def __init__(self, until: StoppingRule, limit: int, patience: int | float) -> None:
        self._target = _target(until)
        self._limit = limit
        self._patience = patience
        self._fastest = np.inf
        self.given_up: set[int] = set()

    def over(self, plan: int, curves: Trajectory, horizon: Callable[[float], float]) -> bool:
        """Whether a plan has told enough.

        Args:
            plan: its number.
            curves: so far.
            horizon: where the last of them stops -> the step up to which they are read.
        """
        step, loss = curves.steps[-1], curves.train.loss
        if step == 0:
            return False
        if step >= _REACH * self._limit or not np.isfinite(loss[:, -1]).any():
            return True
        if self._target is None:
            return False
        slowest = float(self._target.steps(curves, complete=False).max())
        low = np.median(loss[:, -1]) <= TENTH * np.median(loss[:, 0])
        if low and step >= slowest and step >= horizon(slowest):
            self._fastest = min(self._fastest, slowest)
            return True
        if step > self._patience * self._fastest and np.isinf(slowest):
            self.given_up.add(plan)
            return True
        return False


def _target(until: StoppingRule) -> StoppingRule | None:
    """What ends the curves: where it is met, those beyond make no difference to any of the rules.

    None where there is no such target.
    """
    rules = until.rules if isinstance(until, AnyOf) else (until,)
    if any(getattr(rule, "on", "train") == "validation" for rule in rules):
        return None  # validation is read off the whole curves of a frozen kernel
    ends = tuple(rule for rule in rules if isinstance(rule, TargetLoss | TargetAccuracy | MaxSteps))
    known = all(isinstance(rule, EarlyStopping) or rule in ends for rule in rules)
    targets = any(not isinstance(rule, MaxSteps) for rule in ends)
    return AnyOf(ends) if known and targets else None
