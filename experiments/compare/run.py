"""What comparing plans costs, on the embedded default.

    python experiments/compare/run.py [--smoke]    # a tiny case, into a temporary folder

7 learning rates × 4 batch sizes × 2 optimizers, then half as many learning rates again: the
difference is the cost of one more plan. Then some of the plans by themselves, as `predict` has
them.
"""

import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import matplotlib as mpl
import numpy as np

import ntkpredict as ntp
from ntkpredict.embedded import load_network
from ntkpredict.record import to_plain, write

HERE = Path(__file__).parent
UNTIL = ntp.TargetLoss(relative=0.05)
RATES = (1e-3, 1e-1)


def main(smoke: bool, folder: Path = HERE) -> dict[str, Any]:
    """Compare, compare more, predict some of them; write the results and the figure."""
    network, data = load_network(seed=0), ntp.load_data("digits")
    counts, sizes, optimizers = (7, 11), [16, 32, 64, 128], ["sgd", "adamw"]
    rates, options = RATES, dict[str, Any]()
    if smoke:
        network, options = softmax_regression(), {"samples": 64}
        rates, counts, sizes, optimizers = (0.1, 0.3), (1, 2), [32], ["sgd"]
    results: dict[str, Any] = {"machine": machine(), "comparisons": []}
    for count in counts:
        plans = ntp.Plan.grid(np.geomspace(*rates, count).tolist(), sizes, optimizers)
        measured, ranking = timed(network, data, plans, options)
        results["comparisons"].append(measured)
        if count == counts[0]:
            results["plans"] = [row(ranking, i) for i in range(len(ranking.candidates))]
            results["steps_by_batch_size"] = ranking.steps_by_batch_size
            results["critical_batch_size"] = ranking.critical_batch_size
            results["noise_scale"] = ranking.noise_scale
    results["one_more_plan_seconds"] = one_more(*results["comparisons"])
    results["alone"] = alone(network, data, optimizers, results["plans"], options)
    results = to_plain(results)
    write(folder / "results.json", results)
    draw(results, folder / "figure.png")
    return results


def softmax_regression() -> ntp.Network:
    """A network that is nothing but a head, for a run that is over at once."""
    random = np.random.default_rng(0)
    kernel = 0.1 * random.normal(size=(64, 10)).astype(np.float32)
    params = {"head": {"kernel": kernel, "bias": np.zeros(10, np.float32)}}

    def outputs(params: Any, images: Any) -> Any:
        return images.reshape(len(images), -1) @ params["head"]["kernel"] + params["head"]["bias"]

    return ntp.Network.from_function(outputs, params, head="head", name="softmax regression")


def timed(
    network: ntp.Network, data: ntp.Data, plans: list[ntp.Plan], options: dict[str, Any]
) -> tuple[dict[str, Any], ntp.Ranking]:
    """What a comparison takes, by the clock and in processor time, with the load it ran under."""
    start, busy = time.perf_counter(), time.process_time()
    ranking = ntp.compare(network, data, plans, UNTIL, **options)
    measured = {
        "plans": len(plans),
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - busy,
        "load_average": os.getloadavg()[0],
        "phases": ranking.forecast_seconds,
    }
    print(measured, flush=True)
    return measured, ranking


def one_more(few: dict[str, Any], many: dict[str, Any]) -> float:
    """What a plan adds to the simulation, by the clock; the second time, the rest is warm."""
    spent = [
        sum(seconds for name, seconds in one["phases"].items() if name.startswith("simulation"))
        for one in (few, many)
    ]
    return (spent[1] - spent[0]) / (many["plans"] - few["plans"])


def row(ranking: ntp.Ranking, index: int) -> dict[str, Any]:
    """One plan of the table."""
    candidate = ranking.candidates[index]
    names = ("plan", "optimizer", "learning_rate", "batch_size", "steps", "steps_interval")
    more = ("seconds", "validation_loss", "validation_accuracy", "diverged", "reason")
    return {name: getattr(candidate, name) for name in (*names, *more)} | {
        "word": candidate.validity.word,
        "probability_best": ranking.probability_best[index],
        "front": ranking.front[index],
    }


def alone(
    network: ntp.Network,
    data: ntp.Data,
    optimizers: list[str],
    rows: list[dict[str, Any]],
    options: dict[str, Any],
) -> list[dict[str, Any]]:
    """The best plan of each optimizer and the slowest that gets there, with their own features."""
    found = []
    for name in optimizers:
        mine = [r for r in rows if r["optimizer"].startswith(name) and r["steps"] is not None]
        for chosen in {id(chosen): chosen for chosen in (mine[0], mine[-1])}.values():
            (plan,) = ntp.Plan.grid([chosen["learning_rate"]], [chosen["batch_size"]], [name])
            forecast = ntp.predict(network, data, plan, UNTIL, seeds=1, solver="replay", **options)
            found.append(
                {
                    "plan": plan.description,
                    "compare": chosen["steps"],
                    "predict": forecast.steps,
                    "predict_seconds": sum(forecast.forecast_seconds.values()),
                }
            )
            print(found[-1], flush=True)
    return found


def draw(results: dict[str, Any], path: Path) -> None:
    """Steps and seconds over learning rates, one line a batch size."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    optimizers = sorted({r["optimizer"] for r in results["plans"]})
    figure, axes = plt.subplots(
        2, len(optimizers), figsize=(5 * len(optimizers), 6), squeeze=False, sharex=True
    )
    for column, optimizer in zip(axes.T, optimizers, strict=True):
        for size in sorted({r["batch_size"] for r in results["plans"]}):
            rows = sorted(
                (
                    r
                    for r in results["plans"]
                    if (r["optimizer"], r["batch_size"]) == (optimizer, size)
                ),
                key=lambda r: r["learning_rate"],
            )
            rates = [r["learning_rate"] for r in rows]
            for axis, name in zip(column, ("steps", "seconds"), strict=True):
                axis.loglog(rates, [r[name] or np.nan for r in rows], "o-", label=f"B = {size}")
                axis.set_ylabel(f"{name} to 0.05 × the initial loss")
                axis.grid(alpha=0.3)
        column[0].set_title(optimizer)
        column[0].legend()
        column[1].set_xlabel("learning rate")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def machine() -> dict[str, Any]:
    """Where the numbers come from."""
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "cpu": platform.machine(),
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    smoke = "--smoke" in sys.argv
    main(smoke, Path(tempfile.mkdtemp()) if smoke else HERE)
