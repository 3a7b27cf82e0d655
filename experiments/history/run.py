"""Do a user's own runs make the next forecast better? Users are the networks of the suite.

    python experiments/history/run.py

Each run of a network is forecast with so many of the network's other runs in the
history, drawn at random, one target at a time; from stored runs and forecasts.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from ntkpredict.calibration import Calibration, Pair
from ntkpredict.record import to_plain, write
from ntkpredict.score import score

HERE = Path(__file__).parent
SUITE = HERE.parent / "suite"

COUNTS = (8, 12, 16, 24, 30)
DRAWS = 20


def main(suite: Path = SUITE, folder: Path = HERE, draws: int = DRAWS) -> dict[str, Any]:
    """Replay users, write and draw."""
    random = np.random.default_rng(0)
    told = defaultdict(list)
    for (network, _), pairs in users(suite).items():
        for count in COUNTS:
            if len(pairs) > count:
                for index in np.tile(np.arange(len(pairs)), draws):
                    others = np.delete(np.arange(len(pairs)), index)
                    own = tuple(pairs[i] for i in random.choice(others, count, replace=False))
                    told[network, count, "own"].append(judged(pairs[index], own))
                    told[network, count, "shipped"].append(judged(pairs[index], ()))
    results = to_plain({"summary": summary(told)})
    write(folder / "results.json", results)
    draw(results["summary"], folder / "figure.png")
    return results


def users(suite: Path) -> dict[tuple[str, str], list[Pair]]:
    """By network and target: what forecasts were off by.

    Only what both reached: how late a run is that did not get there is not known. Nor what was
    trained for real before: that is no forecast.
    """
    found = defaultdict(list)
    for row in score(suite).rows["ours"]:
        if row.case.diverged or not (row.foretold and np.isfinite(row.real)):
            continue
        target = str(row.rule).partition("@")[0]
        error = float(np.log(row.real / row.predicted))
        found[row.case.key.partition("-")[0], target].append(Pair(row.answers.signals, error))
    return dict(found)


def judged(pair: Pair, own: tuple[Pair, ...]) -> tuple[bool, float, float]:
    """Whether the interval holds the run, ln of its ends' ratio, and the error of the point."""
    told = Calibration(own).validity(pair.signals)
    low, high = np.quantile(told.clock, [0.025, 0.975], method="nearest")
    error = abs(np.expm1(told.shift - pair.log_ratio))
    return bool(low <= pair.log_ratio <= high), float(high - low), float(error)


def summary(groups: dict[tuple[str, int, str], list[Any]]) -> list[dict[str, Any]]:
    """By network, number of own runs and calibration, over all targets with so many runs."""
    return [
        {
            "network": network,
            "own_runs": count,
            "calibration": calibration,
            "coverage": float(np.mean([inside for inside, _, _ in told])),
            "median_width": float(np.exp(np.median([width for _, width, _ in told]))),
            "median_error": float(np.median([error for _, _, error in told])),
        }
        for (network, count, calibration), told in groups.items()
    ]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Coverage, width and error over the number of own runs."""
    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained")
    labels = {
        "coverage": "95 % intervals that hold",
        "median_width": "upper over lower end (median)",
        "median_error": "error of steps (median)",
    }
    for axis, (name, label) in zip(axes, labels.items(), strict=True):
        for colour, network in enumerate(sorted({row["network"] for row in rows})):
            for calibration, style in (("own", "o-"), ("shipped", "x:")):
                of = [r for r in rows if (r["network"], r["calibration"]) == (network, calibration)]
                axis.plot(
                    [r["own_runs"] for r in of],
                    [r[name] for r in of],
                    style,
                    color=f"C{colour}",
                    label=f"{network}, {calibration}",
                )
        axis.set_xlabel("own runs in the history")
        axis.set_title(label, fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].axhline(0.95, color="grey", linewidth=0.8)
    axes[1].set_yscale("log")
    lines = axes[2].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    for line in main()["summary"]:
        print(json.dumps(line))
