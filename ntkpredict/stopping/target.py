"""Targets: a loss or an accuracy to be reached."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ntkpredict.counter import TargetCounter
from ntkpredict.stopping.metric import On, check_split, number, prefix
from ntkpredict.stopping.rule import Steps, StoppingRule
from ntkpredict.stopping.watch import Watch
from sde import Trajectory

_ROUNDING = 1e-6  # 9 of 10 samples are less than 0.9 in single precision


@dataclass(frozen=True)
class TargetLoss(StoppingRule):
    """The loss falls to a value, or to a fraction of the loss before training.

    Attributes:
        value: the loss to reach, absolute; or
        relative: the fraction of the initial loss to reach, in (0, 1).
        on: ``"train"`` or ``"validation"``.
    """

    value: float | None = None
    relative: float | None = None
    on: On = "train"

    def __post_init__(self) -> None:
        if (self.value is None) == (self.relative is None):
            msg = f"TargetLoss: got value={self.value}, relative={self.relative}; expected one"
            raise ValueError(msg)
        if self.value is not None and not 0 < self.value < np.inf:
            msg = f"value: got {self.value}; expected a loss greater than 0"
            raise ValueError(msg)
        if self.relative is not None and not 0 < self.relative < 1:
            msg = f"relative: got {self.relative}; expected a fraction between 0 and 1"
            raise ValueError(msg)
        check_split(self.on)

    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:  # noqa: ARG002
        """The first step with a loss at or below the target."""
        loss = trajectory.curve(self.on).loss
        target = self.value if self.value is not None else self.relative * loss[:, 0]
        if (loss[:, 0] <= target).any():
            start = loss[:, 0].min()
            msg = f"target: the {self.on} loss starts at {start:.4g}; aim below, got {self}"
            raise ValueError(msg)
        return _crossing(trajectory.steps, loss, np.broadcast_to(target, len(loss)))

    @property
    def watches(self) -> tuple[Watch, ...]:
        """The loss; a share of it counts from the first value there is."""
        return (Watch(TargetCounter(self.value, self.relative), f"{self.on}_loss"),)

    def __str__(self) -> str:
        goal = number(self.value) if self.value is not None else f"{number(self.relative)}x"
        return f"{prefix(self.on)}loss<={goal}"


@dataclass(frozen=True)
class TargetAccuracy(StoppingRule):
    """The accuracy rises to a value.

    Attributes:
        value: in (0, 1].
        on: ``"train"`` or ``"validation"``.
    """

    value: float
    on: On = "train"

    def __post_init__(self) -> None:
        if not 0 < self.value <= 1:
            msg = f"value: got {self.value}; expected an accuracy in (0, 1]"
            raise ValueError(msg)
        check_split(self.on)

    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:  # noqa: ARG002
        """The first step with an accuracy at or above the target."""
        accuracy = trajectory.curve(self.on).accuracy
        target = self.value * (1 - _ROUNDING)
        if (accuracy[:, 0] >= target).any():
            start = accuracy[:, 0].max()
            msg = f"target: the {self.on} accuracy starts at {start:.4g}; aim above, got {self}"
            raise ValueError(msg)
        return _crossing(trajectory.steps, -accuracy, np.full(len(accuracy), -target))

    @property
    def watches(self) -> tuple[Watch, ...]:
        """The accuracy."""
        target = self.value * (1 - _ROUNDING)
        return (Watch(TargetCounter(target, mode="max"), f"{self.on}_accuracy"),)

    def __str__(self) -> str:
        return f"{prefix(self.on)}accuracy>={number(self.value)}"


@dataclass(frozen=True)
class Converged(StoppingRule):
    """The training loss comes within ε of its value at the end of the budget, |L_t − L_T| < ε.

    The paper's definition of training time. A real run can only tell in hindsight.

    Source: Zancato et al. 2020, Algorithm 1 of the supplement.

    Attributes:
        eps: ε, in units of the loss.
    """

    eps: float

    def __post_init__(self) -> None:
        if not 0 < self.eps < np.inf:
            msg = f"eps: got {self.eps}; expected a loss greater than 0"
            raise ValueError(msg)

    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:
        """The first step within ε of the end."""
        loss = trajectory.train.loss
        if not complete:
            return np.full(len(loss), np.inf)
        distance = np.abs(loss - loss[:, -1:])
        return _crossing(trajectory.steps, distance, np.full(len(loss), self.eps))

    def __str__(self) -> str:
        return f"converged<{number(self.eps)}"


def _crossing(steps: np.ndarray, values: np.ndarray, targets: np.ndarray) -> Steps:
    """Where each row first falls to its target, interpolated; infinite where it does not."""
    below = values <= targets[:, None]
    first = below.argmax(axis=1)
    found = below.any(axis=1)
    rows = np.arange(len(values))
    before = np.maximum(first - 1, 0)
    start = values[rows, before]
    drop = start - values[rows, first]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(np.isfinite(drop) & (drop > 0), (start - targets) / drop, 1.0)
    crossing = steps[before] + share * (steps[first] - steps[before])
    return np.where(found, np.where(first == 0, 0.0, crossing), np.inf)
