"""The forecasts of the suite's runs, each one a small JSON file; those that are there stay.

One linearisation of each task's network is solved twice, frozen and growing with its features; so
is one where a share of the run leads; one of everything, the paper's, by replay and by the paper's
own equation.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tasks import TASKS, Case
from train import rounded

import ntkpredict as ntp
from linearize.linearization import Mode
from ntkpredict.basis import MOVED, MOVES
from ntkpredict.continuation import continuation
from ntkpredict.interval import predicted_steps
from ntkpredict.opening import Opening, opens, train_opening
from ntkpredict.record import to_plain, to_trajectory, write
from ntkpredict.simulation import Simulation
from ntkpredict.step import TrainingStep
from ntkpredict.stopping import AnyOf, StoppingRule
from ntkpredict.suite import targets
from ntkpredict.validity import Signals, Validity
from sde import (
    Diffusion,
    Problem,
    Replay,
    Solver,
    Trajectory,
    as_gradient_descent,
    stability,
)

SAMPLES, SEEDS = 512, 4
SHARES = {"ours-pilot-20": 0.2}
"""Forecasters with a budget, by the share of the run's that is trained."""

MOVING = 6 * MOVES * MOVED
"""Forward passes for how features move: two, one backward and one of forward differentiation."""

REPLAY = Replay()


def main(folder: Path, cases: dict[str, Case]) -> None:
    """Forecast what has not been forecast yet."""
    forecasts = folder / "forecasts"
    ways = {"ours": ours, **{name: partial(piloted, name=name) for name in SHARES}, "ntk": paper}
    for last, make in ways.items():
        for key, case in cases.items():
            if not (forecasts / last / f"{key}.json").exists():
                start = time.perf_counter()
                make(case, forecasts)
                print(f"{last} {key}: {time.perf_counter() - start:.0f} s", flush=True)


def ours(case: Case, folder: Path, *, opening: bool = True) -> None:
    """The head exact; the kernel frozen, or growing with the features."""
    forecasting = Forecasting(case, folder)
    forecasting.begin(opening=opening)
    frozen = forecasting.solve(forecasting.problem)
    forecasting.write("frozen", frozen)
    forecasting.write("ours", forecasting.solve(forecasting.growing(), frozen), frozen)


def piloted(case: Case, folder: Path, name: str) -> None:
    """Ours, gone on with where first steps of the run lead, if these are more than it knows.

    They are a share of the run's budget, so that all targets of a run have one pilot, as the power
    laws do.
    """
    before = json.loads((folder / "ours" / f"{case.key}.json").read_text(encoding="utf-8"))
    steps = int(np.ceil(SHARES[name] * case.max_steps))
    if steps <= before["trajectory"]["known"]:
        (folder / name).mkdir(parents=True, exist_ok=True)
        write(folder / name / f"{case.key}.json", before | {"forecaster": name})
        return
    forecasting = Forecasting(case, folder)
    if forecasting.goes_on(steps, before):
        frozen = forecasting.solve(forecasting.problem)
        forecasting.write(name, forecasting.solve(forecasting.growing(), frozen), frozen)
    else:
        forecasting.continues(name, before)


def paper(case: Case, folder: Path) -> None:
    """One linearisation of everything, by replay and by the paper's equation."""
    forecasting = Forecasting(case, folder)
    forecasting.linearise("linear")
    if as_gradient_descent(forecasting.problem.optimizer, case.max_steps) is not None:
        equation = Diffusion(effective_rate=True)
        forecasting.write("ntk-elr-sde", forecasting.solve(forecasting.problem, solver=equation))
    forecasting.write("ntk", forecasting.solve(forecasting.problem))


class Forecasting:
    """The forecasts of one case; each pays for all that was done before.

    Args:
        case: the case.
        folder: where they are written.

    Attributes:
        problem: the tangent model's training, its kernel frozen.
    """

    problem: Problem

    def __init__(self, case: Case, folder: Path) -> None:
        self._key, self._folder, self._case = case.key, folder, case.load()
        self._rules = targets(case.max_steps)
        self._until = AnyOf(tuple(self._rules))
        self._outputs = len(TASKS[case.task].classes)
        self._seconds = self._forward_passes = 0.0
        self._margin: float | None = None

    def begin(self, *, opening: bool) -> None:
        """Linearise as `predict` does, after first steps or not."""
        network, _, plan = self._case
        begun = self._trained() if opening and opens(plan, network) else None
        self.linearise("head_exact", begun if begun and begun.settled else None)
        if opening and self._stable is not None and opens(plan, network, self._stable):
            margin, begun = self._margin, self._trained()
            if begun.settled:
                self.linearise("head_exact", begun)
                self._margin = margin

    def goes_on(self, steps: int, before: dict[str, Any]) -> bool:
        """Train so many steps, and linearise where they lead if that tells more.

        Args:
            steps: to train.
            before: the forecast without them.
        """
        self._seconds, self._forward_passes = before["seconds"], before["forward_passes"]
        self._opening = self._trained(steps)
        if not self._opening.begins(self._case[2]):
            return False
        self.linearise("head_exact", self._opening)
        self._margin = before["signals"]["margin"]
        return True

    def continues(self, name: str, before: dict[str, Any]) -> None:
        """Write the answers of the forecast before, gone on with after these steps."""
        curves = continuation(self._opening.trajectory, to_trajectory(before["trajectory"]))
        self._write(name, curves, Signals(**before["signals"] | {"piloted": True}))

    def linearise(self, mode: Mode, opening: Opening | None = None) -> None:
        """At the pretrained weights, or where first steps lead."""
        network, data, plan = self._case
        start = time.perf_counter()
        self._simulation = Simulation(
            network, data, plan, self._outputs, SAMPLES, SEEDS, self._until, (), opening
        )
        self.problem = self._simulation.problem(mode, None, _silent)
        self._stable = stability(self.problem, plan.max_steps)
        self._margin = None if self._stable is None else self._stable.margin
        self._seconds += time.perf_counter() - start
        rows = self.problem.train.model.jacobian.shape[1]
        samples = self.problem.samples + self.problem.validation.model.samples
        self._forward_passes += samples * (1.0 + 2 * rows) + (mode == "head_exact") * MOVING

    def growing(self) -> Problem:
        """The same with a kernel that grows, bounded by what is stable."""
        return self._simulation.growing(self.problem, self._stable)

    def solve(
        self, problem: Problem, frozen: Trajectory | None = None, solver: Solver = REPLAY
    ) -> Trajectory:
        """The curves, as the tangent model's own clock has them."""
        start = time.perf_counter()
        curves = self._simulation.solve(solver, problem, _silent, frozen)
        self._seconds += time.perf_counter() - start
        return curves

    def write(self, name: str, curves: Trajectory, frozen: Trajectory | None = None) -> None:
        """A forecaster's answers from the curves that `solve` found."""
        run, still = (each and self._simulation.whole(each) for each in (curves, frozen))
        signals = self._simulation.signals(self.problem, run, still, self._stable)
        self._write(name, run, replace(signals, margin=self._margin))

    def _write(self, name: str, run: Trajectory, signals: Signals) -> None:
        (self._folder / name).mkdir(parents=True, exist_ok=True)
        content = {
            "forecaster": name,
            **answers(run, signals, self._rules),
            "seconds": self._seconds,
            "forward_passes": self._forward_passes,
            "trajectory": run,
        }
        write(self._folder / name / f"{self._key}.json", rounded(to_plain(content)))

    def _trained(self, budget: int | None = None) -> Opening:
        network, data, plan = self._case
        start = time.perf_counter()
        found = first_steps(network, data, plan, self._until, budget)
        self._seconds += time.perf_counter() - start
        evaluated = sum(min(SAMPLES, len(labels)) for _, labels in (data.train, data.validation))
        evaluated *= len(found.trajectory.steps)
        self._forward_passes += 3.0 * plan.batch_size * found.steps + evaluated
        return found


def first_steps(
    network: ntp.Network,
    data: ntp.Data,
    plan: ntp.Plan,
    until: StoppingRule,
    budget: int | None = None,
) -> Opening:
    """Those of a run, trained for real."""
    step = TrainingStep(network, data, plan, evaluation_samples=SAMPLES)
    return train_opening(step, data.samples, network, plan, until, _silent, budget)


def answers(trajectory: Trajectory, signals: Signals, rules: list[StoppingRule]) -> dict[str, Any]:
    """Steps and intervals of every target, and how far to trust them."""
    validity, found = Validity.of(signals), {}
    for rule in rules:
        try:
            steps, interval = predicted_steps(trajectory, rule, validity.clock)
        except ValueError:  # met before training starts
            continue
        found[str(rule)] = {"steps": steps, "interval": interval}
    return {
        "targets": found,
        "signals": to_plain(signals),
        "validity": validity.error,
        "trusted": validity.word != "poor",
    }


def _silent(_done: int, _total: int) -> None:
    """No progress shown."""
