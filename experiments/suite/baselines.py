"""What one would do without a model of the network: simple forecasts of the suite's runs.

They read the stored runs alone and write one file a run into forecasts/<baseline>/.
"""

import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from ntkpredict.record import to_plain, to_trajectory, write
from ntkpredict.stopping import StoppingRule
from ntkpredict.suite import applicable, targets
from sde import Curve, Trajectory

QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Real:
    """A real run and what it tells.

    Attributes:
        key: its name.
        case: how it was trained.
        task: on what.
        parameters: of the network.
        trajectory: its curves.
        batch_loss: of each step's minibatch, before the step.
        step_seconds: of one training step.
        rules: the standard targets.
        steps: to each of them; infinite where not reached, NaN where the target does not apply.
    """

    key: str
    case: dict[str, Any]
    task: dict[str, Any]
    parameters: int
    trajectory: Trajectory
    batch_loss: np.ndarray
    step_seconds: float
    rules: tuple[StoppingRule, ...]
    steps: np.ndarray

    @property
    def development(self) -> bool:
        """Whether baselines may learn from it."""
        return self.task["split"] == "development"


@dataclass(frozen=True)
class Answer:
    """Steps to each of the standard targets, as `Real` has them, and what they cost.

    Attributes:
        steps: infinite where not reached.
        low: of the 95 % interval; NaN where there is none.
        high: of the 95 % interval.
        forward_passes: of one sample.
        seconds: of training for real.
        trajectory: one row, where there is one.
    """

    steps: np.ndarray
    low: np.ndarray
    high: np.ndarray
    forward_passes: float = 0.0
    seconds: float = 0.0
    trajectory: Trajectory | None = None


def main(folder: Path, keys: Collection[str]) -> None:
    """Every baseline for these runs; they learn from all that are there.

    Those of `ALONE` that are there stay.
    """
    runs = load_runs(folder / "runs")
    for name, baseline in BASELINES.items():
        (folder / "forecasts" / name).mkdir(parents=True, exist_ok=True)
        for run in runs:
            path = folder / "forecasts" / name / f"{run.key}.json"
            if run.key not in keys or (name in ALONE and path.exists()):
                continue
            start = time.perf_counter()
            answer = baseline(run, teachers(run, runs))
            seconds = time.perf_counter() - start + answer.seconds
            write(path, record(name, run, answer, seconds))


def load_runs(folder: Path) -> list[Real]:
    """The real runs of a folder, by name."""
    return [_load(path) for path in sorted(folder.glob("*.json"))]


def _load(path: Path) -> Real:
    content = json.loads(path.read_text(encoding="utf-8"))
    trajectory = to_trajectory(content["trajectory"])
    rules = tuple(targets(content["case"]["max_steps"]))
    return Real(
        path.stem,
        content["case"],
        content["task"],
        content["parameters"],
        trajectory,
        np.array(content["batch_loss"], float),
        content["seconds"] / content["trained_steps"],
        rules,
        np.array([_steps(rule, trajectory) for rule in rules]),
    )


def _steps(rule: StoppingRule, trajectory: Trajectory) -> float:
    return float(rule.steps(trajectory)[0]) if applicable(rule, trajectory) else np.nan


def teachers(run: Real, runs: list[Real]) -> list[Real]:
    """The development runs on other tasks: those that a baseline may learn from."""
    return [r for r in runs if r.development and r.case["task"] != run.case["task"]]


def average_run(run: Real, others: list[Real]) -> Answer:
    """As many steps as the average run with the same optimizer that reached the target.

    The geometric mean; the interval is that of the runs themselves.
    """
    alike = [r.steps for r in others if r.case["optimizer"] == run.case["optimizer"]]
    steps, low, high = np.full((3, len(run.rules)), np.nan)
    for i, reached in enumerate(np.array(alike).reshape(-1, len(run.rules)).T):
        logs = np.log(reached[np.isfinite(reached)])
        if len(logs):
            steps[i], (low[i], high[i]) = np.exp(logs.mean()), np.exp(np.quantile(logs, QUANTILES))
    return Answer(steps, low, high)


def power_law(run: Real, others: list[Real], *, share: float, draws: int = 100) -> Answer:  # noqa: ARG001
    """Train for real for a share of the budget, fit c + a (n + n₀)^-b, extrapolate.

    The training loss goes by the losses of the minibatches, the curves of validation by the
    evaluations so far, at least four, which stay as they are. The interval is a parametric
    bootstrap of the residuals.

    Args:
        run: the run to forecast; only its beginning is read.
        others: not used.
        share: of the budget.
        draws: of the bootstrap.
    """
    used = int(np.ceil(share * run.case["max_steps"]))
    grid = run.trajectory.steps
    seen = grid <= used
    train, validation = run.trajectory.train, run.trajectory.validation
    rng = np.random.default_rng(0)
    loss = _extrapolated(np.arange(used), run.batch_loss[:used], grid, draws, rng)
    unseen = _extrapolated(grid[seen], validation.loss[0, seen], grid, draws, rng)
    right = 1 - _extrapolated(grid[seen], 1 - validation.accuracy[0, seen], grid, draws, rng)
    loss[:, 0] = train.loss[0, 0]  # part of the question: targets are fractions of it
    unseen[:, seen], right[:, seen] = validation.loss[0, seen], validation.accuracy[0, seen]
    curves = Trajectory(grid, Curve(loss, np.full_like(loss, np.nan)), Curve(unseen, right))
    times = np.full((len(run.rules), 1 + draws), np.nan)
    for i, rule in enumerate(run.rules):
        known = loss if getattr(rule, "on", "validation") == "train" else unseen
        if not np.isnan(run.steps[i]) and np.isfinite(known).all():
            times[i] = rule.steps(curves)
    low, high = np.quantile(times[:, 1:], QUANTILES, axis=1, method="nearest")
    passes = 3.0 * run.case["batch_size"] * used
    return Answer(times[:, 0], low, high, passes, run.step_seconds * used, _first(curves))


def _extrapolated(
    steps: np.ndarray, values: np.ndarray, grid: np.ndarray, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """The fitted curve on the grid, then curves fitted to draws from it; NaN where there is none.

    Args:
        steps: (seen,).
        values: at those steps, (seen,).
        grid: (grid,).
        draws: their number.
        rng: of the draws.
    """
    finite = np.isfinite(values)
    if finite.sum() < 4 or values[finite].max() <= 0:
        return np.full((1 + draws, len(grid)), np.nan)
    steps, values, scale = steps[finite], values[finite], values[finite].max()
    best = min((_fit(steps, values / scale, start) for start in STARTS), key=lambda fit: fit.cost)
    curve = _curve(best.x, steps)
    noise = np.std(values / scale - curve) * rng.standard_normal((draws, len(steps)))
    fits = [best.x, *(_fit(steps, row, best.x).x for row in curve + noise)]
    return scale * np.stack([_curve(fit, grid) for fit in fits])


def _curve(x: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The power law c + a (n + n₀)^-b; x = (s, c/s, log b, log n₀), s its value at n = 0."""
    start, floor, b, shift = x[0], x[1], np.exp(x[2]), np.exp(x[3])
    return start * (floor + (1 - floor) * (1 + steps / shift) ** -b)


BOUNDS = ([0.0, 0.0, np.log(0.1), 0.0], [2.0, 0.5, np.log(5.0), np.log(1000.0)])
"""Of s / max(values), c/s, log b and log n₀; half of the start is as high as a floor may be."""
STARTS = [(0.9, floor, np.log(b), np.log(10.0)) for floor in (0.05, 0.45) for b in (0.5, 2.0)]


def _fit(steps: np.ndarray, values: np.ndarray, start: Any) -> optimize.OptimizeResult:
    """Robust least squares of values up to 1."""
    return optimize.least_squares(
        lambda x: _curve(x, steps) - values, start, bounds=BOUNDS, loss="soft_l1", f_scale=0.1
    )


def _first(curves: Trajectory) -> Trajectory:
    """Its first row."""
    train, validation = (
        Curve(curve.loss[:1], curve.accuracy[:1]) for curve in (curves.train, curves.validation)
    )
    return Trajectory(curves.steps, train, validation)


def cape(run: Real, others: list[Real]) -> Answer:
    """Ridge regression of log steps on what is known before training.

    One regression a kind of target; the interval goes by the residuals of tasks left out.

    After CAPE (Pourali et al. 2026, Transactions on Machine Learning Research), without what it
    probes the network for and with ridge regression for its random forest.
    """
    steps, low, high = np.full((3, len(run.rules)), np.nan)
    for kind in {type(rule) for rule in run.rules}:
        mine = [i for i, rule in enumerate(run.rules) if type(rule) is kind]
        rows = [
            (features(r, i), r.steps[i], r.case["task"])
            for r in others
            for i in mine
            if np.isfinite(r.steps[i])
        ]
        if len({task for *_, task in rows}) < 2:
            continue
        inputs, logs = np.array([x for x, *_ in rows]), np.log([y for _, y, _ in rows])
        model = Ridge(alpha=1.0)  # features are logs and 0 or 1: alike in size
        groups = [task for *_, task in rows]
        apart = cross_val_predict(model, inputs, logs, groups=groups, cv=LeaveOneGroupOut())
        found = model.fit(inputs, logs).predict([features(run, i) for i in mine])
        steps[mine] = np.exp(found)
        low[mine], high[mine] = np.exp(found + np.quantile(logs - apart, QUANTILES)[:, None])
    return Answer(steps, low, high, forward_passes=run.task["samples"])


def features(run: Real, rule: int) -> list[float]:
    """Of a run and one of its targets, known before training."""
    case, task, target = run.case, run.task, run.rules[rule]
    head = {"lecun": 1.0, "zero": 0.0}.get(task["head"], task["head"])
    level = getattr(target, "relative", None) or 1 - getattr(target, "value", 0.0)
    return [
        np.log(case["lr"]),
        np.log(case["batch_size"]),
        case["optimizer"] == "adamw",
        case["schedule"] == "cosine",
        case["schedule"] == "warmup",
        task["loss"] == "squared_error",
        np.log(task["samples"]),
        np.log(len(task["classes"])),
        np.log(head + 0.01),
        np.log(run.parameters),
        np.log(run.trajectory.train.loss[0, 0]),
        np.log(level),
    ]


def record(name: str, run: Real, answer: Answer, seconds: float) -> dict[str, Any]:
    """As its file holds it; steps beyond the budget are not reached."""
    budget = run.case["max_steps"]

    def within(steps: float) -> float | None:
        return float(steps) if steps <= budget else None

    def interval(low: float, high: float) -> list[float | None] | None:
        return [within(low), within(high)] if low <= budget else None

    rows = zip(run.rules, run.steps, answer.steps, answer.low, answer.high, strict=True)
    return to_plain(
        {
            "forecaster": name,
            "targets": {
                str(rule): {"steps": within(steps), "interval": interval(low, high)}
                for rule, real, steps, low, high in rows
                if not np.isnan(real)
            },
            "validity": None,
            "trusted": None,
            "seconds": round(seconds, 3),
            "forward_passes": answer.forward_passes,
            "trajectory": answer.trajectory,
        }
    )


BASELINES: dict[str, Callable[[Real, list[Real]], Answer]] = {
    "average-run": average_run,
    "power-law-5": partial(power_law, share=0.05),
    "power-law-10": partial(power_law, share=0.1),
    "cape": cape,
}

ALONE = ("power-law-5", "power-law-10")
"""They read nothing but the run itself, and take minutes for all of them."""
