"""The tables of the README here and of the project's, from stored runs and forecasts.

python experiments/suite/table.py    # writes them into both
"""

import math
from pathlib import Path

from baselines import BASELINES
from forecast import SHARES

from ntkpredict.score import Scores, score, summarise
from ntkpredict.suite import Row

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]

FORECASTERS = ("ours", *SHARES, "frozen", "ntk", "ntk-elr-sde", *BASELINES, "smaller-batch")
DISTANCES = ("near", "medium", "far")
NETWORKS = {
    "resnet56": "ResNet-56",
    "resnet50v2": "ResNet-50 v2",
    "resnet20": "ResNet-20",
    "mcunet": "MCUNet",
    "squeezenet1.1": "SqueezeNet",
}
"""Held-out ones with runs that do not diverge."""


def main() -> None:
    """Write both."""
    scores = score(HERE)
    for folder, lines in ((HERE, of_forecasters(scores)), (PROJECT, of_kernels(scores))):
        readme = folder / "README.md"
        text = with_table(readme.read_text(encoding="utf-8"), lines)
        readme.write_text(text, encoding="utf-8")


def with_table(text: str, lines: list[str]) -> str:
    """The text, its table with the same header replaced."""
    before, table = text.split(lines[0], 1)
    after = table.split("\n\n", 1)[1]
    return before + "\n".join(lines) + "\n\n" + after


def of_forecasters(scores: Scores) -> list[str]:
    """Every forecaster by split, and ours by held-out network."""
    lines = [
        "| forecaster, split | runs | near: median error, within 15 %, missed | medium | far "
        "| 95 % intervals that hold: near, medium, far |",
        "|---|---|---|---|---|---|",
    ]
    for split in ("development", "held-out"):
        for name in FORECASTERS:
            rows = [row for row in scores.rows[name] if row.case.split == split]
            title = f"**`ours`, {split.replace('-', ' ')}**" if name == "ours" else f"`{name}`"
            if any(row.answers for row in rows):
                lines.append(of_distances(title, rows))
    for network, name in NETWORKS.items():
        lines.append(of_distances(f"`ours`, {name}", held_out(scores, "ours", network)))
    return lines


def of_distances(title: str, rows: list[Row]) -> str:
    """A line of the table of forecasters."""
    told, intervals = [], []
    for distance in DISTANCES:
        found = summarise([row for row in rows if row.case.distance == distance])
        shares = (found.error_median, found.within_15, found.missed)
        told.append("-" if found.error_median is None else ", ".join(map(percent, shares)))
        intervals.append(percent(found.coverage))
    runs = len({row.case.key for row in rows if row.answers is not None})
    return f"| {title} | {runs} | {' | '.join(told)} | {', '.join(intervals)} |"


def of_kernels(scores: Scores) -> list[str]:
    """A kernel that grows beside one that is frozen."""
    lines = [
        "| | | near the pretraining data | at some distance | far |",
        "|---|---|---|---|---|",
    ]
    for network, name in {"": "development", **NETWORKS}.items():
        for kernel, forecaster in {"growing": "ours", "frozen": "frozen"}.items():
            rows = held_out(scores, forecaster, network)
            if not network:
                rows = [row for row in scores.rows[forecaster] if row.case.split == "development"]
            runs = len({row.case.key for row in rows})
            title = f"{'held out, ' if network else ''}{name}, {runs} runs"
            told = [f" {title} " if kernel == "growing" else " ", f" {kernel} kernel "]
            for distance in DISTANCES:
                found = summarise([row for row in rows if row.case.distance == distance])
                missed = f"{percent(found.error_median)}, {percent(found.missed)}"
                told.append(f" {missed} " if found.error_median is not None else " ")
            lines.append(f"|{'|'.join(told)}|")
    return lines


def held_out(scores: Scores, forecaster: str, network: str) -> list[Row]:
    """The rows of a held-out network."""
    rows = scores.rows[forecaster]
    return [row for row in rows if row.case.split == "held-out" and row.case.network == network]


def percent(share: float | None) -> str:
    """As it is read."""
    if share is None:
        return "-"
    return "∞" if math.isinf(share) else f"{100 * share:.0f} %"


if __name__ == "__main__":
    main()
