"""The forecasts of the suite's runs, each one a small JSON file; those that are there stay.

One linearisation of each task's network is solved twice, frozen and growing with its features; so
is one where a share of the run leads; one of everything, the paper's, by replay and by the paper's
own equation.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tasks import Case
from train import rounded

from linearize import HeadExactTangent, Projection
from linearize.linearization import Mode
from ntkpredict.basis import MOVED, MOVES
from ntkpredict.continuation import continuation
from ntkpredict.interval import predicted_steps
from ntkpredict.opening import Opening
from ntkpredict.phases import Stopwatch
from ntkpredict.record import to_plain, to_trajectory, write
from ntkpredict.start import Start, Starts
from ntkpredict.step import TrainingStep
from ntkpredict.stopping import AnyOf, StoppingRule
from ntkpredict.suite import targets
from ntkpredict.validity import Signals, Validity
from sde import Diffusion, Problem, Replay, Solver, Trajectory, as_gradient_descent

SAMPLES, SEEDS = 512, 4
SHARES = {"ours-pilot-5": 0.05, "ours-pilot-20": 0.2}
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
    start = forecasting.starts.first(opening=opening)
    frozen = forecasting.solve(start, start.problem)
    forecasting.tell("frozen", start, frozen)
    forecasting.tell("ours", start, forecasting.grow(start, frozen), frozen)


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
    forecasting = Forecasting(case, folder, before=before)
    pilot = forecasting.starts.train(steps)
    if pilot.begins(forecasting.starts.plan):
        start = forecasting.starts.at(pilot)
        frozen = forecasting.solve(start, start.problem)
        forecasting.tell(name, start, forecasting.grow(start, frozen), frozen)
    else:
        curves = continuation(pilot.trajectory, to_trajectory(before["trajectory"]))
        forecasting.write(name, curves, Signals(**before["signals"] | {"piloted": True}))


def paper(case: Case, folder: Path) -> None:
    """One linearisation of everything, by replay and by the paper's equation."""
    forecasting = Forecasting(case, folder, "linear")
    start = forecasting.starts.at(None)
    if as_gradient_descent(start.problem.optimizer, case.max_steps) is not None:
        equation = Diffusion(effective_rate=True)
        forecasting.tell(
            "ntk-elr-sde", start, forecasting.solve(start, start.problem, solver=equation)
        )
    forecasting.tell("ntk", start, forecasting.solve(start, start.problem))


class CaseStarts(Starts):
    """The places that the forecasts of a case may go on from.

    Args:
        case: the case.
        mode: of linearisation.
        samples: looked at, at most.
        seeds: of minibatch orders.
        projection: of parameter space.

    Attributes:
        plan: the case's.
        watch: of what is done.
        forward_passes: of one sample, that all of it cost.
    """

    def __init__(
        self,
        case: Case,
        mode: Mode = "head_exact",
        *,
        samples: int = SAMPLES,
        seeds: int = SEEDS,
        projection: Projection | None = None,
    ) -> None:
        network, data, self.plan = case.load()
        self.watch = Stopwatch(time.perf_counter)
        self.forward_passes = 0.0
        step = TrainingStep(network, data, self.plan, evaluation_samples=SAMPLES)
        self._evaluated = sum(step.evaluated.values())
        super().__init__(
            network,
            data,
            self.plan,
            AnyOf(tuple(targets(case.max_steps))),
            step,
            samples=samples,
            seeds=seeds,
            mode=mode,
            projection=projection,
            report=lambda _: silent,
            watch=self.watch,
        )

    def at(self, opening: Opening | None) -> Start:
        """The tangent model of where these steps lead."""
        start = super().at(opening)
        problem = start.problem
        model, validation = problem.train.model, problem.validation.model
        passes = 1.0 + 2 * model.jacobian.shape[1]
        self.forward_passes += (problem.samples + validation.samples) * passes
        self.forward_passes += isinstance(model, HeadExactTangent) * MOVING
        return start

    def train(self, budget: int | None = None) -> Opening:
        """The first steps, trained for real."""
        found = super().train(budget)
        evaluations = len(found.trajectory.steps)
        self.forward_passes += 3.0 * self.plan.batch_size * found.steps
        self.forward_passes += self._evaluated * evaluations
        return found


class Forecasting:
    """The forecasts of one case; each pays for all that was done before.

    Args:
        case: the case.
        folder: where they are written.
        mode: of linearisation.
        before: a forecast that is paid for, too.

    Attributes:
        starts: the places that they may go on from.
    """

    def __init__(
        self,
        case: Case,
        folder: Path,
        mode: Mode = "head_exact",
        before: dict[str, Any] | None = None,
    ) -> None:
        self.starts = CaseStarts(case, mode)
        self._key, self._folder = case.key, folder
        self._rules = targets(case.max_steps)
        self._before = before or {"seconds": 0.0, "forward_passes": 0.0}

    def grow(self, start: Start, frozen: Trajectory) -> Trajectory:
        """The curves of a kernel that grows with the features, bounded by what is stable."""
        return self.solve(start, start.simulation.growing(start.problem, start.stable), frozen)

    def solve(
        self,
        start: Start,
        problem: Problem,
        frozen: Trajectory | None = None,
        solver: Solver = REPLAY,
    ) -> Trajectory:
        """The curves, as the tangent model's own clock has them."""
        curves = start.simulation.solve(solver, problem, silent, frozen)
        self.starts.watch.lap("simulation")
        return curves

    def tell(
        self, name: str, start: Start, curves: Trajectory, frozen: Trajectory | None = None
    ) -> None:
        """Write a forecaster's answers from the curves that `solve` found."""
        simulation = start.simulation
        run, still = (each and simulation.whole(each) for each in (curves, frozen))
        self.write(name, run, simulation.signals(start.problem, run, still, start.pretrained))

    def write(self, name: str, run: Trajectory, signals: Signals) -> None:
        """Write a forecaster's answers."""
        (self._folder / name).mkdir(parents=True, exist_ok=True)
        seconds = sum(self.starts.watch.laps.values())
        content = {
            "forecaster": name,
            **answers(run, signals, self._rules),
            "seconds": self._before["seconds"] + seconds,
            "forward_passes": self._before["forward_passes"] + self.starts.forward_passes,
            "trajectory": run,
        }
        write(self._folder / name / f"{self._key}.json", rounded(to_plain(content)))


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


def silent(_done: int, _total: int) -> None:
    """No progress shown."""
