"""The forecasts of the suite's runs, each one a small JSON file; those that are there stay.

One linearisation of each task's network is solved twice, frozen and growing with its features; one
of everything, the paper's, by replay and by the paper's own equation.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tasks import TASKS, Case
from train import rounded

from linearize.linearization import Mode
from ntkpredict.basis import MOVED, MOVES
from ntkpredict.first_steps import evaluations
from ntkpredict.interval import predicted_steps
from ntkpredict.opening import STEPS, Opening, opens, train_opening
from ntkpredict.record import to_plain, write
from ntkpredict.simulation import Simulation
from ntkpredict.step import TrainingStep
from ntkpredict.stopping import AnyOf, StoppingRule
from ntkpredict.suite import targets
from ntkpredict.sweep import Simulated
from ntkpredict.validity import Signals, Validity
from sde import (
    Diffusion,
    Problem,
    Replay,
    Solver,
    Stability,
    Trajectory,
    as_gradient_descent,
    stability,
)

SAMPLES, SEEDS = 512, 4
MOVING = 6 * MOVES * MOVED
"""Forward passes for how features move: two, one backward and one of forward differentiation."""

REPLAY = Replay()


def main(folder: Path, cases: dict[str, Case]) -> None:
    """Forecast what has not been forecast yet."""
    forecasts = folder / "forecasts"
    for last, make in (("ours", ours), ("ntk", paper)):
        for key, case in cases.items():
            if not (forecasts / last / f"{key}.json").exists():
                start = time.perf_counter()
                make(case, forecasts)
                print(f"{last} {key}: {time.perf_counter() - start:.0f} s", flush=True)


def ours(case: Case, folder: Path, *, opening: bool = True) -> None:
    """The head exact; the kernel frozen, or growing with the features."""
    forecasting = Forecasting(case, folder, "head_exact", opening=opening)
    frozen = forecasting.solve("frozen", forecasting.problem)
    forecasting.solve("ours", forecasting.growing(), frozen)


def paper(case: Case, folder: Path) -> None:
    """One linearisation of everything, by replay and by the paper's equation."""
    forecasting = Forecasting(case, folder, "linear", opening=False)
    if as_gradient_descent(forecasting.problem.optimizer, case.max_steps) is not None:
        equation = Diffusion(effective_rate=True)
        forecasting.solve("ntk-elr-sde", forecasting.problem, solver=equation)
    forecasting.solve("ntk", forecasting.problem)


class Forecasting:
    """The forecasts of one case from one linearisation.

    Args:
        case: the case.
        folder: where they are written.
        mode: of linearisation.
        opening: whether first steps may be trained for real.

    Attributes:
        problem: the tangent model's training, its kernel frozen.
    """

    def __init__(self, case: Case, folder: Path, mode: Mode, *, opening: bool) -> None:
        self._key, self._folder, self._case = case.key, folder, case.load()
        self._rules = targets(case.max_steps)
        self._until = AnyOf(tuple(self._rules))
        self._outputs = len(TASKS[case.task].classes)
        self._seconds = self._forward_passes = 0.0
        start = time.perf_counter()
        begun = self._opening(None) if opening else None
        self._linearise(mode, begun)
        self._at_start = self._stable
        if opening and self._stable is not None:
            begun = self._opening(self._stable)
            if begun is not None:
                self._linearise(mode, begun)
        self._seconds += time.perf_counter() - start

    def _opening(self, stable: Stability | None) -> Opening | None:
        network, data, plan = self._case
        if not opens(plan, network, stable):
            return None
        evaluated = sum(min(SAMPLES, len(labels)) for _, labels in (data.train, data.validation))
        evaluated *= len(evaluations(self._until, STEPS))
        self._forward_passes += 3.0 * plan.batch_size * STEPS + evaluated
        return first_steps(network, data, plan, self._until)

    def _linearise(self, mode: Mode, opening: Opening | None) -> None:
        network, data, plan = self._case
        self._simulation = Simulation(
            network, data, plan, self._outputs, SAMPLES, SEEDS, self._until, (), opening
        )
        self.problem = self._simulation.problem(mode, None, _silent)
        self._stable = stability(self.problem, plan.max_steps)
        rows = self.problem.train.model.jacobian.shape[1]
        samples = self.problem.samples + self.problem.validation.model.samples
        self._forward_passes += samples * (1.0 + 2 * rows) + (mode == "head_exact") * MOVING

    def growing(self) -> Problem:
        """The same with a kernel that grows, bounded by what is stable."""
        return self._simulation.growing(self.problem, self._stable)

    def solve(
        self,
        name: str,
        problem: Problem,
        frozen: Trajectory | None = None,
        solver: Solver = REPLAY,
    ) -> Trajectory:
        """A forecaster's answers, written. It pays for all that it rests on.

        Returns:
            What the solver found.
        """
        start = time.perf_counter()
        curves = self._simulation.solve(solver, problem, _silent, frozen)
        self._seconds += time.perf_counter() - start
        run, still = (each and self._simulation.whole(each) for each in (curves, frozen))
        signals = self._simulation.signals(problem, run, still, self._stable)
        plan = self._simulation.plan
        found = Simulated(plan, run, len(run.steps), False, self._stable, signals)
        found = found.since(self._at_start)
        (self._folder / name).mkdir(parents=True, exist_ok=True)
        content = {
            "forecaster": name,
            **answers(found.trajectory, found.signals, self._rules),
            "seconds": self._seconds,
            "forward_passes": self._forward_passes,
            "trajectory": found.trajectory,
        }
        write(self._folder / name / f"{self._key}.json", rounded(to_plain(content)))
        return curves


def first_steps(
    network: ntp.Network, data: ntp.Data, plan: ntp.Plan, until: StoppingRule
) -> Opening | None:
    """Those of a run, trained for real."""
    step = TrainingStep(network, data, plan, evaluation_samples=SAMPLES)
    return train_opening(step, data.samples, network, plan, until, _silent)


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
