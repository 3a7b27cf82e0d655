"""Real training at an eighth of the batch size, as many steps at the same rate: a cheap rehearsal.

It costs an eighth of the run, and what a smaller batch adds is noise alone.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tasks import Case
from train import grid, rounded

import ntkpredict as ntp
from ntkpredict.record import to_plain, write
from ntkpredict.suite import applicable, targets

NAME = "smaller-batch"
SHARE = 8
SAMPLES = 100
"""Of each split, evaluated."""


def main(folder: Path, cases: dict[str, Case]) -> None:
    """Rehearse the first seed of every plan that has not been yet."""
    out = folder / "forecasts" / NAME
    out.mkdir(parents=True, exist_ok=True)
    for key, case in cases.items():
        path = out / f"{key}.json"
        if case.seed == 0 and not path.exists():
            start = time.perf_counter()
            write(path, rehearse(case))
            print(f"{NAME} {key}: {time.perf_counter() - start:.0f} s", flush=True)


def rehearse(case: Case) -> dict[str, Any]:
    """One run at the smaller batch size, as a forecast's file holds it."""
    network, data, plan = case.load()
    small = replace(plan, batch_size=max(case.batch_size // SHARE, 1))
    run = ntp.train(network, data, small, evaluations=grid(case), evaluation_samples=SAMPLES)
    found = {}
    for rule in targets(case.max_steps):
        if applicable(rule, run.trajectory):
            steps = float(rule.steps(run.trajectory)[0])
            found[str(rule)] = {"steps": steps if np.isfinite(steps) else None, "interval": None}
    content = {
        "forecaster": NAME,
        "targets": found,
        "validity": None,
        "trusted": None,
        "seconds": run.seconds + run.overhead_seconds,
        "forward_passes": 3.0 * small.batch_size * run.trained_steps,
        "trajectory": run.trajectory,
    }
    return rounded(to_plain(content))
