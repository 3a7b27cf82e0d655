"""The forecasts of the suite's runs, each one a small JSON file; those that are there stay.

One linearisation of each task's network is solved in several ways: frozen, growing with its
features, and growing as measured along stretches of the path, few or many.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tasks import TASKS, Case
from train import rounded

from linearize.tangent import Mode
from ntkpredict.interval import predicted_steps
from ntkpredict.record import to_plain, to_trajectory, write
from ntkpredict.refine import WeightPath, measured
from ntkpredict.score import targets
from ntkpredict.simulation import Simulation
from ntkpredict.stopping import AnyOf, StoppingRule
from ntkpredict.validity import Signals, Validity
from sde import Diffusion, Problem, Replay, Solver, Trajectory, as_gradient_descent, stability

BUDGETS = {"ours-10k": 1e4, "ours-path": np.inf}
"""For paths, in forward passes."""

SAMPLES, SEEDS = 512, 4

REPLAY = Replay()


def main(folder: Path, cases: dict[str, Case]) -> None:
    """Forecast what has not been forecast yet."""
    forecasts = folder / "forecasts"
    for last, make in (("ours", ours), ("ours-path", paths), ("ntk", linear)):
        for key, case in cases.items():
            if not (forecasts / last / f"{key}.json").exists():
                start = time.perf_counter()
                make(Forecasting(case, forecasts))
                print(f"{last} {key}: {time.perf_counter() - start:.0f} s", flush=True)


def linear(forecasting: Forecasting) -> None:
    """The paper's: one linearisation of everything, by replay and by its own equation."""
    problem, spent = forecasting.linearised("linear")
    plan = forecasting.plan
    if as_gradient_descent(plan.optimizer, plan.max_steps) is not None:
        forecasting.solve("ntk-elr-sde", problem, spent, solver=Diffusion(effective_rate=True))
    forecasting.solve("ntk", problem, spent)


def ours(forecasting: Forecasting) -> None:
    """The head exact; the kernel frozen, or growing with the features."""
    problem, spent = forecasting.linearised("head_exact")
    frozen, spent = forecasting.solve("frozen", problem, spent)
    problem, spent = forecasting.growing(problem, spent)
    forecasting.solve("ours", problem, spent, frozen)


def paths(forecasting: Forecasting) -> None:
    """The kernel growing as fast as the real weights along the predicted path tell."""
    problem, spent = forecasting.linearised("head_exact")
    frozen = to_trajectory(forecasting.read("frozen")["trajectory"])
    problem, spent = forecasting.growing(problem, spent)
    for name, budget in BUDGETS.items():
        start = time.perf_counter()
        path = forecasting.simulation.follow(problem, budget, _silent)
        followed = spent.plus(path.forward_passes, time.perf_counter() - start)
        forecasting.solve(name, measured(problem, path), followed, frozen, path)


class Cost(NamedTuple):
    """Of a forecast, in forward passes of one sample and in seconds."""

    passes: float
    seconds: float

    def plus(self, passes: float, seconds: float) -> Cost:
        """And more."""
        return Cost(self.passes + passes, self.seconds + seconds)


class Forecasting:
    """The forecasts of one case.

    Args:
        case: the case.
        folder: where they are written.
    """

    def __init__(self, case: Case, folder: Path) -> None:
        self._key, self._folder = case.key, folder
        network, data, self.plan = case.load()
        self._rules = targets(self.plan.max_steps)
        until = AnyOf(tuple(self._rules))
        outputs = len(TASKS[case.task].classes)
        self.simulation = Simulation(network, data, self.plan, outputs, SAMPLES, SEEDS, until)

    def linearised(self, mode: Mode) -> tuple[Problem, Cost]:
        """The tangent model's training."""
        start = time.perf_counter()
        problem = self.simulation.problem(mode, None, _silent)
        rows = problem.train.model.jacobian.shape[1]
        samples = problem.samples + problem.validation.model.samples
        return problem, Cost(samples * (1.0 + 2 * rows), time.perf_counter() - start)

    def growing(self, problem: Problem, spent: Cost) -> tuple[Problem, Cost]:
        """The same with a kernel that grows, bounded by what is stable."""
        start = time.perf_counter()
        problem = self.simulation.growing(problem, stability(problem, self.plan.max_steps))
        return problem, spent.plus(0, time.perf_counter() - start)

    def solve(
        self,
        name: str,
        problem: Problem,
        spent: Cost,
        frozen: Trajectory | None = None,
        path: WeightPath | None = None,
        solver: Solver = REPLAY,
    ) -> tuple[Trajectory, Cost]:
        """A forecaster's answers, written."""
        start = time.perf_counter()
        trajectory = self.simulation.solve(solver, problem, _silent, frozen)
        spent = spent.plus(0, time.perf_counter() - start)
        stable = stability(replace(problem, growth=None), self.plan.max_steps)
        signals = self.simulation.signals(problem, trajectory, frozen, stable, path)
        (self._folder / name).mkdir(parents=True, exist_ok=True)
        content = {
            "forecaster": name,
            **answers(trajectory, signals, self._rules),
            "seconds": spent.seconds,
            "forward_passes": spent.passes,
            "trajectory": trajectory,
            "path": path,
        }
        write(self._folder / name / f"{self._key}.json", rounded(to_plain(content)))
        return trajectory, spent

    def read(self, name: str) -> dict[str, Any]:
        """What another forecaster wrote."""
        return json.loads((self._folder / name / f"{self._key}.json").read_text())


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
