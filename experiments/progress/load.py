"""Do speed and remaining time recover when another program takes half of the core?

    python experiments/progress/load.py [--smoke]

A loop of equal steps runs on one core. After two fifths of the steps another process starts to run
on the same core, and after three fifths it ends: three phases of about the same time. Every so
often the indicator is asked. With --smoke phases are short, and the results go to a temporary
folder.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

import ntkpredict as ntp
from ntkpredict.record import to_plain, write

HERE = Path(__file__).parent
WORK = bytes(4_000_000)
TOLERANCE = 0.1
PHASES = ("alone", "with another program", "alone again")


def main(smoke: bool, folder: Path = HERE) -> dict[str, Any]:
    """Run, then write load.json and load.png."""
    window, phase = (1.0, 3.0) if smoke else (5.0, 20.0)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        rows, edges = train(window, phase)
    finally:
        os.sched_setaffinity(0, cores)
    results = {"window_seconds": window, "edges_seconds": edges, **summary(rows, window, edges)}
    write(folder / "load.json", to_plain(results))
    draw(rows[:-1], results, folder / "load.png")
    return results


def step() -> None:
    """Some milliseconds of work for one core."""
    hashlib.sha256(WORK).digest()


def train(window: float, phase: float) -> tuple[list[dict[str, float]], list[float]]:
    """What is told, and the seconds between which phases lie; each takes about `phase` seconds."""
    start = time.perf_counter()
    for _ in range(50):
        step()
    steps = int(2.5 * phase * 50 / (time.perf_counter() - start))
    progress = ntp.track(steps, quiet=True, window=window)
    rows: list[dict[str, float]] = []
    edges = [0.0]
    other, start = None, time.perf_counter()
    try:
        for done in progress:
            step()
            now = time.perf_counter() - start
            if done == 2 * steps // 5:
                other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                edges.append(now)
            if other is not None and done == 3 * steps // 5:
                other.kill()
                edges.append(now)
            if now >= len(rows) * phase / 80:
                estimate = progress.estimate()
                row = {"seconds": now, "steps": done, "speed": estimate.units_per_second}
                rows.append(row | {"remaining": estimate.seconds})
    finally:
        if other is not None:
            other.kill()
            other.wait()
    edges.append(time.perf_counter() - start)
    rows.append({"seconds": edges[-1], "steps": steps})
    return rows, edges


def summary(rows: list[dict[str, float]], window: float, edges: list[float]) -> dict[str, Any]:
    """True speeds, when the indicator has got to each, and what remains then."""
    seconds = np.array([row["seconds"] for row in rows])
    steps = np.array([row["steps"] for row in rows], float)
    told, remaining = (np.array([row[key] for row in rows[:-1]]) for key in ("speed", "remaining"))
    speeds = np.diff(np.interp(edges, seconds, steps)) / np.diff(edges)
    recovered, errors = [], []
    for i, speed in enumerate(speeds):
        inside = (seconds[:-1] >= edges[i]) & (seconds[:-1] < edges[i + 1])
        near = np.flatnonzero(inside & (np.abs(told / speed - 1) <= TOLERANCE))
        recovered.append(float(seconds[near[0]] - edges[i]) if len(near) else np.inf)
        late = inside & (seconds[:-1] >= edges[i] + window)
        real = (steps[-1] - steps[:-1][late]) / speed  # were it to go on at this speed
        off = np.abs(remaining[late] / np.maximum(real, 1e-9) - 1)
        errors.append(float(np.median(off)) if len(off) else np.inf)
    return {
        "steps_per_second": dict(zip(PHASES, speeds.tolist(), strict=True)),
        "seconds_until_first_within_10_percent": dict(zip(PHASES, recovered, strict=True)),
        "error_of_remaining_after_the_window": dict(zip(PHASES, errors, strict=True)),
    }


def draw(rows: list[dict[str, float]], results: dict[str, Any], path: Path) -> None:
    """Speed told and real."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    edges = results["edges_seconds"]
    figure, axis = plt.subplots(figsize=(8, 3.5))
    axis.axvspan(*edges[1:3], color="0.9", label="another program on the core")
    seconds, steps, told = (np.array([r[k] for r in rows]) for k in ("seconds", "steps", "speed"))
    every = np.arange(0, seconds[-1], 1.0)
    real = np.diff(np.interp(every, seconds, steps))
    axis.plot(every[:-1] + 0.5, real, ".", color="0.6", label="steps in a second")
    axis.plot(seconds, told, label="indicator")
    for i, speed in enumerate(results["steps_per_second"].values()):
        axis.plot(edges[i : i + 2], [speed] * 2, "k--", linewidth=1, label=None if i else "mean")
    axis.set(xlabel="seconds", ylabel="steps per second", ylim=(0, None))
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    if "--smoke" in sys.argv:
        main(smoke=True, folder=Path(tempfile.mkdtemp()))
    else:
        main(smoke=False)
