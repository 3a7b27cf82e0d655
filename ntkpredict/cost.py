"""Seconds: what a step costs on this machine, measured on a few real batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from linearize import Network
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
        evaluation_seconds: one pass over the samples that are evaluated.
        batches: how many batches were measured.
    """

    compile_seconds: float
    batch_seconds: tuple[float, float, float]
    evaluation_seconds: float
    batches: int

    def seconds(self, steps: float, evaluations: int = 0, *, quantile: int = 1) -> float:
        """Seconds of a run.

        Args:
            steps: training steps.
            evaluations: passes over the samples that are evaluated.
            quantile: 0, 1 or 2: the 5 %, 50 % or 95 % quantile of a batch's cost.
        """
        evaluating = evaluations * self.evaluation_seconds
        return self.compile_seconds + steps * self.batch_seconds[quantile] + evaluating


def measure_cost(
    network: Network,
    data: Data,
    plan: Plan,
    *,
    batches: int = 20,
    seconds: float = 3.0,
    clock: Clock = time.perf_counter,
) -> CostModel:
    """Run a few real training steps and one evaluation; the network is not changed.

    Args:
        network: the network.
        data: the data; the first batches of the plan's own order are used.
        plan: the plan.
        batches: how many batches to measure, at least 3 are.
        seconds: stop measuring after this time.
        clock: seconds since some moment.
    """
    step = TrainingStep(network, data, plan)
    order = epoch_order(data.samples, plan.batch_size, 0, plan.seed)
    start = clock()
    state = jax.block_until_ready(step(step.initial(), order[0]))
    first = clock() - start
    durations: list[float] = []
    while len(durations) < batches and (len(durations) < 3 or sum(durations) < seconds):
        start = clock()
        state = jax.block_until_ready(step(state, order[len(durations) % len(order)]))
        durations.append(clock() - start)
    low, middle, high = np.quantile(durations, [0.05, 0.5, 0.95])
    step.evaluate(state.params)
    start = clock()
    step.evaluate(state.params)
    return CostModel(
        compile_seconds=max(first - middle, 0.0),
        batch_seconds=(float(low), float(middle), float(high)),
        evaluation_seconds=clock() - start,
        batches=len(durations),
    )
