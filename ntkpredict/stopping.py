"""When training is over: rules that turn curves into a number of steps."""

from __future__ import annotations

import abc
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from sde import Trajectory

On = Literal["train", "validation"]
Steps = Float[np.ndarray, " seeds"]

_ROUNDING = 1e-6  # 9 of 10 samples are less than 0.9 in single precision


class StoppingRule(abc.ABC):
    """A rule; combine rules with ``|``: the first to be met stops training."""

    @abc.abstractmethod
    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:
        """The step at which each seed's run stops, infinite where it does not.

        Between the points of the grid curves are interpolated.

        Args:
            trajectory: the curves.
            complete: whether they reach the end of the budget.

        Raises:
            ValueError: the target is met before training starts.
        """

    @abc.abstractmethod
    def __str__(self) -> str:
        """As `parse` reads it."""

    def __or__(self, other: StoppingRule) -> StoppingRule:
        return AnyOf((*_alternatives(self), *_alternatives(other)))


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
        _check_split(self.on)

    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:  # noqa: ARG002
        """The first step with a loss at or below the target."""
        loss = trajectory.curve(self.on).loss
        target = self.value if self.value is not None else self.relative * loss[:, 0]
        if (loss[:, 0] <= target).any():
            start = loss[:, 0].min()
            msg = f"target: the {self.on} loss starts at {start:.4g}; aim below, got {self}"
            raise ValueError(msg)
        return _crossing(trajectory.steps, loss, np.broadcast_to(target, len(loss)))

    def __str__(self) -> str:
        goal = _number(self.value) if self.value is not None else f"{_number(self.relative)}x"
        return f"{_prefix(self.on)}loss<={goal}"


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
        _check_split(self.on)

    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:  # noqa: ARG002
        """The first step with an accuracy at or above the target."""
        accuracy = trajectory.curve(self.on).accuracy
        target = self.value * (1 - _ROUNDING)
        if (accuracy[:, 0] >= target).any():
            start = accuracy[:, 0].max()
            msg = f"target: the {self.on} accuracy starts at {start:.4g}; aim above, got {self}"
            raise ValueError(msg)
        return _crossing(trajectory.steps, -accuracy, np.full(len(accuracy), -target))

    def __str__(self) -> str:
        return f"{_prefix(self.on)}accuracy>={_number(self.value)}"


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
        return f"converged<{_number(self.eps)}"


@dataclass(frozen=True)
class MaxSteps(StoppingRule):
    """A fixed number of steps.

    Attributes:
        value: at least 1.
    """

    value: int

    def __post_init__(self) -> None:
        if not isinstance(self.value, (int, np.integer)) or self.value < 1:
            msg = f"value: got {self.value}; expected a whole number of steps, at least 1"
            raise ValueError(msg)

    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:  # noqa: ARG002
        """That number, where the curves reach it."""
        reached = trajectory.steps[-1] >= self.value
        return np.full(len(trajectory.train.loss), float(self.value) if reached else np.inf)

    def __str__(self) -> str:
        return f"steps>={self.value}"


@dataclass(frozen=True)
class AnyOf(StoppingRule):
    """The first of several rules.

    Attributes:
        rules: the rules, at least one.
    """

    rules: tuple[StoppingRule, ...]

    def __post_init__(self) -> None:
        if not self.rules:
            msg = "rules: got none; expected at least one"
            raise ValueError(msg)

    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:
        """The smallest of the rules' steps."""
        return np.min([rule.steps(trajectory, complete=complete) for rule in self.rules], axis=0)

    def __str__(self) -> str:
        return " | ".join(str(rule) for rule in self.rules)


_RULE = re.compile(
    r"(?P<on>train_|validation_|val_)?(?P<name>loss|accuracy|converged|steps)"
    r"\s*(?P<sign><=|<|>=|>)\s*(?P<number>[0-9.eE+-]+)(?P<relative>x)?"
)


def parse(text: str) -> StoppingRule:
    """A rule from text, as the command line takes it.

    >>> str(parse("loss<=0.1x | val_accuracy>=0.95"))
    'loss<=0.1x | validation_accuracy>=0.95'

    Raises:
        ValueError: not a rule, or a value outside of its range.
    """
    rules = [_parse_one(part.strip()) for part in text.split("|")]
    return rules[0] if len(rules) == 1 else AnyOf(tuple(rules))


def _parse_one(text: str) -> StoppingRule:
    match = _RULE.fullmatch(text)
    if match is None or not _is_sensible(match):
        msg = (
            f"until: got {text!r}; expected loss<=0.1, loss<=0.1x (of the initial loss), "
            "accuracy>=0.9, converged<0.01 or steps>=500, with val_ for validation, joined by |"
        )
        raise ValueError(msg)
    try:
        number = float(match["number"])
    except ValueError as error:
        msg = f"until: {match['number']!r} in {text!r} is not a number"
        raise ValueError(msg) from error
    on: On = "validation" if (match["on"] or "").startswith("val") else "train"
    if match["name"] == "loss":
        return (
            TargetLoss(relative=number, on=on) if match["relative"] else TargetLoss(number, on=on)
        )
    if match["name"] == "accuracy":
        return TargetAccuracy(number, on=on)
    if match["name"] == "converged":
        return Converged(number)
    if not number.is_integer():
        msg = f"until: got {text!r}; expected a whole number of steps"
        raise ValueError(msg)
    return MaxSteps(int(number))


def _is_sensible(match: re.Match[str]) -> bool:
    falling = match["name"] in ("loss", "converged")
    splits = match["on"] is None or match["name"] in ("loss", "accuracy")
    relative = match["relative"] is None or match["name"] == "loss"
    return ("<" in match["sign"]) == falling and splits and relative


def _alternatives(rule: StoppingRule) -> tuple[StoppingRule, ...]:
    return rule.rules if isinstance(rule, AnyOf) else (rule,)


def _check_split(on: str) -> None:
    if on not in ("train", "validation"):
        msg = f"on: got {on!r}; expected 'train' or 'validation'"
        raise ValueError(msg)


def _number(value: Any) -> str:
    """As short as it can be read back exactly."""
    number = float(value)
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def _prefix(on: On) -> str:
    return "" if on == "train" else "validation_"


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
