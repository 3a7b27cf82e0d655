"""Many plans beside one another, before any is launched."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import get_args

from linearize import Network
from ntkpredict.advice import notes_of
from ntkpredict.budget import Budget
from ntkpredict.calibration import SHIPPED, Calibration
from ntkpredict.candidate import Candidate, Criterion, candidate
from ntkpredict.checks import check_optimizer, check_task, refuse_if_met
from ntkpredict.cost import Clock, measure_costs
from ntkpredict.data import Data
from ntkpredict.goal import Goal
from ntkpredict.machine import Machine
from ntkpredict.phases import Report, Stopwatch
from ntkpredict.plan import Plan
from ntkpredict.ranking import Ranking, rank
from ntkpredict.simulation import Simulation
from ntkpredict.step import TrainingStep
from ntkpredict.stopping import StoppingRule
from ntkpredict.sweep import PlanSweep
from ntkpredict.versions import versions
from sde import is_coordinate_wise, noise_scale


def compare(
    network: Network,
    data: Data,
    plans: Sequence[Plan],
    until: StoppingRule | None = None,
    *,
    within: Budget | None = None,
    machines: Sequence[Machine] = (Machine(),),
    criterion: Criterion | None = None,
    interpolate: bool = False,
    patience: int | float = 10.0,
    samples: int = 512,
    seeds: int = 1,
    calibration: Calibration = SHIPPED,
    report: Report | None = None,
    clock: Clock = time.perf_counter,
) -> Ranking:
    """Forecast many plans at once, and tell which is best.

    Plans of one kind of optimizer (gradient descent and its kin, or Adam and its) share their
    features; those of one batch size and direction (see `Scaled`) train side by side. A single plan
    gets what `predict` with ``solver="replay"`` says; what comes after training has stopped is not
    simulated. Several plans share the directions that their heads read, where `predict` looks at
    those of its plan alone.

    Args:
        network: the pretrained network with its new head.
        data: the data to fine-tune on.
        plans: they differ in optimizer and batch size only; see `Plan.grid`.
        until: the stopping rule; where None, a tenth of the initial training loss, or the end of
            the budget if there is one.
        within: a budget of time, money or steps: plans are told by where it leaves them.
        machines: where they could run, by price and throughput.
        criterion: what is to be small: ``"seconds"``, ``"price"``, ``"steps"`` or ``"loss"``, the
            final one. By default seconds, and with a budget but without a stopping rule the loss.
        interpolate: time the smallest and the largest batch size only.
        patience: a plan that has not reached a target after so many times the steps of the fastest
            of its batch size and kind is given up.
        samples: as in `predict`.
        seeds: as in `predict`; minibatch noise is small beside what forecasts are off by.
        calibration: as in `predict`.
        report: for progress bars.
        clock: seconds since some moment.

    Raises:
        ValueError: bad input: the message names the argument, its value and what is allowed.
    """
    plans = list(plans)
    _check_plans(plans)
    if criterion is None:
        criterion = "loss" if within is not None and until is None else "seconds"
    _check_options(criterion, machines, patience, samples, seeds)
    goal = Goal(until, within, plans[0].max_steps)
    report = report or (lambda _: lambda _done, _total: None)
    watch = Stopwatch(clock)
    outputs = _check_tasks(network, data, plans)
    step, timing = TrainingStep(network, data, plans[0]), report("timing batches")
    timed = measure_costs(
        network, data, plans, interpolate=interpolate, step=step, progress=timing, clock=clock
    )
    costs = {size: calibration.cost(cost) for size, cost in timed.items()}
    refuse_if_met(goal.rule, step)
    watch.lap("cost of a batch")
    limits = {
        size: goal.limits(cost, data.samples // size, machines) for size, cost in costs.items()
    }
    most = {size: max(row) for size, row in limits.items()}
    candidates: list[Candidate] = []
    scale: float | None = None
    for name, kind in _kinds(plans).items():
        first = _of_middle_size(kind)
        others = [plan for plan in kind if plan is not first]
        simulation = Simulation(network, data, first, outputs, samples, seeds, goal.rule, others)
        problem = simulation.problem(None, None, report(f"features, {name}"))
        watch.lap(f"tangent features, {name}")
        scale = noise_scale(problem) if name == "SGD-like" else scale
        sweep = PlanSweep(simulation, data.samples, goal.rule, patience)
        for found in sweep.run(problem, kind, most, report(f"simulating, {name}")):
            size = found.plan.batch_size
            candidates += [
                candidate(found, goal, data, costs[size], machine, limit, calibration)
                for machine, limit in zip(machines, limits[size], strict=True)
            ]
        watch.lap(f"simulation, {name}")
    return Ranking(
        **rank(candidates, criterion),
        noise_scale=scale,
        network=network.name,
        data=data.name,
        until=str(goal.rule),
        within=None if within is None else str(within),
        samples=problem.samples,
        forecast_seconds=watch.laps,
        notes=(*notes_of(data, problem, None), *goal.note(max(most.values()))),
        versions=versions(),
    )


def _check_plans(plans: list[Plan]) -> None:
    if not plans:
        msg = "plans: got none; expected at least one"
        raise ValueError(msg)
    for name in ("max_steps", "loss", "seed"):
        found = {getattr(plan, name) for plan in plans}
        if len(found) > 1:
            msg = f"plans: their {name} are {sorted(map(str, found))}; expected the same for all"
            raise ValueError(msg)


def _check_options(
    criterion: Criterion,
    machines: Sequence[Machine],
    patience: int | float,
    samples: int,
    seeds: int,
) -> None:
    if criterion not in get_args(Criterion):
        msg = f"criterion: got {criterion!r}; expected one of {get_args(Criterion)}"
        raise ValueError(msg)
    if not machines:
        msg = "machines: got none; expected at least one"
        raise ValueError(msg)
    for machine in machines:
        if criterion == "price" and machine.price is None:
            msg = f"machines: {machine.name} has no price; expected one such as NAME:3.2USD/h"
            raise ValueError(msg)
    for name, value, least in (
        ("patience", patience, 1),
        ("samples", samples, 2),
        ("seeds", seeds, 1),
    ):
        if not value >= least:
            msg = f"{name}: got {value}; expected at least {least}"
            raise ValueError(msg)


def _check_tasks(network: Network, data: Data, plans: list[Plan]) -> int:
    """Each kind of optimizer once; the number of outputs."""
    directions = {plan.factors()[0]: plan for plan in plans}
    outputs = check_task(network, data, next(iter(directions.values())))
    for plan in list(directions.values())[1:]:
        check_optimizer(plan)
    return outputs


def _kinds(plans: list[Plan]) -> dict[str, list[Plan]]:
    """The plans that can share their features."""
    kinds: dict[str, list[Plan]] = {}
    for plan in plans:
        name = "Adam-like" if is_coordinate_wise(plan.factors()[0]) else "SGD-like"
        kinds.setdefault(name, []).append(plan)
    return kinds


def _of_middle_size(plans: list[Plan]) -> Plan:
    """The first of the plans with the median batch size."""
    sizes = sorted(plan.batch_size for plan in plans)
    return next(plan for plan in plans if plan.batch_size == sizes[len(sizes) // 2])
