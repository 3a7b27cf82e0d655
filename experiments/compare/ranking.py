"""Which plan is the fastest? What forecasts say, and what came of it on the suite.

    python experiments/compare/ranking.py

Every task of experiments/suite with at least two plans, from its stored runs and forecasts: the
order of its plans, in steps and in seconds, for each fraction of the initial loss and each
accuracy.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np

from ntkpredict.record import to_plain, write
from ntkpredict.score import score
from ntkpredict.stopping import TargetAccuracy, TargetLoss
from ntkpredict.suite import Row

HERE = Path(__file__).parent
SUITE = HERE.parent / "suite"
FORECASTERS = ("ours", "frozen")
CHOOSERS = (*FORECASTERS, "largest stable lr", "scaling rule", "random")
CRITERIA = ("steps", "seconds")
COLOURS = {"development": "#1f6feb", "held-out": "#d1570c"}


class Entry(NamedTuple):
    """A plan of a task and a target; steps are infinite beyond the budget.

    Attributes:
        optimizer: its name.
        lr: the learning rate.
        batch_size: samples per step.
        margin: how many times the learning rate could grow, by our forecast, where it is known.
        budget: the most steps.
        real: steps to the target.
        seconds_per_step: of the real run.
        predicted: steps, by forecaster.
    """

    optimizer: str
    lr: float
    batch_size: int
    margin: float | None
    budget: int
    real: float
    seconds_per_step: float
    predicted: dict[str, float]

    def unit(self, criterion: str) -> float:
        """Of a step."""
        return 1.0 if criterion == "steps" else self.seconds_per_step

    def spent(self, criterion: str) -> float:
        """On reaching the target, or on the whole budget in vain."""
        return min(self.real, self.budget) * self.unit(criterion)


Preference = Callable[[Entry, Entry], int]


def main(suite: Path = SUITE, folder: Path = HERE) -> dict[str, Any]:
    """Rank, choose, write and draw."""
    groups = load(suite)
    told = [
        judged(split, task, target, entries, criterion, chooser)
        for (split, task, target), entries in groups.items()
        for criterion in CRITERIA
        for chooser in CHOOSERS
    ]
    told = [row for row in told if row is not None]
    results = to_plain({"summary": summary(told), "by_task": summary(told, "task")})
    write(folder / "ranking.json", results)
    draw(told, folder / "ranking.png")
    return results


def load(suite: Path) -> dict[tuple[str, str, str], list[Entry]]:
    """By split, task and target: one run of each plan that both forecasters told about."""
    rows: dict[str, dict[tuple[str, str], Row]] = {
        name: {(row.case.key, str(row.rule)): row for row in score(suite).rows[name]}
        for name in FORECASTERS
    }
    groups: dict[tuple[str, str, str], dict[str, Entry]] = defaultdict(dict)
    for (key, target), row in rows["ours"].items():
        if not isinstance(row.rule, TargetLoss | TargetAccuracy):
            continue  # the others depend on a run's budget
        predicted = {name: rows[name][key, target].predicted for name in FORECASTERS}
        if None in predicted.values():
            continue
        run = json.loads((suite / "runs" / f"{key}.json").read_text())
        told = json.loads((suite / "forecasts" / "ours" / f"{key}.json").read_text())
        case = run["case"]
        entry = Entry(
            optimizer=case["optimizer"],
            lr=case["lr"],
            batch_size=case["batch_size"],
            margin=told["signals"]["margin"],
            budget=case["max_steps"],
            real=row.real,
            seconds_per_step=run["seconds"] / run["trained_steps"],
            predicted=predicted,
        )
        plan = key.rpartition("-s")[0]
        groups[row.case.split, case["task"], target].setdefault(plan, entry)
    return {key: [*plans.values()] for key, plans in groups.items() if len(plans) > 1}


def order(a: Entry, b: Entry, steps: tuple[float, float], criterion: str) -> int:
    """-1 where a gets there first, 1 where b does, 0 where the budgets do not let one tell."""
    first, second = (t * e.unit(criterion) for t, e in zip(steps, (a, b), strict=True))
    limits = a.budget * a.unit(criterion), b.budget * b.unit(criterion)
    if math.isinf(first) and math.isinf(second):
        return 0
    if math.isinf(first):
        return 1 if second <= limits[0] else 0
    if math.isinf(second):
        return -1 if first <= limits[1] else 0
    return int(np.sign(first - second))


def preference(chooser: str, criterion: str) -> Preference:
    """Which of two plans a chooser takes, as `order` says it.

    Rules of thumb do not tell between optimizers.
    """

    def forecast(a: Entry, b: Entry) -> int:
        return order(a, b, (a.predicted[chooser], b.predicted[chooser]), criterion)

    def by_rule(a: Entry, b: Entry) -> int:
        if a.optimizer != b.optimizer:
            return 0
        badness = stable_rate if chooser == "largest stable lr" else off_the_rule
        return int(np.sign(badness(a) - badness(b)))

    if chooser == "random":
        return lambda _a, _b: 0
    return forecast if chooser in FORECASTERS else by_rule


def stable_rate(entry: Entry) -> float:
    """Small where the rate is large and, as far as is known, below the edge of stability."""
    unstable = entry.margin is not None and entry.margin < 1
    return 1.0 if unstable else -entry.lr


def off_the_rule(entry: Entry) -> float:
    """From 0.1 at B = 256, in proportion (SGD, Goyal et al. 2017), or 0.001 by the root (Adam)."""
    share = entry.batch_size / 256
    rule = 0.1 * share if entry.optimizer == "sgd" else 1e-3 * math.sqrt(share)
    return abs(math.log(entry.lr / rule))


def judged(
    split: str, task: str, target: str, entries: list[Entry], criterion: str, chooser: str
) -> dict[str, Any] | None:
    """Kendall's tau over the pairs whose real order is known, and the regret of the choice.

    A choice that leaves several plans costs their mean. None where no plan gets there, or no order
    is known.
    """
    prefer = preference(chooser, criterion)
    known = [
        (a, b, real)
        for a, b in combinations(entries, 2)
        if (real := order(a, b, (a.real, b.real), criterion))
    ]
    if not known:
        return None
    agree = [real * prefer(a, b) for a, b, real in known]
    alike = [s for s, (a, b, _) in zip(agree, known, strict=True) if a.optimizer == b.optimizer]
    chosen = [e for e in entries if not any(prefer(other, e) < 0 for other in entries)]
    best = min(e.real * e.unit(criterion) for e in entries)
    spent = float(np.mean([e.spent(criterion) for e in chosen]))
    return {
        "split": split,
        "task": task,
        "target": target,
        "criterion": criterion,
        "chooser": chooser,
        "plans": len(entries),
        "pairs": len(known),
        "tau": float(np.mean(agree)),
        "tau_same_optimizer": float(np.mean(alike)) if alike else None,
        "regret": max(spent - best, 0.0),
        "ratio": max(spent / best, 1.0),
        "best": float(np.mean([e.real * e.unit(criterion) <= 1.05 * best for e in chosen])),
        "missed": float(np.mean([math.isinf(e.real) for e in chosen])),
    }


def summary(told: list[dict[str, Any]], *more: str) -> list[dict[str, Any]]:
    """Means over tasks of the means over their targets, by split, criterion and chooser."""
    by = ("split", "criterion", "chooser", *more)
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in told:
        groups[tuple(row[name] for name in by)].append(row)
    return [
        {
            **dict(zip(by, key, strict=True)),
            "tasks": len({row["task"] for row in rows}),
            "targets": len(rows),
            "pairs": sum(row["pairs"] for row in rows),
            "median_ratio": float(np.median([row["ratio"] for row in rows])),
            **{
                name: float(np.mean([*by_task(rows, name)]))
                for name in ("tau", "tau_same_optimizer", "regret", "ratio", "best", "missed")
                if [*by_task(rows, name)]
            },
        }
        for key, rows in groups.items()
    ]


def by_task(rows: list[dict[str, Any]], name: str) -> Iterator[float]:
    """The mean over the targets of each task, where there is any."""
    for task in sorted({row["task"] for row in rows}):
        values = [row[name] for row in rows if row["task"] == task and row[name] is not None]
        if values:
            yield float(np.mean(values))


def draw(told: list[dict[str, Any]], path: Path) -> None:
    """Kendall's tau and the ratio to the best plan, by chooser, a dot a task."""
    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, name, label in (
        (axes[0], "tau", "Kendall's τ of plans, in seconds"),
        (axes[1], "ratio", "seconds of the chosen plan over the best one's"),
    ):
        for (split, colour), offset in zip(COLOURS.items(), (0.1, -0.1), strict=True):
            for place, chooser in enumerate(reversed(CHOOSERS)):
                shown = (split, "seconds", chooser)
                rows = [r for r in told if (r["split"], r["criterion"], r["chooser"]) == shown]
                values = [*by_task(rows, name)]
                height = np.full(len(values), place + offset)
                axis.plot(values, height, "o", color=colour, alpha=0.5, markersize=5)
                axis.plot(np.mean(values), place + offset, "|", color=colour, markersize=16)
        axis.set_xlabel(label)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(CHOOSERS)), reversed(CHOOSERS))
    axes[1].set_xscale("log")
    ticks = [1, 2, 4, 8, 16]
    axes[1].set_xticks(ticks, map(str, ticks))
    axes[1].minorticks_off()
    handles = [
        plt.Line2D([], [], marker="o", color=colour, linestyle="", label=split)
        for split, colour in COLOURS.items()
    ]
    axes[1].legend(handles=handles, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    for line in main()["summary"]:
        print(json.dumps(line))
