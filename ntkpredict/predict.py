"""From a network, data, a plan and a stopping rule to a forecast."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array
from scipy import stats

from linearize import LinearTangent, Network, Projection, check, linearize
from linearize.tangent import Mode
from linearize.types import Progress
from ntkpredict.cost import Clock, CostModel, measure_cost
from ntkpredict.data import Data, subset_index, take
from ntkpredict.forecast import Forecast, Interval
from ntkpredict.plan import Plan
from ntkpredict.stopping import StoppingRule, TargetLoss
from sde import (
    Examples,
    Trajectory,
    extrapolated_replay,
    head_directions,
    is_rotation_equivariant,
    log_grid,
    minibatch_order,
    replay,
)

Report = Callable[[str], Progress]
"""Called with the name of a phase; returns what is called with (done, in all) as it goes on."""

CLOCK_SPREAD = np.log(1.2) / stats.norm.ppf(0.975)
"""Standard deviation of log(real steps / predicted steps) beyond minibatch noise: a prior, from the
20 % error at 95 % that the paper reports on targets near the pretraining data."""


def predict(
    network: Network,
    data: Data,
    plan: Plan,
    until: StoppingRule | None = None,
    *,
    samples: int = 512,
    mode: Mode | None = None,
    projection: Projection | None = None,
    seeds: int = 8,
    report: Report | None = None,
    clock: Clock = time.perf_counter,
) -> Forecast:
    """Forecast how many steps and seconds training will take, without training.

    Args:
        network: the pretrained network with its new head.
        data: the data to fine-tune on.
        plan: optimizer, batch size and budget.
        until: the stopping rule; a tenth of the initial training loss where None.
        samples: how many training samples to look at, at most; a quarter as many for validation.
            Cost and memory grow linearly with it. Where there are more, the curves are extrapolated
            from the subset, see `extrapolated_replay`.
        mode: of linearisation, see `linearize`.
        projection: of parameter space, see `linearize`.
        seeds: how many minibatch orders to replay.
        report: for progress bars.
        clock: seconds since some moment.

    Returns:
        The forecast. A target that is not reached is a result, with its reason, not an error.

    Raises:
        ValueError: bad input: the message names the argument, its value and what is allowed.
    """
    until = TargetLoss(relative=0.1) if until is None else until
    outputs = _check(network, data, plan)
    report = report or (lambda _: lambda _done, _total: None)
    watch = _Watch(clock)
    cost = measure_cost(network, data, plan, clock=clock)
    watch.lap("cost of a batch")
    job = _Simulation(network, data, plan, outputs, samples, seeds)
    train, validation = job.examples(mode, projection, report)
    watch.lap("tangent features")
    trajectory = job.replay(train, validation, report("replaying training"))
    watch.lap("replay")
    return _assemble(network, data, plan, until, cost, trajectory, train, watch.laps)


class _Watch:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = self._clock()
        self.laps[name], self._last = now - self._last, now


class _Simulation:
    """The samples looked at, and the minibatch orders they are replayed in."""

    def __init__(
        self, network: Network, data: Data, plan: Plan, outputs: int, samples: int, seeds: int
    ) -> None:
        self._network = network
        self._plan = plan
        self._samples = data.samples
        looked_at = max(samples // 2 * 2, 4 * plan.batch_size)  # so that a half has two batches
        self._split = take(data.train, subset_index(data.samples, looked_at))
        self._held_out = None
        if data.validation is not None:
            count = max(samples // 4, 2)
            self._held_out = take(data.validation, subset_index(len(data.validation[1]), count))
        self._outputs = outputs
        self._grid = log_grid(plan.max_steps)
        self._seeds = range(plan.seed, plan.seed + seeds)

    def _orders(self, samples: int, seeds: int | None = None) -> np.ndarray:
        steps, batch_size = self._plan.max_steps, self._plan.batch_size
        return np.stack(
            [minibatch_order(samples, batch_size, steps, seed) for seed in self._seeds[:seeds]]
        )

    def examples(
        self, mode: Mode | None, projection: Projection | None, report: Report
    ) -> tuple[Examples, Examples | None]:
        """The tangent models on the training and on the validation samples."""
        inputs, labels = self._split
        count = len(labels)
        if self._held_out is not None:
            inputs = jax.tree.map(lambda *leaves: np.concatenate(leaves), inputs, self._held_out[0])
            labels = np.concatenate([labels, self._held_out[1]])
        targets = self._plan.objective.targets(labels, self._outputs)
        model = linearize(
            self._network,
            inputs,
            projection,
            mode=mode,
            directions=lambda still: self._directions(Examples(still, targets).take(slice(count))),
            checked=True,
            progress=report("tangent features"),
        )
        every = Examples(model, targets)
        validation = None if self._held_out is None else every.take(slice(count, None))
        return every.take(slice(count)), validation

    def replay(
        self, train: Examples, validation: Examples | None, progress: Progress
    ) -> Trajectory:
        """The curves of training on all samples."""
        looked_at = train.model.samples
        shared = (self._plan.objective, self._plan.optimizer)
        if looked_at == self._samples:
            orders = self._orders(looked_at)
            return replay(
                train, *shared, orders, self._grid, validation=validation, progress=progress
            )
        orders = self._orders(looked_at // 2)
        return extrapolated_replay(
            train,
            self._samples,
            *shared,
            orders,
            self._grid,
            validation=validation,
            progress=progress,
        )

    def _directions(self, still: Examples) -> Array:
        """The directions of feature space that the head will read, from training it alone."""
        count = max(1, 2 * (self._outputs - 1))
        plan = self._plan
        orders = self._orders(still.model.samples, 2)
        return head_directions(still, plan.objective, plan.optimizer, orders, self._grid, count)


def _check(network: Network, data: Data, plan: Plan) -> int:
    outputs = check(network, data.train[0])
    if plan.batch_size > data.samples:
        msg = f"batch_size: got {plan.batch_size}; expected 1..{data.samples}, the training samples"
        raise ValueError(msg)
    for split in (data.train, data.validation):
        if split is not None:
            plan.objective.targets(split[1], outputs)
    if not is_rotation_equivariant(plan.optimizer):
        msg = (
            f"optimizer: {plan.name} treats coordinates one by one and cannot be forecast yet; "
            "expected sgd, with momentum, clipping by global norm, weight decay, schedules"
        )
        raise ValueError(msg)
    return outputs


def _assemble(
    network: Network,
    data: Data,
    plan: Plan,
    until: StoppingRule,
    cost: CostModel,
    trajectory: Trajectory,
    train: Examples,
    laps: dict[str, float],
) -> Forecast:
    steps, interval = predicted_steps(trajectory, until)
    seconds = seconds_interval = None
    if steps is not None and interval is not None:
        seconds = _seconds(cost, trajectory, steps, 1)
        low, high = interval
        seconds_interval = (
            _seconds(cost, trajectory, low, 0),
            None if high is None else _seconds(cost, trajectory, high, 2),
        )
    return Forecast(
        steps=steps,
        steps_interval=interval,
        seconds=seconds,
        seconds_interval=seconds_interval,
        reason=None if steps is not None else _reason(trajectory),
        trajectory=trajectory,
        cost=cost,
        network=network.name,
        data=data.name,
        plan=plan.description,
        until=str(until),
        mode="linear" if isinstance(train.model, LinearTangent) else "head_exact",
        samples=train.model.samples,
        forecast_seconds=laps,
        notes=_notes(data, train),
        versions={
            name: importlib.metadata.version(name) for name in ("ntkpredict", "jax", "optax")
        },
    )


def predicted_steps(
    trajectory: Trajectory, until: StoppingRule
) -> tuple[float | None, Interval | None]:
    """The median number of steps and its 95 % interval.

    The interval covers the minibatch noise between seeds and an error of the clock of the whole
    curve, lognormal with `CLOCK_SPREAD`.
    """
    point = float(np.median(until.steps(trajectory)))
    if not np.isfinite(point):
        return None, None
    quantiles = (np.arange(41) + 0.5) / 41
    factors = np.exp(CLOCK_SPREAD * stats.norm.ppf(quantiles))
    spread = np.concatenate([until.steps(trajectory.slowed(factor)) for factor in factors])
    low, high = np.quantile(spread, [0.025, 0.975], method="nearest")
    return point, (float(low), float(high) if np.isfinite(high) else None)


def _seconds(cost: CostModel, trajectory: Trajectory, steps: float, quantile: int) -> float:
    evaluations = int((trajectory.steps <= steps).sum()) + 1
    return cost.seconds(steps, evaluations, quantile=quantile)


def _reason(trajectory: Trajectory) -> str:
    loss = trajectory.train.loss
    budget = trajectory.steps[-1]
    broken = ~np.isfinite(loss).all(axis=0) | (
        np.nan_to_num(loss, nan=np.inf) > 1e3 * loss[:, :1]
    ).any(0)
    if broken.any():
        step = trajectory.steps[broken.argmax()]
        return f"diverges: the loss explodes by step {step}; lower the learning rate"
    return (
        f"not reached within {budget} steps: expected training loss there "
        f"{np.median(loss[:, -1]):.3g}, from {loss[:, 0].mean():.3g}"
    )


def _notes(data: Data, train: Examples) -> tuple[str, ...]:
    notes = [
        "The interval assumes a clock error of 20 % at 95 %, as published for targets near the "
        "pretraining data; far targets can take several times longer than forecast.",
    ]
    if train.model.samples < data.samples:
        notes.append(
            f"Looked at {train.model.samples:,} of {data.samples:,} training samples and "
            "extrapolated; more of them make late targets more certain."
        )
    return tuple(notes)
