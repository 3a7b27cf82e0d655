"""How good is the remaining time that the indicator shows, while a run goes on?

    python experiments/progress/run.py [--smoke]

The recorded validation losses of the suite's runs are played back under early stopping, and every
method is asked now and then what remains. Steps are counted, as all cost the same.
"""

import io
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import optax
from rich.console import Console
from scipy import optimize

import ntkpredict as ntp
from ntkpredict.counter import KerasCounter
from ntkpredict.progress import Indicator
from ntkpredict.progress.extra import ExtraPoints
from ntkpredict.progress.mode import half_sample_mode
from ntkpredict.progress.panel import panel
from ntkpredict.record import to_plain, to_trajectory, write
from ntkpredict.validity import Signals, Validity

HERE = Path(__file__).parent
SUITE = HERE.parent / "suite"
SHARES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75)
PATIENCES = (2, 5, 10)
EVALUATIONS = 40
FUTURES = 400
SAMPLES = 64
"""Of an extra validation point, whatever it costs."""

SHOWN = ("squeezenet-clothing-adamw-0.0001-32-s0", 5)


@dataclass(frozen=True)
class Replay:
    """A recorded run under one stopping rule.

    Attributes:
        key: of the run.
        split: development or held-out.
        patience: evaluations.
        every: steps between them.
        max_steps: the budget.
        curves: as recorded.
        samples: validation samples.
        schedule: step -> learning rate.
        forecast: made before launch.
    """

    key: str
    split: str
    patience: int
    every: int
    max_steps: int
    curves: ntp.Trajectory
    samples: int
    schedule: Callable[[int], float]
    forecast: ntp.Forecast

    def value(self, step: Any) -> Any:
        """The validation loss at a step."""
        return np.interp(step, self.curves.steps, self.curves.validation.loss[0])

    @cached_property
    def values(self) -> np.ndarray:
        """At each evaluation."""
        return self.value(np.arange(self.every, self.max_steps + 1, self.every))

    @cached_property
    def stop(self) -> int:
        """The step at which it ends."""
        stop = int(KerasCounter(self.patience).stops(self.values[None])[0])
        return stop * self.every if stop else self.max_steps


Answer = tuple[float, float, float]
"""The step at which training is said to end, and the interval; NaN where there is none."""


def main(smoke: bool, folder: Path = HERE) -> dict[str, Any]:
    """Replay, then write results.json and the figure."""
    replays = load(limit=2 if smoke else None)
    noise = history([r for r in replays if r.split == "development"])
    rows = [row for replay in replays for row in ask(replay, noise)]
    results = {
        "noise of Luo's method": noise,
        "runs": len({replay.key for replay in replays}),
        "stopped early": sum(replay.stop < replay.max_steps for replay in replays),
        "cases": len(replays),
        "summary": {
            split: summary([row for row in rows if row["split"] == split])
            for split in dict.fromkeys(replay.split for replay in replays)
        },
    }
    write(folder / "results.json", to_plain(results))
    draw(results["summary"], folder / "figure.png")
    shown = next((r for r in replays if (r.key, r.patience) == SHOWN), replays[0])
    show(shown, folder / "panel.svg")
    print(table(results["summary"]))
    return results


def load(limit: int | None = None) -> list[Replay]:
    """All runs of the suite that have a forecast, with each patience."""
    replays = []
    for path in sorted((SUITE / "forecasts" / "ours").glob("*.json"))[:limit]:
        run = json.loads((SUITE / "runs" / path.name).read_text())
        forecast = to_forecast(json.loads(path.read_text()))
        curves, budget = to_trajectory(run["trajectory"]), run["case"]["max_steps"]
        task, schedule = run["task"], rates(run["case"]["schedule"], budget)
        every, samples = max(budget // EVALUATIONS, 1), task["validation"]
        first = (path.stem, task["split"])
        rest = (every, budget, curves, samples, schedule, forecast)
        replays += [Replay(*first, patience, *rest) for patience in PATIENCES]
    return replays


def rates(name: str, budget: int) -> Callable[[int], float]:
    """The schedules of the suite's `tasks.py`."""
    if name == "cosine":
        return optax.cosine_decay_schedule(1.0, budget)
    if name == "warmup":
        return optax.warmup_cosine_decay_schedule(0.0, 1.0, budget // 10, budget)
    return lambda _: 1.0


def to_forecast(content: dict[str, Any]) -> ntp.Forecast:
    """What the indicator reads of a forecast: its curves and how far its clock may be off."""
    unknown = ("steps", "steps_interval", "seconds", "seconds_interval", "reason", "stability")
    texts = ("network", "data", "plan", "until", "mode", "kernel", "solver")
    return ntp.Forecast(
        **dict.fromkeys((*unknown, "pilot")),
        **dict.fromkeys(texts, ""),
        stopping_times=np.empty(0),
        spectrum=np.empty(0),
        trajectory=to_trajectory(content["trajectory"]),
        validity=Validity.of(Signals(**content["signals"])),
        cost=ntp.CostModel(0.0, (1.0, 1.0, 1.0), 0.0, 1),
        samples=0,
        forecast_seconds={},
        notes=(),
        versions={},
    )


def ask(replay: Replay, noise: float) -> list[dict[str, Any]]:
    """What each method says at each share of the run."""
    methods: dict[str, Callable[[Replay, int], Answer]] = {
        "ours, with forecast": partial(ours, forecast=True),
        "ours": ours,
        "ours, mode": partial(ours, mode=True),
        "ours, extra points": partial(ours, extra=SAMPLES),
        "Luo": partial(luo, noise=noise),
        "patience on the trend": trend_only,
        "maximum": maximum,
    }
    rows = []
    for share in SHARES:
        now = int(share * replay.stop)
        for name, method in methods.items():
            start = time.perf_counter()
            steps, low, high = method(replay, now)
            row = {"key": replay.key, "split": replay.split, "patience": replay.patience}
            row |= {"share": share, "method": name, "now": now, "stop": replay.stop}
            row |= {"max_steps": replay.max_steps, "steps": steps, "low": low, "high": high}
            rows.append(row | {"seconds": time.perf_counter() - start})
    return rows


def ours(
    replay: Replay, now: int, *, forecast: bool = False, mode: bool = False, extra: int = 0
) -> Answer:
    """The indicator, its median or its half-sample mode; extra values on so many samples."""
    indicator = Indicator(
        ntp.EarlyStopping(replay.patience, replay.every),
        replay.max_steps,
        schedule=replay.schedule,
        forecast=replay.forecast if forecast else None,
        validation_samples=replay.samples,
    )
    random, last = np.random.default_rng(0), 0
    spread = np.sqrt(max(1 / max(extra, 1) - 1 / replay.samples, 0))  # see `Watching`
    for step in range(1, now + 1):
        indicator.step = step
        value = float(replay.value(step))
        if step % replay.every == 0:
            indicator.report({"validation_loss": value})
            last = step
        elif extra and ExtraPoints().due(step, last, float(replay.every)):
            value *= 1 + spread * random.normal()
            indicator.report({"validation_loss": value}, min(extra, replay.samples))
            last = step
    estimate = indicator.estimate()
    low, high = estimate.steps_interval or (np.nan, np.nan)
    return estimate.mode if mode else estimate.steps, low, high


def maximum(replay: Replay, now: int) -> Answer:  # noqa: ARG001
    """What tqdm, Keras and the Trainer show: as if nothing stopped the run."""
    return float(replay.max_steps), np.nan, np.nan


def luo(replay: Replay, now: int, *, noise: float) -> Answer:
    """Dong and Luo 2020, as their slides have it: one projected trend, noise from history.

    The maximum before a trend can be fitted. White noise, whose variance goes with the learning
    rate; the half-sample mode of the stops.
    """
    seen, ahead, count = past(replay, now)
    trend = fit(seen)
    if trend is None or not len(ahead):
        return maximum(replay, now)
    random = np.random.default_rng(0)
    rate = np.sqrt([replay.schedule(int(i * replay.every)) for i in ahead])
    scatter = noise * seen[0] * rate * random.normal(size=(FUTURES, len(ahead)))
    stops = KerasCounter(replay.patience).stops(trend(ahead) + scatter, count.repeat(FUTURES))
    steps = np.where(stops > 0, stops * replay.every, replay.max_steps)
    low, high = np.quantile(steps, [0.025, 0.975], method="nearest")
    return half_sample_mode(steps.astype(float)), float(low), float(high)


def trend_only(replay: Replay, now: int) -> Answer:
    """The rule on the projected trend itself."""
    seen, ahead, count = past(replay, now)
    trend = fit(seen)
    if trend is None or not len(ahead):
        return maximum(replay, now)
    stop = int(KerasCounter(replay.patience).stops(trend(ahead)[None], count)[0])
    return float(stop * replay.every if stop else replay.max_steps), np.nan, np.nan


def past(replay: Replay, now: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Values seen, the numbers of the evaluations to come, and where the counter is."""
    counter, done = KerasCounter(replay.patience), now // replay.every
    count = counter.start()
    for value in replay.values[:done]:
        count = counter.update(count, np.array([value]))
    return replay.values[:done], np.arange(done + 1, len(replay.values) + 1), count


def fit(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
    """Least squares of c + a·n^-b, a, b and c at least 0; None for fewer than four values."""
    if len(values) < 4 or not np.isfinite(values).all():
        return None
    n = np.arange(1, len(values) + 1)

    def curve(n: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
        return c + a * n**-b

    start = (max(values[0] - values.min(), 1e-6), 0.5, 0.9 * values.min())
    try:
        found, _ = optimize.curve_fit(curve, n, values, start, bounds=(0, [np.inf, 10, np.inf]))
    except RuntimeError:  # no convergence
        return None
    return lambda ahead: curve(ahead.astype(float), *found)


def history(replays: list[Replay]) -> float:
    """Median over development runs of the scatter about their trend, over their first value."""
    scatter = []
    for replay in replays[:: len(PATIENCES)]:
        trend = fit(replay.values)
        if trend is not None:
            rest = replay.values - trend(np.arange(1, len(replay.values) + 1))
            scatter.append(float(np.std(rest) / replay.values[0]))
    return float(np.median(scatter))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By method and share of the run."""
    out: dict[str, Any] = {}
    for row in rows:
        out.setdefault(row["method"], {}).setdefault(str(row["share"]), []).append(row)
    return {
        method: {share: scores(some) for share, some in shares.items()}
        for method, shares in out.items()
    }


def scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Errors of the remaining steps: over the real ones (median), over the run's length (mean)."""
    steps, stop, now, most, low, high = (
        np.array([row[name] for row in rows], float)
        for name in ("steps", "stop", "now", "max_steps", "low", "high")
    )
    error, told = np.abs(steps - stop), np.isfinite(low)
    early = stop < most
    return {
        "median_relative": float(np.median(error / (stop - now))),
        "mean_of_run": float(np.mean(error / stop)),
        "mean_of_run_early": float(np.mean((error / stop)[early])) if early.any() else np.nan,
        "no_worse_than_maximum": float(np.mean(error <= np.abs(most - stop))),
        "covered": float(np.mean((low <= stop) & (stop <= high))) if told.any() else np.nan,
        "covered_where_told": (
            float(np.mean(((low <= stop) & (stop <= high))[told])) if told.any() else np.nan
        ),
        "cases": len(rows),
        "cases_early": int(early.sum()),
        "seconds_median": float(np.median([row["seconds"] for row in rows])),
    }


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = []
    for split, methods in found.items():
        lines += [f"| {split} | " + " | ".join(f"{share:.0%}" for share in SHARES) + " |"]
        lines += ["|---" * (len(SHARES) + 1) + "|"]
        for method, shares in methods.items():
            cells = [
                f"{row['median_relative']:.0%}, {row['mean_of_run']:.0%}"
                + (
                    ""
                    if np.isnan(row["covered_where_told"])
                    else f", {row['covered_where_told']:.0%}"
                )
                for row in shares.values()
            ]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(found: dict[str, Any], path: Path) -> None:
    """Error and coverage against the share of the run."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(found), figsize=(5 * len(found), 6), squeeze=False)
    for column, (split, methods) in enumerate(found.items()):
        for method, shares in methods.items():
            x = [100 * float(share) for share in shares]
            for axis, name in zip(
                axes[:, column], ("mean_of_run", "covered_where_told"), strict=True
            ):
                axis.plot(x, [100 * row[name] for row in shares.values()], "o-", label=method)
        axes[0, column].set(title=split, ylabel="mean error, % of the run", ylim=(0, None))
        axes[1, column].set(xlabel="% of the run done", ylabel="95 % intervals that hold, %")
        axes[1, column].axhline(95, color="gray", linewidth=0.5)
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def show(replay: Replay, path: Path) -> None:
    """The panel in the middle of a run, at 0.1 s a step and half a second a validation pass."""
    console = Console(record=True, width=84, file=io.StringIO())
    now = [0.0]
    indicator = Indicator(
        ntp.EarlyStopping(replay.patience, replay.every),
        replay.max_steps,
        forecast=replay.forecast,
        batch_size=32,
        price_per_hour=2.5,
        clock=lambda: now[0],
    )
    for i in range(replay.stop // 2 // replay.every):
        now[0] += 0.1 * replay.every
        indicator.advance(replay.every)
        now[0] += 0.5
        indicator.lap("validation")
        indicator.report({"validation_loss": replay.values[i]})
    console.print(panel(indicator.estimate(), indicator.fan(), replay.key))
    console.save_svg(str(path), title="ntkpredict")


if __name__ == "__main__":
    main("--smoke" in sys.argv)
