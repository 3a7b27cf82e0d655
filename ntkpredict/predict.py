"""From a network, data, a plan and a stopping rule to a forecast."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from linearize import HeadExactTangent, LinearTangent, Network, Projection, check
from linearize.tangent import Mode
from linearize.types import Progress
from ntkpredict.calibration import SHIPPED, Calibration
from ntkpredict.cost import Clock, CostModel, measure_cost
from ntkpredict.data import Data
from ntkpredict.forecast import Forecast
from ntkpredict.interval import Interval, predicted_steps, stopping_times
from ntkpredict.plan import Plan
from ntkpredict.refine import measured
from ntkpredict.simulation import Simulation
from ntkpredict.step import TrainingStep
from ntkpredict.stopping import StoppingRule, TargetLoss
from sde import (
    Curve,
    Problem,
    Replay,
    SolverName,
    Stability,
    Trajectory,
    choose_solver,
    is_coordinate_wise,
    is_rotation_equivariant,
    stability,
)
from sde.choice import check_name

Kernel = Literal["growing", "frozen"]

Report = Callable[[str], Progress]
"""Called with the name of a phase; returns what is called with (done, in all) as it goes on."""


def predict(
    network: Network,
    data: Data,
    plan: Plan,
    until: StoppingRule | None = None,
    *,
    budget: float = 0.0,
    samples: int = 512,
    mode: Mode | None = None,
    kernel: Kernel | None = None,
    solver: SolverName = "auto",
    projection: Projection | None = None,
    seeds: int = 8,
    calibration: Calibration = SHIPPED,
    report: Report | None = None,
    clock: Clock = time.perf_counter,
) -> Forecast:
    """Forecast how many steps and seconds training will take, without training.

    Args:
        network: the pretrained network with its new head.
        data: the data to fine-tune on.
        plan: optimizer, batch size and budget.
        until: the stopping rule; a tenth of the initial training loss where None.
        budget: the share of the run's own cost, in forward passes, to spend on following the real
            weights along the predicted path, see `follow`; 0.05 is 5 %. It measures how fast this
            network's kernel grows.
        samples: how many training samples to look at, at most; a quarter as many for validation.
            Cost and memory grow linearly with it. Where there are more, the curves are extrapolated
            from the subset, see `extrapolate`.
        mode: of linearisation, see `linearize`.
        kernel: ``"growing"`` as features form, see `sde.Growth`, or ``"frozen"``. By default it
            grows where the mode is ``"head_exact"`` and the solver may be replay.
        solver: ``"replay"``, ``"sde"``, ``"spectral"`` or ``"auto"``, see `choose_solver`.
        projection: of parameter space, see `linearize`.
        seeds: how many minibatch orders to simulate; ``"spectral"`` gives their expectation alone,
            and an interval without their noise.
        calibration: what forecasts were off by, for the interval; `Calibration.of` a history adds
            the user's own to what is shipped.
        report: for progress bars.
        clock: seconds since some moment.

    Returns:
        The forecast. A target that is not reached is a result, with its reason, not an error.

    Raises:
        ValueError: bad input: the message names the argument, its value and what is allowed.
    """
    until = TargetLoss(relative=0.1) if until is None else until
    _check_options(network, budget, samples, mode, kernel, solver, seeds)
    outputs = check_task(network, data, plan)
    report = report or (lambda _: lambda _done, _total: None)
    watch = Watch(clock)
    cost = measure_cost(network, data, plan, progress=report("timing batches"), clock=clock)
    cost = calibration.cost(cost)
    refuse_if_met(until, TrainingStep(network, data, plan))
    watch.lap("cost of a batch")
    simulation = Simulation(network, data, plan, outputs, samples, seeds, until)
    problem = simulation.problem(mode, projection, report("tangent features"))
    watch.lap("tangent features")
    stable = stability(problem, plan.max_steps)
    watch.lap("stability")
    frozen = None
    if _grows(problem, kernel, solver):
        alone = replace(problem, seeds=problem.seeds[:1])
        frozen = simulation.solve(Replay(), alone, report("simulating a frozen kernel"))
        problem = simulation.growing(problem, stable)
    solved_by = choose_solver(solver, problem, stable)
    trajectory = simulation.solve(solved_by, problem, report("simulating training"), frozen)
    watch.lap("simulation")
    path = None
    if budget:
        steps = np.fmin(np.median(until.steps(trajectory)), plan.max_steps)
        run_passes = 3 * plan.batch_size * steps
        path = simulation.follow(problem, budget * run_passes, report("following the weights"))
        watch.lap("path of the weights")
        problem = measured(problem, path)
        trajectory = simulation.solve(solved_by, problem, report("simulating again"), frozen)
        watch.lap("second simulation")
    validity = calibration.validity(simulation.signals(problem, trajectory, frozen, stable, path))
    steps, interval = predicted_steps(trajectory, until, validity.clock, validity.shift)
    seconds, seconds_interval = in_seconds(cost, data.samples // plan.batch_size, steps, interval)
    return Forecast(
        steps=steps,
        steps_interval=interval,
        stopping_times=stopping_times(trajectory, until, validity.clock),
        seconds=seconds,
        seconds_interval=seconds_interval,
        reason=None if steps is not None else reason_of(trajectory, stable),
        trajectory=trajectory,
        stability=stable,
        validity=validity,
        path=path,
        cost=cost,
        network=network.name,
        data=data.name,
        plan=plan.description,
        until=str(until),
        mode="linear" if isinstance(problem.train.model, LinearTangent) else "head_exact",
        kernel="frozen" if problem.growth is None else "growing",
        solver=solved_by.name,
        samples=problem.samples,
        forecast_seconds=watch.laps,
        notes=notes_of(data, problem, stable),
        versions={
            name: importlib.metadata.version(name) for name in ("ntkpredict", "jax", "optax")
        },
    )


class Watch:
    """Seconds by phase."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """A phase has ended."""
        now = self._clock()
        self.laps[name], self._last = now - self._last, now


def _grows(problem: Problem, kernel: Kernel | None, solver: SolverName) -> bool:
    possible = isinstance(problem.train.model, HeadExactTangent) and solver in ("auto", "replay")
    return possible if kernel is None else kernel == "growing"


def _check_options(
    network: Network,
    budget: float,
    samples: int,
    mode: Mode | None,
    kernel: Kernel | None,
    solver: SolverName,
    seeds: int,
) -> None:
    check_name(solver)
    if kernel not in (None, *get_args(Kernel)):
        msg = f"kernel: got {kernel!r}; expected one of {get_args(Kernel)}"
        raise ValueError(msg)
    if budget and kernel == "frozen":
        msg = "kernel: 'frozen' leaves a budget nothing to measure; expected 'growing'"
        raise ValueError(msg)
    wanted = "a budget" if budget else "kernel='growing'"
    if budget or kernel == "growing":
        if solver not in ("auto", "replay"):
            msg = f"solver: {solver!r} follows a frozen kernel; with {wanted} use 'replay'"
            raise ValueError(msg)
        if mode == "linear":
            msg = f"mode: 'linear' has a frozen head; with {wanted} use 'head_exact'"
            raise ValueError(msg)
    for name, value, least in (("samples", samples, 2), ("seeds", seeds, 1)):
        if value < least:
            msg = f"{name}: got {value}; expected at least {least}"
            raise ValueError(msg)
    if not 0 <= budget < np.inf:
        msg = f"budget: got {budget}; expected a share of the run's cost, at least 0"
        raise ValueError(msg)
    if network.head is None or not network.is_trainable(network.head.kernel):
        if budget:
            msg = f"budget: got {budget}, but {network.name} has no trainable head; expected 0"
            raise ValueError(msg)
        if kernel == "growing":
            msg = f"kernel: 'growing' needs a trainable head in {network.name}; expected 'frozen'"
            raise ValueError(msg)


def check_task(network: Network, data: Data, plan: Plan) -> int:
    """Refuse what cannot be forecast; the number of the network's outputs."""
    outputs = check(network, data.train[0])
    for split in (data.train, data.validation):
        if split is not None:
            plan.objective.targets(split[1], outputs)
    check_optimizer(plan)
    return outputs


def check_optimizer(plan: Plan) -> None:
    """Refuse an optimizer that cannot be forecast."""
    if not (is_rotation_equivariant(plan.optimizer) or is_coordinate_wise(plan.optimizer)):
        msg = (
            f"optimizer: {plan.name} cannot be forecast: it treats neither all directions alike, "
            "as sgd does (momentum, clipping by global norm, weight decay, schedules), nor each "
            "coordinate by itself and free of its scale, as adam, adamw, rmsprop and lion do "
            "(weight decay, schedules; no clipping by global norm, a small eps)"
        )
        raise ValueError(msg)


def refuse_if_met(until: StoppingRule, step: TrainingStep) -> None:
    """Refuse a target that is met before training."""
    start = {
        split: Curve(np.array([[loss]]), np.array([[accuracy]]))
        for split in step.evaluated
        for loss, accuracy in [step.evaluate(step.initial().params, split)]
    }
    point = Trajectory(np.array([0]), start["train"], start.get("validation"))
    until.steps(point, complete=False)


def in_seconds(
    cost: CostModel, epoch: int, steps: float | None, interval: Interval | None
) -> tuple[float | None, Interval | None]:
    """Steps and their interval, in seconds on this machine."""
    if steps is None or interval is None:
        return None, None
    low, high = interval
    longest = None if high is None else cost.seconds(high, epoch, quantile=2)
    return cost.seconds(steps, epoch), (cost.seconds(low, epoch, quantile=0), longest)


def reason_of(trajectory: Trajectory, stable: Stability | None) -> str:
    """Why a target is not reached, and what to expect instead."""
    loss = trajectory.train.loss
    if trajectory.diverged.mean() > 0.5:
        cause = "lower the learning rate"
        if stable is not None and stable.margin < 1:
            cause += (
                f": {stable.learning_rate:.3g} is {1 / stable.margin:.2g} times the largest stable "
                f"one, {stable.critical_learning_rate:.3g}"
            )
        elif stable is not None and stable.noise_mass > 1:
            cause += f" or take larger batches: their noise mass is {stable.noise_mass:.2g}"
        return f"diverges: the loss ends above its start; {cause}"
    return (
        f"not reached within {trajectory.steps[-1]} steps: expected training loss there "
        f"{np.median(loss[:, -1]):.3g}, from {loss[:, 0].mean():.3g}"
    )


def notes_of(data: Data, problem: Problem, stable: Stability | None) -> tuple[str, ...]:
    """What to keep in mind."""
    notes = []
    if problem.samples < data.samples:
        notes.append(
            f"Looked at {problem.samples:,} of {data.samples:,} training samples and "
            "extrapolated; more of them make late targets more certain."
        )
    if stable is not None and stable.margin < 1:
        notes.append(
            f"The learning rate is {1 / stable.margin:.2g} times the largest stable one; "
            "training may oscillate or diverge."
        )
    return tuple(notes)
