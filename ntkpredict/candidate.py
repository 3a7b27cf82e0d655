"""A plan on a machine, and what to expect of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from ntkpredict.advice import reason_of
from ntkpredict.calibration import Calibration
from ntkpredict.cost import CostModel, in_seconds
from ntkpredict.data import Data
from ntkpredict.goal import Goal
from ntkpredict.interval import Interval, predicted_steps
from ntkpredict.machine import Machine
from ntkpredict.record import to_interval, to_outcomes, to_stability, to_trajectory
from ntkpredict.stopping import Steps, StoppingRule
from ntkpredict.sweep import Simulated
from ntkpredict.validity import Validity
from sde import Stability, Trajectory

Criterion = Literal["seconds", "price", "steps", "loss"]


@dataclass(frozen=True)
class Candidate:
    """A plan on a machine.

    Attributes:
        plan: in one line.
        optimizer: its name.
        learning_rate: the largest of its schedule; None where it is not known.
        batch_size: samples per step.
        machine: where it would run.
        limit: the most steps that it may take.
        steps: as in `Forecast`; None where the target is not reached within the limit.
        steps_interval: 95 %, as in `Forecast`.
        seconds: on that machine.
        seconds_interval: 95 %.
        price: US dollars; None where the machine has no price.
        price_interval: 95 %.
        reason: why the target is not reached, or that training diverges; None where all is well.
        train_loss: the training loss to expect where training stops, at the limit at the latest.
        validation_loss: likewise; None without validation data.
        validation_accuracy: likewise.
        stopping_times: steps at which training may stop, equally likely each; infinite beyond the
            limit.
        final_losses: what the loss (of validation where there is any) may be where it stops, for
            each of `stopping_times`.
        seconds_per_step: on that machine, to turn stopping times into seconds.
        overhead_seconds: of compiling there.
        stability: as in `Forecast`.
        validity: how far to trust it.
        diverged: whether most simulated runs are above their start where they end.
        trajectory: the median curves, up to where nothing of the answer depends on them.
    """

    plan: str
    optimizer: str
    learning_rate: float | None
    batch_size: int
    machine: Machine
    limit: int
    steps: float | None
    steps_interval: Interval | None
    seconds: float | None
    seconds_interval: Interval | None
    price: float | None
    price_interval: Interval | None
    reason: str | None
    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    stopping_times: Float[np.ndarray, " outcomes"]
    final_losses: Float[np.ndarray, " outcomes"]
    seconds_per_step: float
    overhead_seconds: float
    stability: Stability | None
    validity: Validity
    diverged: bool
    trajectory: Trajectory

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Candidate:
        """From what JSON holds of it."""
        loss = content["train_loss"]
        intervals = ("steps_interval", "seconds_interval", "price_interval")
        outcomes = ("stopping_times", "final_losses")
        return cls(
            **{
                **content,
                **{name: to_interval(content[name]) for name in intervals},
                **{name: to_outcomes(content[name]) for name in outcomes},
                "machine": Machine(**content["machine"]),
                "train_loss": float("nan") if loss is None else loss,
                "stability": to_stability(content["stability"]),
                "validity": Validity.from_dict(content["validity"]),
                "trajectory": to_trajectory(content["trajectory"]),
            }
        )

    @property
    def final_loss(self) -> float:
        """Of validation where there is any, else of training."""
        return self.train_loss if self.validation_loss is None else self.validation_loss

    def value(self, criterion: Criterion) -> float:
        """To be made small; infinite where the target is not reached or training diverges."""
        found = {"loss": self.final_loss}.get(criterion, getattr(self, criterion, None))
        failed = self.steps is None or self.diverged
        return np.inf if found is None or failed or np.isnan(found) else float(found)

    def outcomes(self, criterion: Criterion) -> Float[np.ndarray, " outcomes"]:
        """What `value` may turn out to be, equally likely each."""
        times = np.where(self.diverged, np.inf, self.stopping_times)
        if criterion == "loss":
            return np.where(np.isfinite(times), self.final_losses, np.inf)
        if criterion == "steps":
            return times
        seconds = self.overhead_seconds + self.seconds_per_step * times
        return seconds if criterion == "seconds" else (self.machine.price or 0) * seconds / 3600


class _AtMost(StoppingRule):
    """A rule that must be met by some step."""

    def __init__(self, rule: StoppingRule, limit: int) -> None:
        self._rule = rule
        self._limit = limit

    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:
        """The rule's own, infinite beyond the limit."""
        steps = self._rule.steps(trajectory, complete=complete)
        return np.where(steps <= self._limit, steps, np.inf)

    def __str__(self) -> str:
        return str(self._rule)


def candidate(
    found: Simulated,
    goal: Goal,
    data: Data,
    cost: CostModel,
    machine: Machine,
    limit: int,
    calibration: Calibration,
) -> Candidate:
    """What a simulated plan comes to on a machine.

    Args:
        found: the plan, simulated.
        goal: when it is over.
        data: the data.
        cost: of its batch size, on this machine.
        machine: where it would run.
        limit: the most steps that it may take.
        calibration: as in `predict`.
    """
    plan, curves, epoch = found.plan, found.trajectory, data.samples // found.plan.batch_size
    validity = calibration.validity(found.signals)
    until = goal.rule_up_to(limit)
    if found.given_up:
        limit = min(limit, found.end)
    rule = _AtMost(until, limit)
    steps, interval = predicted_steps(curves, rule, validity.clock, validity.shift)
    seconds, seconds_interval = in_seconds(cost, epoch, steps, interval)
    times, losses = _outcomes(curves, rule, limit, validity)
    ends = _ends(curves, rule, limit)
    diverged = bool(curves.diverged.mean() > 0.5)
    failed = steps is None or diverged
    reason = reason_of(curves, found.stability) if failed else None
    if reason is not None and found.given_up:
        above = "the loss is above its start and " if diverged else ""
        reason = f"not reached within {limit} steps; {above}others are far ahead"
    elif reason is not None and limit < plan.max_steps and not diverged:
        reason = f"not reached within {limit} steps, all that {goal.within} pays for"
    per_step = cost.batch_seconds[1] + cost.validation_seconds / epoch
    rate = None if plan.learning_rate is None else float(plan.factors()[1].max())
    return Candidate(
        plan=plan.description,
        optimizer=re.sub(r", lr [^,]*", "", plan.name),
        learning_rate=rate,
        batch_size=plan.batch_size,
        machine=machine,
        limit=limit,
        steps=steps,
        steps_interval=interval,
        seconds=_there(machine.seconds, seconds),
        seconds_interval=_there(machine.seconds, seconds_interval),
        price=_there(machine.cost, seconds),
        price_interval=_there(machine.cost, seconds_interval),
        reason=reason,
        **ends,
        stopping_times=times,
        final_losses=losses,
        seconds_per_step=machine.seconds(per_step),
        overhead_seconds=machine.seconds(cost.compile_seconds),
        stability=found.stability,
        validity=validity,
        diverged=diverged,
        trajectory=curves.first(found.simulated).quantile(0.5),
    )


def _there(convert: Callable[[float], float | None], here: Any) -> Any:
    """A number, or both ends of an interval, in another unit; None where it is not known."""
    if not isinstance(here, tuple):
        return None if here is None else convert(here)
    ends = tuple(_there(convert, end) for end in here)
    return None if ends[0] is None else ends


def _ends(curves: Trajectory, rule: StoppingRule, limit: int) -> dict[str, Any]:
    """The metrics to expect where training stops."""
    stops = np.minimum(rule.steps(curves), limit)

    def at(values: np.ndarray) -> float:
        return float(np.median([*map(np.interp, stops, repeat(curves.steps), values)]))

    held_out = curves.validation
    return {
        "train_loss": at(curves.train.loss),
        "validation_loss": None if held_out is None else at(held_out.loss),
        "validation_accuracy": None if held_out is None else at(held_out.accuracy),
    }


def _outcomes(
    curves: Trajectory, rule: StoppingRule, limit: int, validity: Validity
) -> tuple[np.ndarray, np.ndarray]:
    """Stopping times as `stopping_times` has them, and the loss at each of them."""
    times, losses = [], []
    for factor in np.exp(validity.clock):
        slowed = curves.slowed(factor)
        times.append(rule.steps(slowed))
        rows = (slowed.validation or slowed.train).loss
        losses += [*map(np.interp, np.minimum(times[-1], limit), repeat(slowed.steps), rows)]
    return np.concatenate(times), np.nan_to_num(losses, nan=np.inf)
