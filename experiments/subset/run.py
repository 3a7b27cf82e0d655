"""Which correction brings a forecast from a subset of samples to the full data?

    python experiments/subset/run.py [--smoke]    # a tiny case, into a temporary folder

Two rulers without any network error: the tangent model of the embedded default on subsets against
the same model on all 1,000 samples, and full-batch linear regression, where truth is cheap.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

import ntkpredict as ntp
from linearize import compress, linearize
from ntkpredict.embedded import load_network
from ntkpredict.record import to_plain, write
from sde import (
    Curve,
    Examples,
    Problem,
    Replay,
    Trajectory,
    head_directions,
    head_path,
    log_grid,
)

HERE = Path(__file__).parent
METHODS = ("uncorrected", "symmetric", "richardson")


def main(smoke: bool, folder: Path = HERE) -> dict[str, Any]:
    """Measure, then write results.json and the figure."""
    config = json.loads((HERE / "config.json").read_text())
    if smoke:
        config |= {"subsets": [128], "draws": 1, "max_steps": 30, "fractions": [0.7]}
        config["regression"] |= {"problems": 2}
    results = {
        "config": config,
        "digits": digits(config),
        "regression": regression(**config["regression"]),
    }
    write(folder / "results.json", to_plain(results))
    draw(results, folder / "figure.png")
    print(table(results))
    return results


def corrected(whole: Any, halves: Any, unseen: Any, share: float) -> dict[str, Any]:
    """The training loss on all samples, from a subset, its halves, and each half on the other.

    Args:
        whole: loss of the subset of m samples, on itself.
        halves: mean loss of its halves, each on itself.
        unseen: mean loss of its halves, each on the other.
        share: m/N.
    """
    middle, gap = (halves + unseen) / 2, unseen - halves
    return {
        "uncorrected": whole,
        "symmetric": middle - share / 2 * gap / 2,
        "richardson": whole + (whole - halves) * (1 - share),
    }


def digits(config: dict[str, Any]) -> dict[str, Any]:
    """Steps to each target by subset size and method, and with all samples."""
    data, network = ntp.load_data("digits"), load_network()
    plan = ntp.Plan.sgd(
        config["learning_rate"], batch_size=config["batch_size"], max_steps=config["max_steps"]
    )
    grid = log_grid(plan.max_steps)
    targets = plan.objective.targets(data.train[1], 10)

    def training(seen: Examples, seeds: int, unseen: Examples | None = None) -> Problem:
        return Problem(
            seen, plan.objective, plan.optimizer, plan.batch_size, tuple(range(seeds)), unseen
        )

    def losses(seen: Examples, unseen: Examples) -> tuple[np.ndarray, np.ndarray]:
        curves = Replay().solve(training(seen, 4, unseen), grid)
        return curves.train.loss.mean(0), curves.validation.loss.mean(0)

    def steps(loss: np.ndarray) -> list[float]:
        curve = Curve(loss[None], np.zeros_like(loss[None]))
        rules = [ntp.TargetLoss(relative=fraction) for fraction in config["fractions"]]
        return [rule.steps(Trajectory(grid, curve, None))[0] for rule in rules]

    model = linearize(
        network,
        data.train[0],
        directions=lambda still: head_directions(
            head_path(training(Examples(still, targets), 2), grid), 18
        ),
    )
    every = Examples(compress(model), targets)
    out: dict[str, Any] = {"all": steps(losses(every, every)[0]), "subsets": {}}
    for size in config["subsets"]:
        rows: dict[str, list[Any]] = {method: [] for method in METHODS}
        for draw_number in range(config["draws"]):
            index = np.random.default_rng(draw_number).permutation(data.samples)[:size]
            subset = every.take(index)
            first, second = subset.take(slice(size // 2)), subset.take(slice(size // 2, size))
            halves, unseen = np.mean([losses(first, second), losses(second, first)], axis=0)
            whole, _ = losses(subset, first)
            for method, loss in corrected(whole, halves, unseen, size / data.samples).items():
                rows[method].append(steps(loss))
        out["subsets"][str(size)] = rows
    return out


def regression(samples: int, subset: int, problems: int) -> dict[str, Any]:
    """Ratio of the training loss of each method to that of all samples, after 100 steps."""
    rows: dict[str, list[float]] = {method: [] for method in METHODS}
    scales = np.arange(1, 101) ** -0.5
    for seed in range(problems):
        random = np.random.default_rng(seed)
        x = random.normal(size=(samples, 100)) * scales
        y = x @ random.normal(size=100) + 0.5 * random.normal(size=samples)
        whole, first, second = slice(subset), slice(subset // 2), slice(subset // 2, subset)
        parts = {"all": slice(None), "whole": whole, "first": first, "second": second}
        weights = {name: descend(x[part], y[part]) for name, part in parts.items()}

        def loss(name: str, part: slice, weights: Any = weights, x: Any = x, y: Any = y) -> float:
            return float(((x[part] @ weights[name] - y[part]) ** 2).mean() / 2)

        halves = (loss("first", first) + loss("second", second)) / 2
        unseen = (loss("first", second) + loss("second", first)) / 2
        truth = loss("all", slice(None))
        estimates = corrected(loss("whole", whole), halves, unseen, subset / samples)
        for method, value in estimates.items():
            rows[method].append(value / truth)
    return {method: {"mean": np.mean(v), "sd": np.std(v)} for method, v in rows.items()}


def descend(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """100 steps of full-batch gradient descent with momentum."""
    weights = velocity = np.zeros(x.shape[1])
    for _ in range(100):
        velocity = 0.5 * velocity + x.T @ (x @ weights - y) / len(y)
        weights = weights - 0.2 * velocity
    return weights


def table(results: dict[str, Any]) -> str:
    """The tables of README.md, in Markdown."""
    fractions = results["config"]["fractions"]
    lines = [
        "| samples | method | " + " | ".join(f"{f:g}x" for f in fractions) + " |",
        "|" + "---|" * (2 + len(fractions)),
        "| all | | " + " | ".join(f"{s:.0f}" for s in results["digits"]["all"]) + " |",
    ]
    for size, rows in results["digits"]["subsets"].items():
        for method in METHODS:
            values = np.array(rows[method], float)
            cells = [
                f"{m:.0f} ± {s:.0f}" for m, s in zip(values.mean(0), values.std(0), strict=True)
            ]
            lines.append(f"| {size} | {method} | " + " | ".join(cells) + " |")
    for method in METHODS:
        row = results["regression"][method]
        lines.append(f"\nregression, {method}: {row['mean']:.3f} ± {row['sd']:.3f}")
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    """Steps to each target relative to all samples, by subset size."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    fractions = results["config"]["fractions"]
    sizes = [int(size) for size in results["digits"]["subsets"]]
    figure, axes = plt.subplots(
        1, len(fractions), figsize=(3.2 * len(fractions), 3), sharey=True, squeeze=False
    )
    for i, (axis, fraction) in enumerate(zip(axes[0], fractions, strict=True)):
        for method in METHODS:
            ratios = [
                np.array(rows[method], float)[:, i] / results["digits"]["all"][i]
                for rows in results["digits"]["subsets"].values()
            ]
            axis.errorbar(
                sizes,
                [r.mean() for r in ratios],
                [r.std() for r in ratios],
                marker="o",
                label=method,
            )
        axis.axhline(1, color="k", lw=0.8)
        axis.set(title=f"{fraction:g}x", xlabel="samples looked at", xscale="log")
        axis.set_xticks(sizes, [str(size) for size in sizes], minor=False)
        axis.minorticks_off()
    axes[0, 0].set_ylabel("steps / steps with all 1,000")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    smoke = "--smoke" in sys.argv
    main(smoke, Path(tempfile.mkdtemp()) if smoke else HERE)
