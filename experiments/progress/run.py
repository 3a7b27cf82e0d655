"""How good is the remaining time that the indicator shows, while a run goes on?

    python experiments/progress/run.py [--smoke]

The recorded validation losses of the suite's runs are played back under early stopping, and every
method is asked now and then what remains. Steps are counted, as all cost the same. With --smoke
there are two runs only, and the results go to a temporary folder.
"""

import io
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import tables
from methods import Method, ask, composer, history, lc_pfn, luo, maximum, ours, trend_only
from recorded import Replay, halfway, load, shown
from regret import INDICATOR, regrets
from rich.console import Console

from ntkpredict.progress.panel import panel
from ntkpredict.record import to_plain, write

HERE = Path(__file__).parent
SHARES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75)
SAMPLES = 64
"""Of an extra validation point, whatever it costs."""


def main(smoke: bool, folder: Path = HERE) -> dict[str, Any]:
    """Replay, then write results.json, the figures and the README's tables."""
    replays = load(limit=2 if smoke else None)
    noise = history([r for r in replays if r.split == "development"])
    asked = methods(noise)
    rows = [
        row | {"share": share}
        for replay in replays
        for share in SHARES
        for row in ask(replay, int(share * replay.stop), asked)
    ]
    results = {
        "noise of Luo's method": noise,
        "runs": len({replay.key for replay in replays}),
        "stopped early": sum(replay.stop < replay.max_steps for replay in replays),
        "cases": len(replays),
        "summary": {
            split: summary([row for row in rows if row["split"] == split])
            for split in dict.fromkeys(replay.split for replay in replays)
        },
        "against the maximum": regrets(replays, rows),
    }
    write(folder / "results.json", to_plain(results))
    draw(results["summary"], folder / "figure.png")
    show(shown(replays), folder / "panel.svg")
    if folder == HERE:
        tables.main()
    return results


def methods(noise: float) -> dict[str, Method]:
    """By name."""
    return {
        **INDICATOR,
        "ours, mode": partial(ours, mode=True),
        "ours, extra points": partial(ours, extra=SAMPLES),
        "Luo": partial(luo, noise=noise),
        "patience on the trend": trend_only,
        "LC-PFN's curves": lc_pfn,
        "maximum": maximum,
        "Composer": composer,
    }


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
    likely = np.array([row["at_maximum"] for row in rows])
    known = np.isfinite(likely)
    return {
        "median_relative": float(np.median(error / (stop - now))),
        "mean_of_run": float(np.mean(error / stop)),
        "mean_of_run_early": float(np.mean((error / stop)[early])) if early.any() else np.nan,
        "no_worse_than_maximum": float(np.mean(error <= np.abs(most - stop))),
        "covered": float(np.mean((low <= stop) & (stop <= high))) if told.any() else np.nan,
        "covered_where_told": (
            float(np.mean(((low <= stop) & (stop <= high))[told])) if told.any() else np.nan
        ),
        "at_maximum_told": float(likely[known].mean()) if known.any() else np.nan,
        "at_maximum_real": float(1 - early[known].mean()) if known.any() else np.nan,
        "at_maximum_brier": (
            float(np.mean((likely + early - 1)[known] ** 2)) if known.any() else np.nan
        ),
        "cases": len(rows),
        "cases_early": int(early.sum()),
        "seconds_median": float(np.median([row["seconds"] for row in rows])),
    }


def draw(found: dict[str, Any], path: Path) -> None:
    """Error and coverage against the share of the run."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    size = (5 * len(found), 6.5)
    figure, axes = plt.subplots(2, len(found), figsize=size, squeeze=False, layout="constrained")
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
    lines = axes[0, 0].get_lines()
    figure.legend(handles=lines, loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def show(replay: Replay, path: Path) -> None:
    """The panel in the middle of a run."""
    console = Console(record=True, width=84, file=io.StringIO())
    progress = halfway(replay)
    console.print(panel(progress.estimate(), progress.indicator.fan(), replay.key))
    console.save_svg(str(path), title="ntkpredict")


if __name__ == "__main__":
    if "--smoke" in sys.argv:
        main(smoke=True, folder=Path(tempfile.mkdtemp()))
    else:
        main(smoke=False)
