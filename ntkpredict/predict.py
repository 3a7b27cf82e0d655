"""From a network, data, a plan and a stopping rule to a forecast."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from linearize import (
    HeadExactTangent,
    LinearTangent,
    Network,
    Projection,
    empirical_ntk,
    spectrum,
)
from linearize.linearization import Mode
from ntkpredict.advice import ended_note, notes_of, reason_of
from ntkpredict.calibration import SHIPPED, Calibration
from ntkpredict.checks import check_task, refuse_if_met
from ntkpredict.cost import Clock, CostModel, in_seconds, measure_cost
from ntkpredict.data import Data
from ntkpredict.follow import Follower
from ntkpredict.forecast import Forecast
from ntkpredict.interval import predicted_steps, stopping_times
from ntkpredict.phases import Report, Stopwatch
from ntkpredict.plan import Plan
from ntkpredict.start import Start, Starts
from ntkpredict.step import TrainingStep
from ntkpredict.stopping import StoppingRule, TargetLoss
from ntkpredict.sweep import Simulated
from ntkpredict.versions import versions
from sde import Problem, SolverName, choose_solver
from sde.choice import check_name

Kernel = Literal["growing", "frozen"]

_MODES = 512
"""Of the kernel that are looked at, about."""


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
    opening: bool = True,
    calibration: Calibration = SHIPPED,
    report: Report | None = None,
    clock: Clock = time.perf_counter,
) -> Forecast:
    """Forecast how many steps and seconds training will take, without training.

    But for a few steps: under Adam and its kind 64 or more are trained on a copy, where the
    learning rate is above the largest stable one 20, and the forecast goes on from where they lead:
    see `ntkpredict.opening`.

    Args:
        network: the pretrained network with its new head.
        data: the data to fine-tune on.
        plan: optimizer, batch size and budget.
        until: the stopping rule; a tenth of the initial training loss where None.
        budget: the share of the predicted run to train for real first; 0.05 is 5 %. If that is more
            than what is trained anyway, the forecast goes on from where it leads, under Adam and
            its kind on a tangent model of the weights there.
        samples: how many training samples to look at, at most; a quarter as many for validation,
            but as many of each where steps are trained for real. Cost and memory grow linearly with
            it. Where there are more, the curves are extrapolated from the subset, see
            `extrapolate`.
        mode: of linearisation, see `linearize`.
        kernel: ``"growing"`` as features form, see `sde.Growth`, or ``"frozen"``. By default it
            grows where the mode is ``"head_exact"`` and the solver may be replay.
        solver: ``"replay"``, ``"sde"``, ``"spectral"`` or ``"auto"``, see `choose_solver`.
        projection: of parameter space, see `linearize`.
        seeds: how many minibatch orders to simulate; ``"spectral"`` gives their expectation alone,
            and an interval without their noise.
        opening: whether first steps may be trained for real.
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
    check_task(network, data, plan)
    report = report or (lambda _: lambda _done, _total: None)
    watch = Stopwatch(clock)
    step = TrainingStep(network, data, plan, evaluation_samples=samples)
    timing = report("timing batches")
    cost = measure_cost(network, data, plan, step=step, progress=timing, clock=clock)
    refuse_if_met(until, step)
    watch.lap("cost of a batch")

    starts = Starts(
        network,
        data,
        plan,
        until,
        step,
        samples=samples,
        seeds=seeds,
        mode=mode,
        projection=projection,
        report=report,
        watch=watch,
    )

    def followed(start: Start) -> tuple[Follower, Simulated]:
        problem = start.problem
        if _grows(problem, kernel, solver):
            problem = start.simulation.growing(problem, start.stable)
        solved_by = choose_solver(solver, problem, start.stable)
        follower = Follower(start, problem, solved_by, until, calibration, data.samples)
        found = follower.follow(report("simulating training"))
        watch.lap("simulation")
        return follower, found

    start = starts.first(opening=opening)
    trained, stable = start.opening, start.pretrained
    follower, found = followed(start)
    steps = _budgeted(budget, found, until)
    if steps > found.trajectory.known:
        trained = starts.train(steps)
        if trained.begins(plan):
            follower, found = followed(replace(starts.at(trained), pretrained=stable))
        else:
            found = found.continued(trained.trajectory)
    problem = follower.problem
    return Forecast(
        **_answer(found, until, calibration, calibration.cost(cost), data),
        stability=stable,
        spectrum=_spectrum(problem),
        network=network.name,
        data=data.name,
        plan=plan.description,
        until=str(until),
        mode="linear" if isinstance(problem.train.model, LinearTangent) else "head_exact",
        kernel="frozen" if problem.growth is None else "growing",
        solver=follower.solver.name,
        samples=problem.samples,
        forecast_seconds=watch.laps,
        notes=(
            *notes_of(data, problem, stable, trained),
            *ended_note(found.end, plan.max_steps),
        ),
        versions=versions(),
    )


def _budgeted(budget: float, found: Simulated, until: StoppingRule) -> int:
    """That share of the run, as it is simulated."""
    length = np.fmin(np.median(until.steps(found.trajectory)), found.plan.max_steps)
    return int(np.ceil(budget * length))


def _answer(
    found: Simulated,
    until: StoppingRule,
    calibration: Calibration,
    cost: CostModel,
    data: Data,
) -> dict[str, Any]:
    """The fields of a `Forecast` that follow from its curves and what a step costs."""
    curves = found.trajectory
    validity = calibration.validity(found.signals)
    steps, interval = predicted_steps(curves, until, validity.clock, validity.shift)
    epoch = data.samples // found.plan.batch_size
    seconds, seconds_interval = in_seconds(cost, epoch, steps, interval)
    return {
        "steps": steps,
        "steps_interval": interval,
        "stopping_times": stopping_times(curves, until, validity.clock),
        "seconds": seconds,
        "seconds_interval": seconds_interval,
        "reason": None if steps is not None else reason_of(curves, found.stability),
        "trajectory": curves,
        "validity": validity,
        "cost": cost,
    }


def _grows(problem: Problem, kernel: Kernel | None, solver: SolverName) -> bool:
    possible = isinstance(problem.train.model, HeadExactTangent) and solver in ("auto", "replay")
    return possible if kernel is None else kernel == "growing"


def _spectrum(problem: Problem) -> Float[np.ndarray, " modes"]:
    """See `Forecast`; of samples evenly spaced among those looked at."""
    count = max(_MODES // problem.train.targets.shape[1], 2)
    index = np.unique(np.linspace(0, problem.samples - 1, count).astype(int))
    return np.asarray(spectrum(empirical_ntk(problem.train.model.take(index))), float)


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
    if kernel == "growing":
        if solver not in ("auto", "replay"):
            msg = f"solver: {solver!r} follows a frozen kernel; with kernel='growing' use 'replay'"
            raise ValueError(msg)
        if mode == "linear":
            msg = "mode: 'linear' has a frozen head; with kernel='growing' use 'head_exact'"
            raise ValueError(msg)
        if network.head is None or not network.is_trainable(network.head.kernel):
            msg = f"kernel: 'growing' needs a trainable head in {network.name}; expected 'frozen'"
            raise ValueError(msg)
    for name, value, least in (("samples", samples, 2), ("seeds", seeds, 1)):
        if value < least:
            msg = f"{name}: got {value}; expected at least {least}"
            raise ValueError(msg)
    if not 0 <= budget <= 1:
        msg = f"budget: got {budget}; expected a share of the run, in 0..1"
        raise ValueError(msg)
