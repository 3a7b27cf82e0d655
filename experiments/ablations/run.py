"""What each part of a forecast is worth: the default, and the default without one of its parts.

    python experiments/ablations/run.py [--smoke]    # a tiny case, into a temporary folder

On some of the suite's development runs. Each run is a small file in `runs/`; those that are there
stay. Then writes results.json and figure.png.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
SUITE = HERE.parent / "suite"
sys.path[:0] = [str(SUITE), str(HERE.parent / "backbones")]

import forecast as suite  # noqa: E402
import train as real  # noqa: E402
from tasks import CASES, SMOKE, Case  # noqa: E402

from linearize import CountSketch, HeadExactTangent  # noqa: E402
from ntkpredict.record import to_plain, to_trajectory, write  # noqa: E402
from ntkpredict.suite import KINDS, applicable, targets  # noqa: E402
from sde import Problem, Replay, Stability, Trajectory, is_coordinate_wise  # noqa: E402

KEYS = (
    "resnet20-cifar10-sgd-0.001-32-s0",
    "resnet20-fashion-adamw-0.0001-32-s0",
    "resnet20-mnist-sgd-0.001-32-s0",
    "resnet8-fashion-sgd-0.003-64-s0",
)

SEEDS = 2

MOST = 2.0
"""Of the errors drawn."""


class Ablation:
    """One case and the ways to forecast it.

    Args:
        case: the case.
        samples: looked at, at most.
        opening: whether first steps may be trained for real.
        projection: of parameter space.

    Attributes:
        problem: the tangent model's training, its kernel frozen.
        stable: its stability.
        whole: the run from its start.
    """

    def __init__(
        self,
        case: Case,
        samples: int = suite.SAMPLES,
        *,
        opening: bool = True,
        projection: CountSketch | None = None,
    ) -> None:
        starts = suite.CaseStarts(case, samples=samples, seeds=SEEDS, projection=projection)
        start = starts.first(opening=opening)
        self.problem, self.stable = start.problem, start.stable
        self._simulation = start.simulation
        self.whole = start.simulation.whole

    def growing(self, problem: Problem, stable: Stability | None) -> Problem:
        """The same with a growing kernel."""
        return self._simulation.growing(problem, stable)

    def solve(self, problem: Problem, frozen: Trajectory | None = None) -> Trajectory:
        """The curves on all samples, simulated."""
        return self._simulation.solve(Replay(), problem, suite.silent, frozen)

    def as_is(self, problem: Problem) -> Trajectory:
        """The curves on the samples looked at."""
        return Replay().solve(problem, self._simulation.grid)

    def default(self) -> Trajectory:
        """The forecast, its kernel frozen for one seed alone."""
        frozen = self.solve(replace(self.problem, seeds=self.problem.seeds[:1]))
        growing = self.growing(self.problem, self.stable)
        return self.whole(self.solve(growing, frozen))


def forecasts(case: Case, smoke: bool) -> dict[str, Trajectory]:
    """The default, and what is left of it without its parts; of one linearisation where small."""
    ablation = Ablation(case)
    problem, stable = ablation.problem, ablation.stable
    frozen = ablation.solve(problem)
    growing = ablation.growing(problem, stable)
    found = {
        "default": ablation.solve(growing, frozen),
        "frozen kernel": frozen,
        "no edge of stability": ablation.solve(ablation.growing(problem, None), frozen),
        "validation of its own": ablation.solve(growing),
        "not extrapolated": ablation.as_is(growing).generalizing_like(ablation.as_is(problem)),
    }
    straight = with_linear_features(problem)
    found["features below zero"] = ablation.solve(ablation.growing(straight, stable), frozen)
    found = {name: ablation.whole(curves) for name, curves in found.items()}
    if smoke:
        return found
    del ablation, problem, growing, straight
    found["256 samples"] = Ablation(case, suite.SAMPLES // 2).default()
    if is_coordinate_wise(case.load()[2].optimizer):
        found["no first steps"] = Ablation(case, opening=False).default()
    else:
        found["1,024 columns"] = Ablation(case, projection=CountSketch(1024)).default()
    return found


def with_linear_features(problem: Problem) -> Problem:
    """The same training where features may fall below zero."""

    def straight(model: Any) -> HeadExactTangent:
        return replace(model, nonnegative=False)

    train, validation = (
        None if part is None else part._replace(model=straight(part.model))
        for part in (problem.train, problem.validation)
    )
    return replace(problem, train=train, validation=validation)


def main(smoke: bool, folder: Path = HERE) -> dict[str, Any]:
    """Forecast what is missing, compare."""
    cases = SMOKE if smoke else {key: CASES[key] for key in KEYS}
    runs = folder if smoke else SUITE
    real.main(runs, cases)
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    errors: dict[str, dict[str, list[float]]] = {}
    for key, case in cases.items():
        path = folder / "runs" / f"{key}-ablations.json"
        if not path.exists():
            write(path, real.rounded(to_plain(steps(case, smoke))))
            print(f"forecast {key}", flush=True)
        run = to_trajectory(json.loads((runs / "runs" / f"{key}.json").read_text())["trajectory"])
        collect(errors, run, json.loads(path.read_text()))
    results = {name: summary(kinds) for name, kinds in errors.items()}
    write(folder / "results.json", to_plain(results))
    draw(results, folder / "figure.png")
    print(json.dumps(to_plain(results), indent=1))
    return results


def steps(case: Case, smoke: bool) -> dict[str, dict[str, float]]:
    """Predicted steps to every target, by variant."""
    return {
        name: {
            str(rule): float(np.median(rule.steps(curves)))
            for rule in targets(case.max_steps)
            if applicable(rule, curves)
        }
        for name, curves in forecasts(case, smoke).items()
    }


def collect(
    errors: dict[str, dict[str, list[float]]], run: Trajectory, found: dict[str, Any]
) -> None:
    """Add the errors at the targets that this run really reached."""
    for rule in targets(int(run.steps[-1])):
        if not applicable(rule, run) or not np.isfinite(rule.steps(run)[0]):
            continue
        for name, predicted in found.items():
            value = predicted.get(str(rule))
            error = np.inf if value is None else value / float(rule.steps(run)[0]) - 1
            errors.setdefault(name, {}).setdefault(KINDS[type(rule)], []).append(error)


def summary(kinds: dict[str, list[float]]) -> dict[str, Any]:
    """Median |error| of each kind of target and of all, and the share said not to be reached."""
    every = np.array([error for errors in kinds.values() for error in errors])
    return {
        "targets": len(every),
        "error": float(np.median(np.abs(every))),
        "bias": float(np.median(every)),
        "missed": float(np.mean(np.isinf(every))),
        **{kind: float(np.median(np.abs(errors))) for kind, errors in kinds.items()},
    }


def draw(results: dict[str, Any], path: Path) -> None:
    """A bar a variant."""
    figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    names = list(results)[::-1]
    errors = [min(results[name]["error"], MOST) for name in names]
    axis.barh(names, errors, color=["#0072B2" if name == "default" else "0.65" for name in names])
    for i, name in enumerate(names):
        axis.text(errors[i] + 0.005, i, f"{results[name]['missed']:.0%} missed", va="center")
    axis.set(
        xlabel=f"median error in steps, all targets, up to {MOST:.0%}", xlim=(0, max(errors) * 1.25)
    )
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "ntkpredict-jax"))
    smoke = "--smoke" in sys.argv
    main(smoke, Path(tempfile.mkdtemp()) if smoke else HERE)
