"""From a network, data, a plan and a stopping rule to a forecast."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable

import numpy as np

from linearize import LinearTangent, Network, Projection, check
from linearize.tangent import Mode
from linearize.types import Progress
from ntkpredict.cost import Clock, CostModel, measure_cost
from ntkpredict.data import Data
from ntkpredict.forecast import Forecast
from ntkpredict.interval import predicted_steps
from ntkpredict.plan import Plan
from ntkpredict.simulation import Simulation
from ntkpredict.step import TrainingStep
from ntkpredict.stopping import StoppingRule, TargetLoss
from sde import Curve, Examples, Trajectory, is_rotation_equivariant

Report = Callable[[str], Progress]
"""Called with the name of a phase; returns what is called with (done, in all) as it goes on."""


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
    for name, value, least in (("samples", samples, 2), ("seeds", seeds, 1)):
        if value < least:
            msg = f"{name}: got {value}; expected at least {least}"
            raise ValueError(msg)
    outputs = _check(network, data, plan)
    report = report or (lambda _: lambda _done, _total: None)
    watch = _Watch(clock)
    cost = measure_cost(network, data, plan, progress=report("timing batches"), clock=clock)
    _refuse_if_met(until, TrainingStep(network, data, plan))
    watch.lap("cost of a batch")
    simulation = Simulation(network, data, plan, outputs, samples, seeds)
    train, validation = simulation.examples(mode, projection, report("tangent features"))
    watch.lap("tangent features")
    trajectory = simulation.replay(train, validation, report("replaying training"))
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


def _check(network: Network, data: Data, plan: Plan) -> int:
    outputs = check(network, data.train[0])
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


def _refuse_if_met(until: StoppingRule, step: TrainingStep) -> None:
    start = {
        split: Curve(np.array([[loss]]), np.array([[accuracy]]))
        for split in step.evaluated
        for loss, accuracy in [step.evaluate(step.initial().params, split)]
    }
    point = Trajectory(np.array([0]), start["train"], start.get("validation"))
    until.steps(point, complete=False)


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
        epoch = data.samples // plan.batch_size
        low, high = interval
        seconds = cost.seconds(steps, epoch)
        seconds_interval = (
            cost.seconds(low, epoch, quantile=0),
            None if high is None else cost.seconds(high, epoch, quantile=2),
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
        "pretraining data; far targets can take much longer.",
    ]
    if train.model.samples < data.samples:
        notes.append(
            f"Looked at {train.model.samples:,} of {data.samples:,} training samples and "
            "extrapolated; more of them make late targets more certain."
        )
    return tuple(notes)
