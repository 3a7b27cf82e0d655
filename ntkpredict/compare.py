"""Many plans beside one another, before any is launched."""

from __future__ import annotations

import importlib.metadata
import re
import time
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, get_args

import numpy as np

from linearize import Network
from ntkpredict.budget import Budget
from ntkpredict.cost import Clock, CostModel, measure_costs
from ntkpredict.data import Data
from ntkpredict.interval import predicted_steps
from ntkpredict.machine import Machine
from ntkpredict.plan import Plan
from ntkpredict.predict import (
    Report,
    Watch,
    check_optimizer,
    check_task,
    in_seconds,
    notes_of,
    reason_of,
    refuse_if_met,
)
from ntkpredict.ranking import Candidate, Criterion, Ranking, rank
from ntkpredict.simulation import Simulation
from ntkpredict.step import TrainingStep
from ntkpredict.stopping import MaxSteps, Steps, StoppingRule, TargetLoss
from ntkpredict.sweep import PlanSweep, Simulated
from ntkpredict.validity import Validity
from sde import Trajectory, is_coordinate_wise, noise_scale


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
    report: Report | None = None,
    clock: Clock = time.perf_counter,
) -> Ranking:
    """Forecast many plans at once, and tell which is best.

    Plans of one kind of optimizer (gradient descent and its kin, or Adam and its) share their
    features; those of one batch size and direction (see `Plan`) train side by side. A single plan
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
    open_end = MaxSteps(plans[0].max_steps) if within else TargetLoss(relative=0.1)
    open_ended = until is None
    until = open_end if until is None else until
    report = report or (lambda _: lambda _done, _total: None)
    watch = Watch(clock)
    outputs = _check_tasks(network, data, plans)
    costs = measure_costs(
        network,
        data,
        plans,
        interpolate=interpolate,
        progress=report("timing batches"),
        clock=clock,
    )
    refuse_if_met(until, TrainingStep(network, data, plans[0]))
    watch.lap("cost of a batch")
    limits = {
        size: [_limit(within, cost, data, size, machine, plans[0]) for machine in machines]
        for size, cost in costs.items()
    }
    candidates: list[Candidate] = []
    scale, looked_at = None, 0
    notes: tuple[str, ...] = ()
    for coordinate_wise in (False, True):
        kind = [p for p in plans if is_coordinate_wise(p.factors()[0]) == coordinate_wise]
        if not kind:
            continue
        name = "Adam-like" if coordinate_wise else "SGD-like"
        first = _of_middle_size(kind)
        others = [plan for plan in kind if plan is not first]
        simulation = Simulation(network, data, first, outputs, samples, seeds, until, others)
        problem = simulation.problem(None, None, report(f"features, {name}"))
        watch.lap(f"tangent features, {name}")
        if not coordinate_wise:
            scale = noise_scale(problem)
        looked_at, notes = problem.samples, notes_of(data, problem, None)
        swept = PlanSweep(simulation, problem, data.samples, until, patience)
        most = {size: max(row) for size, row in limits.items()}
        for found in swept.run(kind, most, report(f"simulating, {name}")):
            size = found.plan.batch_size
            candidates += [
                _candidate(
                    found,
                    MaxSteps(max(limit, 1)) if within and open_ended else until,
                    data,
                    costs[size],
                    machine,
                    limit,
                    within,
                )
                for machine, limit in zip(machines, limits[size], strict=True)
            ]
        watch.lap(f"simulation, {name}")
    return Ranking(
        **rank(candidates, criterion),
        noise_scale=scale,
        network=network.name,
        data=data.name,
        until=str(until),
        within=None if within is None else str(within),
        samples=looked_at,
        forecast_seconds=watch.laps,
        notes=notes,
        versions={
            name: importlib.metadata.version(name) for name in ("ntkpredict", "jax", "optax")
        },
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


def _of_middle_size(plans: list[Plan]) -> Plan:
    """The first of the plans with the median batch size."""
    sizes = sorted(plan.batch_size for plan in plans)
    return next(plan for plan in plans if plan.batch_size == sizes[len(sizes) // 2])


def _limit(
    within: Budget | None, cost: CostModel, data: Data, size: int, machine: Machine, plan: Plan
) -> int:
    """The most steps, at most the plan's own."""
    if within is None:
        return plan.max_steps
    return min(within.steps(cost, data.samples // size, machine), plan.max_steps)


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


def _candidate(
    found: Simulated,
    until: StoppingRule,
    data: Data,
    cost: CostModel,
    machine: Machine,
    limit: int,
    within: Budget | None,
) -> Candidate:
    """What a simulated plan comes to on a machine."""
    plan, curves, epoch = found.plan, found.trajectory, data.samples // found.plan.batch_size
    validity = Validity.of(found.signals)
    if found.given_up:
        limit = min(limit, int(curves.steps[found.simulated - 1]))
    rule = _AtMost(until, limit)
    steps, interval = predicted_steps(curves, rule, validity.clock)
    seconds, seconds_interval = in_seconds(cost, epoch, steps, interval)
    times, losses = _outcomes(curves, rule, limit, validity)
    ends = _ends(curves, rule, limit)
    diverged = bool(curves.diverged.mean() > 0.5)
    reason = None if steps is not None else reason_of(curves, found.stability)
    if reason is not None and found.given_up:
        above = "the loss is above its start and " if diverged else ""
        reason = f"not reached within {limit} steps; {above}others are far ahead"
    elif reason is not None and limit < plan.max_steps and not diverged:
        reason = f"not reached within {limit} steps, all that {within} pays for"
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
