"""Is the indicator ever worse than the maximum, and by how much?

Case by case it has to be: where a run goes to its maximum, nothing is nearer. So mean errors are
held against the maximum's group by group, over the same cases: at the same share of the run, and
after the same number of evaluations. Only the latter is known when somebody asks: how much of the
run has passed, and whether it stops early, are what is asked for.
"""

from functools import partial
from typing import Any

import numpy as np
from methods import Method, ask, ours
from recorded import Replay

INDICATOR: dict[str, Method] = {"ours, with forecast": partial(ours, forecast=True), "ours": ours}
EVALUATIONS = (1, 2, 4, 8, 16, 30)
RESAMPLES = 1000


def regrets(replays: list[Replay], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By split, method, moment and group.

    Args:
        replays: to be asked after so many evaluations.
        rows: what was answered at each share of the run.
    """
    out: dict[str, Any] = {}
    shares = [row | {"at": f"{row['share']:.0%}"} for row in rows if row["method"] in INDICATOR]
    for row in shares + after_evaluations(replays):
        moments = out.setdefault(row["split"], {}).setdefault(row["method"], {})
        for group in groups(row):
            moments.setdefault(row["at"], {}).setdefault(group, []).append(row)
    for moments in (m for methods in out.values() for m in methods.values()):
        for at, found in moments.items():
            moments[at] = {group: regret(some) for group, some in found.items()}
    return out


def after_evaluations(replays: list[Replay]) -> list[dict[str, Any]]:
    """What is answered in the runs that go on after so many evaluations."""
    return [
        row | {"at": f"after {count}"}
        for replay in replays
        for count in EVALUATIONS
        if count * replay.every < replay.stop
        for row in ask(replay, count * replay.every, INDICATOR)
    ]


def groups(row: dict[str, Any]) -> list[str]:
    """Those that a case belongs to."""
    end = "stopped early" if row["stop"] < row["max_steps"] else "to the maximum"
    return ["all", f"patience {row['patience']}", row["distance"], end]


def regret(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean error less the maximum's, in lengths of the run; 95 % of a bootstrap over runs."""
    steps, stop, most = (np.array([row[n] for row in rows]) for n in ("steps", "stop", "max_steps"))
    error, maximum = np.abs(steps - stop) / stop, (most - stop) / stop
    _, run = np.unique([row["key"] for row in rows], return_inverse=True)
    sums, counts = np.bincount(run, error - maximum), np.bincount(run)
    drawn = np.random.default_rng(0).integers(len(counts), size=(RESAMPLES, len(counts)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    return {
        "cases": len(rows),
        "runs": len(counts),
        "mean_error": float(error.mean()),
        "mean_error_maximum": float(maximum.mean()),
        "median_error": float(np.median(error)),
        "median_error_maximum": float(np.median(maximum)),
        "regret": float((error - maximum).mean()),
        "low": float(low),
        "high": float(high),
    }
