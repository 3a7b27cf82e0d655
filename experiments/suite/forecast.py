"""The forecasts of the suite's runs, each one a small JSON file; those that are there stay.

One linearisation of each task's network is solved in several ways: frozen, and with the kernel's
growth seen along stretches of the path, few or many.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from tasks import TASKS, Case

from linearize.tangent import Mode
from ntkpredict.interval import predicted_steps
from ntkpredict.record import to_plain, write
from ntkpredict.refine import WeightPath
from ntkpredict.score import targets
from ntkpredict.simulation import Simulation
from ntkpredict.stopping import AnyOf
from sde import Diffusion, Problem, Replay, Solver, Trajectory, as_gradient_descent

STRETCHES = (3, 6)
"""Of the path, besides all that it takes."""

SAMPLES, SEEDS = 512, 4


def main(folder: Path, cases: dict[str, Case]) -> None:
    """Forecast what has not been forecast yet."""
    forecasts = folder / "forecasts"
    for last, make in (("ours", ours), ("ntk", linear)):
        for key, case in cases.items():
            if not (forecasts / last / f"{key}.json").exists():
                start = time.perf_counter()
                make(Forecasting(case, forecasts))
                print(f"{last} {key}: {time.perf_counter() - start:.0f} s", flush=True)


def linear(forecasting: Forecasting) -> None:
    """The paper's: one linearisation of everything, by replay and by its own equation."""
    problem, passes, seconds = forecasting.linearised("linear")
    plan = forecasting.plan
    if as_gradient_descent(plan.optimizer, plan.max_steps) is not None:
        trajectory, taken = forecasting.solved(Diffusion(effective_rate=True), problem)
        forecasting.record("ntk-elr-sde", trajectory, passes, seconds + taken)
    trajectory, taken = forecasting.solved(Replay(), problem)
    forecasting.record("ntk", trajectory, passes, seconds + taken)


def ours(forecasting: Forecasting) -> None:
    """The head exact; the kernel frozen, or grown as a few or all stretches of the path say."""
    problem, passes, seconds = forecasting.linearised("head_exact")
    trajectory, taken = forecasting.solved(Replay(), problem)
    forecasting.record("frozen", trajectory, passes, seconds + taken)
    start = time.perf_counter()
    path = forecasting.simulation.follow(problem, np.inf, _silent)
    followed = time.perf_counter() - start
    stretches = len(path.steps) - 1
    for count in (*(n for n in STRETCHES if n < stretches), stretches):
        part, share = _beginning(path, count), count / max(stretches, 1)
        grown = forecasting.simulation.grown(problem, part)
        trajectory, again = forecasting.solved(Replay(), grown)
        name = "ours" if count == stretches else f"ours-{count}"
        spent = seconds + taken + again + followed * share
        forecasting.record(name, trajectory, passes + part.forward_passes, spent, part)


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

    def linearised(self, mode: Mode) -> tuple[Problem, float, float]:
        """The tangent model's training, and its cost in forward passes and seconds."""
        start = time.perf_counter()
        problem = self.simulation.problem(mode, None, _silent)
        rows = problem.train.model.jacobian.shape[1]
        samples = problem.samples + problem.validation.model.samples
        return problem, samples * (1.0 + 2 * rows), time.perf_counter() - start

    def solved(self, solver: Solver, problem: Problem) -> tuple[Trajectory, float]:
        """The curves and how long they took."""
        start = time.perf_counter()
        trajectory = self.simulation.solve(solver, problem, _silent)
        return trajectory, time.perf_counter() - start

    def record(
        self,
        name: str,
        trajectory: Trajectory,
        passes: float,
        seconds: float,
        path: WeightPath | None = None,
    ) -> None:
        """Write a forecaster's answers."""
        answers = {}
        for rule in self._rules:
            try:
                steps, interval = predicted_steps(trajectory, rule)
            except ValueError:  # met before training starts
                continue
            answers[str(rule)] = {"steps": steps, "interval": interval}
        (self._folder / name).mkdir(parents=True, exist_ok=True)
        content = {
            "forecaster": name,
            "targets": answers,
            "validity": None,
            "trusted": None,
            "seconds": seconds,
            "forward_passes": passes,
            "trajectory": trajectory.quantile(0.5),
            "path": path,
        }
        write(self._folder / name / f"{self._key}.json", to_plain(content))


def _silent(_done: int, _total: int) -> None:
    """No progress shown."""


def _beginning(path: WeightPath, count: int) -> WeightPath:
    arrays = {
        name: getattr(path, name)[: count + 1] for name in ("steps", "growth", "predicted", "real")
    }
    share = count / max(len(path.steps) - 1, 1)
    return WeightPath(**arrays, forward_passes=path.forward_passes * share)
