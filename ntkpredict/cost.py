"""Seconds: what a step costs on this machine, measured on a few real batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from linearize import Network
from linearize.types import Params, Progress
from ntkpredict.data import Data
from ntkpredict.interval import Interval
from ntkpredict.plan import Plan
from ntkpredict.step import TrainingStep
from sde import epoch_order

Clock = Callable[[], float]


@dataclass(frozen=True)
class CostModel:
    """What a run is made of, in seconds on this machine.

    Attributes:
        compile_seconds: building the training step, once.
        batch_seconds: the training step, (5 %, median, 95 %) over the batches measured.
        validation_seconds: one pass over the validation samples, 0 where there are none.
        batches: how many batches were measured; 0 where the costs are interpolated.
        own_ratio: what the measured median was multiplied by, as steps of the user's own runs cost
            more or less than batches that were timed before.
    """

    compile_seconds: float
    batch_seconds: tuple[float, float, float]
    validation_seconds: float
    batches: int
    own_ratio: float = 1.0

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> CostModel:
        """From what JSON holds of it."""
        return cls(**{**content, "batch_seconds": tuple(content["batch_seconds"])})

    def seconds(self, steps: float, steps_per_epoch: int, *, quantile: int = 1) -> float:
        """Seconds of a run that looks at its validation samples once an epoch.

        Args:
            steps: training steps.
            steps_per_epoch: training steps between two validation passes.
            quantile: 0, 1 or 2: the 5 %, 50 % or 95 % quantile of a batch's cost.
        """
        validating = steps // steps_per_epoch * self.validation_seconds
        return self.compile_seconds + steps * self.batch_seconds[quantile] + validating

    def steps(self, seconds: float, steps_per_epoch: int) -> int:
        """The most steps of a run that takes no longer; at least 0."""
        left = seconds - self.compile_seconds
        epoch = steps_per_epoch * self.batch_seconds[1] + self.validation_seconds
        epochs = max(left // epoch, 0)
        rest = (left - epochs * epoch) // self.batch_seconds[1]
        return int(max(epochs * steps_per_epoch + min(rest, steps_per_epoch - 1), 0))


def in_seconds(
    cost: CostModel, epoch: int, steps: float | None, interval: Interval | None
) -> tuple[float | None, Interval | None]:
    """Steps and their interval, in seconds on this machine."""
    if steps is None or interval is None:
        return None, None
    low, high = interval
    longest = None if high is None else cost.seconds(high, epoch, quantile=2)
    return cost.seconds(steps, epoch), (cost.seconds(low, epoch, quantile=0), longest)


def measure_cost(
    network: Network,
    data: Data,
    plan: Plan,
    *,
    batches: int = 20,
    seconds: float = 3.0,
    validation_seconds: float | None = None,
    step: TrainingStep | None = None,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter,
) -> CostModel:
    """Run a few real training steps and a validation pass; the network is not changed.

    Args:
        network: the network.
        data: the data; the first batches of the plan's own order are used.
        plan: the plan.
        batches: how many batches to measure, at least 3.
        seconds: stop measuring after this time, but not before 3 batches.
        validation_seconds: of a validation pass, where it is known already.
        step: of the plan, not called yet, for a caller who goes on with what it compiles.
        progress: called with (batches done, batches).
        clock: seconds since some moment.

    Raises:
        ValueError: fewer than 3 batches.
    """
    if batches < 3:
        msg = f"batches: got {batches}; expected at least 3"
        raise ValueError(msg)
    step = step or TrainingStep(network, data, plan)
    order = epoch_order(data.samples, plan.batch_size, 0, plan.seed)
    start = clock()
    state, _ = jax.block_until_ready(step(step.initial(), order[0]))
    first = clock() - start
    durations: list[float] = []
    while len(durations) < batches and (len(durations) < 3 or sum(durations) < seconds):
        start = clock()
        state, _ = jax.block_until_ready(step(state, order[len(durations) % len(order)]))
        durations.append(clock() - start)
        if progress is not None:
            progress(len(durations), batches)
    low, middle, high = np.quantile(durations, [0.05, 0.5, 0.95])
    if validation_seconds is None:
        validation_seconds = _validation_seconds(step, state.params, data, clock)
    return CostModel(
        compile_seconds=max(first - middle, 0.0),
        batch_seconds=(float(low), float(middle), float(high)),
        validation_seconds=validation_seconds,
        batches=len(durations),
    )


def measure_costs(
    network: Network,
    data: Data,
    plans: Sequence[Plan],
    *,
    interpolate: bool = False,
    step: TrainingStep | None = None,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter,
) -> dict[int, CostModel]:
    """`measure_cost` once for each batch size, whatever the optimizer.

    Args:
        network: the network.
        data: the data.
        plans: the plans.
        interpolate: measure the smallest and the largest batch size only; what lies between costs
            in proportion.
        step: of the first plan, as for `measure_cost`.
        progress: called with (batch sizes measured, batch sizes to measure).
        clock: seconds since some moment.
    """
    by_size = {plan.batch_size: plan for plan in reversed(plans)}
    sizes = sorted(by_size)
    measured = sorted({sizes[0], sizes[-1]}) if interpolate else sizes
    costs: dict[int, CostModel] = {}
    validation_seconds = None
    for size in measured:
        plan = by_size[size]
        costs[size] = measure_cost(
            network,
            data,
            plan,
            validation_seconds=validation_seconds,
            step=step if plan is plans[0] else None,
            clock=clock,
        )
        validation_seconds = costs[size].validation_seconds
        if progress is not None:
            progress(len(costs), len(measured))
    return {size: costs[size] if size in costs else _between(costs, size) for size in sizes}


def _between(costs: dict[int, CostModel], size: int) -> CostModel:
    (small, low), (large, high) = sorted(costs.items())
    share = (size - small) / (large - small)

    def mix(a: float, b: float) -> float:
        return a + share * (b - a)

    a, b, c = map(mix, low.batch_seconds, high.batch_seconds)
    compiling = mix(low.compile_seconds, high.compile_seconds)
    return CostModel(compiling, (a, b, c), low.validation_seconds, batches=0)


def _validation_seconds(step: TrainingStep, params: Params, data: Data, clock: Clock) -> float:
    if data.validation is None:
        return 0.0
    step.evaluate(params, "validation")
    start = clock()
    step.evaluate(params, "validation")
    return (clock() - start) * len(data.validation[1]) / step.evaluated["validation"]
