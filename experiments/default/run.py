"""Forecasts of the embedded default beside real runs: learning rates × batch sizes × seeds.

    python experiments/default/run.py [--smoke]    # a tiny case, into a temporary folder

Finished cases stay in results.json, so an interrupted run goes on where it was.
"""

import json
import platform
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import jax
import matplotlib as mpl
import numpy as np

import ntkpredict as ntp
from ntkpredict.embedded import load_network
from ntkpredict.record import to_plain, write
from ntkpredict.validate import compare_targets

HERE = Path(__file__).parent


def main(smoke: bool, folder: Path = HERE) -> dict[str, Any]:
    """Run what is missing, then write the table and the figure."""
    config = json.loads((HERE / "config.json").read_text())
    if smoke:
        config |= {"learning_rates": [0.003], "batch_sizes": [16], "seeds": [0], "max_steps": 60}
        config |= {"samples": 64}
    path = folder / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {"cases": {}}
    data = ntp.load_data("digits")
    grid = product(config["learning_rates"], config["batch_sizes"], config["seeds"])
    for lr, batch_size, seed in grid:
        key = f"lr={lr:g} batch={batch_size} seed={seed}"
        if key not in results["cases"]:
            print(key, flush=True)
            results["cases"][key] = case(config, data, lr, batch_size, seed)
            write(path, results)
    results["config"], results["machine"] = config, machine()
    results["summary"] = {mode: summary(config, results, mode) for mode in config["modes"]}
    write(path, results)
    draw(config, results, folder / "figure.png")
    print(table(config, results))
    return results


def case(config: dict[str, Any], data: ntp.Data, lr: float, batch_size: int, seed: int) -> Any:
    """One real run and its forecast in every mode."""
    network = load_network(seed=seed)
    plan = ntp.Plan.sgd(lr, batch_size=batch_size, max_steps=config["max_steps"], seed=seed)
    until = ntp.TargetLoss(relative=min(config["fractions"]))
    run = ntp.train(network, data, plan, until)
    result: dict[str, Any] = {"run": run.to_dict(), "forecasts": {}}
    for mode in config["modes"]:
        forecast = ntp.predict(
            network, data, plan, until, mode=mode, kernel="frozen", samples=config["samples"]
        )
        rows = compare_targets(forecast, run, until, tuple(config["fractions"]))
        median = forecast.trajectory.quantile(0.5)
        result["forecasts"][mode] = to_plain(
            {
                "targets": [
                    vars(row) | {"error": row.error, "covered": row.covered} for row in rows
                ],
                "train_loss": median.train.loss[0],
                "seconds": forecast.forecast_seconds,
                "cost": forecast.cost,
            }
        )
    result["grid"] = median.steps.tolist()
    return to_plain(result)


def summary(config: dict[str, Any], results: dict[str, Any], mode: str) -> dict[str, Any]:
    """Errors and coverage over all cases, by target."""
    rows = [row for case in results["cases"].values() for row in case["forecasts"][mode]["targets"]]
    out: dict[str, Any] = {}
    for fraction in config["fractions"]:
        chosen = [row for row in rows if row["until"] == f"loss<={fraction:g}x"]
        errors = np.array([row["error"] for row in chosen if row["error"] is not None])
        covered = [bool(row["covered"]) for row in chosen]
        out[f"{fraction:g}"] = {
            "cases": len(chosen),
            "not_reached": len(chosen) - len(errors),
            "median_absolute_error": float(np.median(np.abs(errors))) if len(errors) else None,
            "largest_absolute_error": float(np.abs(errors).max()) if len(errors) else None,
            "median_error": float(np.median(errors)) if len(errors) else None,
            "covered": float(np.mean(covered)) if covered else None,
        }
    return out


def table(config: dict[str, Any], results: dict[str, Any]) -> str:
    """The table of README.md, in Markdown."""
    modes = config["modes"]
    lines = [
        "| lr | batch | seed | "
        + " | ".join(f"{f:g}x real, {', '.join(modes)}" for f in config["fractions"])
        + " |",
        "|" + "---|" * (3 + len(config["fractions"])),
    ]
    for key, case in results["cases"].items():
        lr, batch, seed = (part.split("=")[1] for part in key.split())
        cells = []
        for fraction in config["fractions"]:
            rows = [find(case["forecasts"][mode]["targets"], fraction) for mode in modes]
            cells.append(
                ", ".join([count(rows[0]["real"]), *(count(row["predicted"]) for row in rows)])
            )
        lines.append(f"| {lr} | {batch} | {seed} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def find(rows: list[dict[str, Any]], fraction: float) -> dict[str, Any]:
    """The row of one target."""
    return next(
        (row for row in rows if row["until"] == f"loss<={fraction:g}x"),
        {"real": None, "predicted": None},
    )


def count(steps: float | None) -> str:
    """Steps as the table shows them."""
    return "-" if steps is None else f"{steps:.0f}"


def draw(config: dict[str, Any], results: dict[str, Any], path: Path) -> None:
    """Real and predicted curves, one panel a learning rate and batch size, first seed."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rates, sizes = config["learning_rates"], config["batch_sizes"]
    figure, axes = plt.subplots(
        len(sizes), len(rates), figsize=(4 * len(rates), 3 * len(sizes)), squeeze=False, sharey=True
    )
    for axis, (batch_size, lr) in zip(axes.flat, product(sizes, rates), strict=True):
        case = results["cases"][f"lr={lr:g} batch={batch_size} seed={config['seeds'][0]}"]
        curves = case["run"]["trajectory"]
        end = curves["steps"][-1] * 1.5
        axis.plot(curves["steps"], curves["train"]["loss"][0], "k", lw=2, label="real run")
        for mode, colour in zip(config["modes"], ("tab:blue", "tab:orange"), strict=True):
            axis.plot(case["grid"], case["forecasts"][mode]["train_loss"], colour, label=mode)
        axis.set(title=f"lr {lr:g}, batch size {batch_size}", xlim=(0, end), yscale="log")
        axis.set_ylim(bottom=0.5 * min(config["fractions"]) * curves["train"]["loss"][0][0])
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("steps")
    for axis in axes[:, 0]:
        axis.set_ylabel("training loss (nats)")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def machine() -> dict[str, str]:
    """Where the numbers come from."""
    return {"python": platform.python_version(), "jax": jax.__version__, "cpu": platform.machine()}


if __name__ == "__main__":
    smoke = "--smoke" in sys.argv
    main(smoke, Path(tempfile.mkdtemp()) if smoke else HERE)
