"""How far forecasts of the development runs are off, and what tells it beforehand.

    python experiments/suite/calibrate.py

Fits the spread of ln(real / predicted) steps to the signals of `ntkpredict.validity`, writes
ntkpredict/calibration.json and gives every forecast its intervals by it. calibration.json beside
this file says how it does where a task is left out of the fit.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from forecast import SHARES, answers
from scipy.optimize import minimize
from train import rounded

from ntkpredict.record import to_plain, to_trajectory, write
from ntkpredict.score import score
from ntkpredict.suite import targets
from ntkpredict.validity import Signals, spread

HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "ntkpredict" / "calibration.json"
KERNELS = {"frozen": ("frozen",), "growing": ("ours",), "piloted": tuple(SHARES)}
"""The forecasters that each calibration is told from."""

OUTCOMES = 41
START = [-2.0, 0.0, 0.0, 0.0, 0.0]
RIDGE = 0.5
"""On the weights of the signals but the first, in units of runs."""


class Error(NamedTuple):
    """One target of one run."""

    task: str
    run: str
    signals: Signals
    log_ratio: float


def main(folder: Path) -> None:
    """Fit, write, and give every forecast its intervals."""
    shipped, told = {}, {}
    for kernel, forecasters in KERNELS.items():
        errors = [error for each in forecasters for error in load(folder, each)]
        shipped[kernel] = fit(errors)
        runs = len({error.run for error in errors})
        told[kernel] = {"runs": runs, "targets": len(errors), **left_out(errors)}
    write(SHIPPED, shipped)
    write(folder / "calibration.json", told)
    print(json.dumps(told, indent=1))
    recalibrate(folder)


def load(folder: Path, forecaster: str) -> list[Error]:
    """The errors of development forecasts, infinite where a real run did not get there in time.

    A target that a forecast says is out of reach has no interval and teaches nothing here, nor does
    one that is met where training is known.
    """
    errors = []
    for row in score(folder).rows[forecaster]:
        if row.case.split != "development" or row.case.diverged or not row.foretold:
            continue
        run = json.loads((folder / "runs" / f"{row.case.key}.json").read_text())
        # Not reached: later than the end of the budget, by how much is not known.
        real = min(row.real, run["case"]["max_steps"])
        if row.real > real and row.predicted > real:
            continue
        ratio = np.log(real / row.predicted)
        errors.append(Error(run["case"]["task"], row.case.key, row.answers.signals, ratio))
    return errors


def fit(errors: list[Error]) -> dict[str, Any]:
    """Weights of the signals, and the errors scaled by the spread that other tasks expect.

    A spread is too narrow for the very runs that it is fitted to, so that of a run is told by a fit
    without its task, as in cross-conformal prediction (Vovk 2015, doi:10.1007/s10472-013-9368-4).
    """
    share = shares(errors)
    scores = np.empty(len(errors))
    for task in {error.task for error in errors}:
        others = weights([error for error in errors if error.task != task])
        for i, error in enumerate(errors):
            if error.task == task:
                scores[i] = error.log_ratio / spread(error.signals, others)
    levels = (np.arange(OUTCOMES) + 0.5) / OUTCOMES
    outcomes = np.quantile(scores, levels, weights=share, method="inverted_cdf")
    return {"weights": weights(errors).round(4).tolist(), "outcomes": outcomes.round(4).tolist()}


def shares(errors: list[Error]) -> np.ndarray:
    """Of each error, so that every run counts alike."""
    return 1 / np.array([sum(e.run == error.run for e in errors) for error in errors])


def weights(errors: list[Error]) -> np.ndarray:
    """Of the signals, by the likelihood of a Laplace law; none makes a forecast more certain."""
    start = np.array(START)
    regressors = np.array([error.signals.regressors for error in errors])
    ratios = np.abs([error.log_ratio for error in errors])
    share = shares(errors)

    def loss(weights: np.ndarray) -> float:
        log = regressors @ weights
        return float(
            share @ (log + ratios / np.exp(log)) + RIDGE * ((weights - start)[1:] ** 2).sum()
        )

    bounds = [(None, None), *[(0.0, None)] * (len(start) - 1)]
    return minimize(loss, start, bounds=bounds).x  # convex


def left_out(errors: list[Error]) -> dict[str, float]:
    """How many errors lie within the 95 % of a fit to all other tasks, and how wide that is."""
    inside, widths = [], []
    for task in {error.task for error in errors}:
        others = fit([error for error in errors if error.task != task])
        low, high = np.quantile(others["outcomes"], [0.025, 0.975], method="nearest")
        for error in errors:
            if error.task == task:
                scale = spread(error.signals, others["weights"])
                inside.append(low * scale <= error.log_ratio <= high * scale)
                widths.append(np.exp((high - low) * scale))
    return {"coverage": float(np.mean(inside)), "median_width": float(np.median(widths))}


def recalibrate(folder: Path) -> None:
    """Every forecast's answers anew, from its curves and signals."""
    for path in sorted((folder / "forecasts").glob("*/*.json")):
        content = json.loads(path.read_text())
        if "signals" in content:
            trajectory = to_trajectory(content["trajectory"])
            run = json.loads((folder / "runs" / path.name).read_text())
            rules = targets(run["case"]["max_steps"])
            told = answers(trajectory, Signals(**content["signals"]), rules)
            write(path, rounded(content | to_plain(told)))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
