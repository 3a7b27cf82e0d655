"""What a stopping rule is, and those that need no metric."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ntkpredict.stopping.watch import Watch
from sde import Trajectory

Steps = Float[np.ndarray, " seeds"]


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

    def evaluations(self, max_steps: int) -> Int[np.ndarray, " evaluations"]:  # noqa: ARG002
        """Steps up to the budget at which the curves must be known for this rule, beyond a grid."""
        return np.empty(0, int)

    @property
    def watches(self) -> tuple[Watch, ...]:
        """What it looks at while training runs; nothing where only hindsight tells."""
        return ()

    @property
    def limit(self) -> int | None:
        """The number of steps at which it stops whatever the curves; None where there is none."""
        return None

    @abc.abstractmethod
    def __str__(self) -> str:
        """As `parse` reads it."""

    def __or__(self, other: StoppingRule) -> StoppingRule:
        return AnyOf((*_alternatives(self), *_alternatives(other)))


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

    @property
    def limit(self) -> int:
        """That number."""
        return int(self.value)

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

    def evaluations(self, max_steps: int) -> Int[np.ndarray, " evaluations"]:
        """Those of all the rules."""
        return np.unique(np.concatenate([rule.evaluations(max_steps) for rule in self.rules]))

    @property
    def watches(self) -> tuple[Watch, ...]:
        """Those of all the rules."""
        return tuple(watch for rule in self.rules for watch in rule.watches)

    @property
    def limit(self) -> int | None:
        """The smallest of the rules' limits."""
        limits = [rule.limit for rule in self.rules if rule.limit is not None]
        return min(limits, default=None)

    def __str__(self) -> str:
        return " | ".join(str(rule) for rule in self.rules)


def _alternatives(rule: StoppingRule) -> tuple[StoppingRule, ...]:
    return rule.rules if isinstance(rule, AnyOf) else (rule,)
