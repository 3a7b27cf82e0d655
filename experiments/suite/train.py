"""The real runs of the suite, each one a small JSON file; those that are there stay."""

import importlib.metadata
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tasks import TASKS, Case

import ntkpredict as ntp
from ntkpredict.record import to_plain, write
from ntkpredict.stopping import AnyOf
from ntkpredict.suite import targets
from sde import log_grid

SAMPLES = 400
"""Of each split, evaluated."""


def main(folder: Path, cases: dict[str, Case]) -> None:
    """Train what has not been trained yet."""
    (folder / "runs").mkdir(exist_ok=True)
    for key, case in cases.items():
        path = folder / "runs" / f"{key}.json"
        if not path.exists():
            start = time.perf_counter()
            write(path, train(case))
            print(f"trained {key}: {time.perf_counter() - start:.0f} s", flush=True)


def train(case: Case) -> dict[str, Any]:
    """One run to the end of its budget, as its file holds it."""
    network, data, plan = case.load()
    run = ntp.train(network, data, plan, evaluations=grid(case), evaluation_samples=SAMPLES)
    record = run.to_dict() | {
        "case": asdict(case),
        "task": asdict(TASKS[case.task]),
        "parameters": network.parameter_count,
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")},
        "backend": jax.default_backend(),
    }
    return rounded(to_plain(record))


def grid(case: Case) -> np.ndarray:
    """When a run is evaluated: dense at first, then evenly, as early stopping asks for."""
    even = AnyOf(tuple(targets(case.max_steps))).evaluations(case.max_steps)
    return np.union1d(log_grid(case.max_steps, per_decade=8), even)


def rounded(value: Any) -> Any:
    """Six digits are enough for curves."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value
