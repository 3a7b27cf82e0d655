"""Seconds: what a step costs on this machine, measured on a few real batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from linearize import Network
from linearize.types import Params, Progress
from ntkpredict.data import Data
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
        batches: how many batches were measured.
    """

    compile_seconds: float
    batch_seconds: tuple[float, float, float]
    validation_seconds: float
    batches: int

    def seconds(self, steps: float, steps_per_epoch: int, *, quantile: int = 1) -> float:
        """Seconds of a run that looks at its validation samples once an epoch.

        Args:
            steps: training steps.
            steps_per_epoch: training steps between two validation passes.
            quantile: 0, 1 or 2: the 5 %, 50 % or 95 % quantile of a batch's cost.
        """
        validating = steps // steps_per_epoch * self.validation_seconds
        return self.compile_seconds + steps * self.batch_seconds[quantile] + validating


def measure_cost(
    network: Network,
    data: Data,
    plan: Plan,
    *,
    batches: int = 20,
    seconds: float = 3.0,
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
        progress: called with (batches done, batches).
        clock: seconds since some moment.

    Raises:
        ValueError: fewer than 3 batches.
    """
    if batches < 3:
        msg = f"batches: got {batches}; expected at least 3"
        raise ValueError(msg)
    step = TrainingStep(network, data, plan)
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
    return CostModel(
        compile_seconds=max(first - middle, 0.0),
        batch_seconds=(float(low), float(middle), float(high)),
        validation_seconds=_validation_seconds(step, state.params, data, clock),
        batches=len(durations),
    )


def _validation_seconds(step: TrainingStep, params: Params, data: Data, clock: Clock) -> float:
    if data.validation is None:
        return 0.0
    step.evaluate(params, "validation")
    start = clock()
    step.evaluate(params, "validation")
    return (clock() - start) * len(data.validation[1]) / step.evaluated["validation"]
