"""What the README reads off the rows of all targets, beyond the scores of results.json.

    python experiments/suite/reading.py    # from stored runs and forecasts, in seconds

Median errors of ours, with and without a budget, beside those of two baselines: where validity says
poor and where it does not, and without the targets that are met in steps trained for real; and the
intervals of ours. Writes reading.json.
"""

import json
import math
from pathlib import Path
from typing import Any

from forecast import SHARES
from train import rounded

from ntkpredict.record import to_plain, write
from ntkpredict.score import score, summarise
from ntkpredict.suite import Row

HERE = Path(__file__).parent
FORECASTERS = ("ours", *SHARES, "average-run", "cape")


def main(folder: Path = HERE) -> dict[str, Any]:
    """Of each split, by group of targets that are really reached."""
    rows = score(HERE).rows
    asked = {name: {(row.case.key, row.rule): row for row in rows[name]} for name in FORECASTERS}
    found: dict[str, Any] = {}
    for split in ("development", "held-out"):
        reached = [row for row in rows["ours"] if row.case.split == split and is_reached(row)]
        found[split] = {}
        for group, chosen in groups(reached).items():
            keys = [(row.case.key, row.rule) for row in chosen]
            told = {
                name: summarise([answers[key] for key in keys]) for name, answers in asked.items()
            }
            found[split][group] = {
                "targets": len(keys),
                "median_error": {name: each.error_median for name, each in told.items()},
                "coverage": told["ours"].coverage,
                "width": told["ours"].width,
            }
    found = rounded(to_plain(found))
    write(folder / "reading.json", found)
    print(json.dumps(found, indent=1))
    return found


def is_reached(row: Row) -> bool:
    """By a run that does not diverge."""
    return not row.case.diverged and math.isfinite(row.real)


def groups(rows: list[Row]) -> dict[str, list[Row]]:
    """By what validity says, and by whether targets are met in steps trained for real."""
    later = after("ours", rows)
    return {
        "all": rows,
        "poor": [row for row in rows if row.answers and not row.answers.trusted],
        "not poor": [row for row in rows if row.answers and row.answers.trusted],
        "met in first steps": [row for row in rows if row not in later],
        "met later": later,
        **{
            f"met later, {distance}": [row for row in later if row.case.distance == distance]
            for distance in ("near", "medium", "far")
        },
        **{f"met after {pilot}": after(pilot, rows) for pilot in SHARES},
    }


def after(forecaster: str, rows: list[Row]) -> list[Row]:
    """Targets that are met after the steps that it trains for real, of runs that it forecasts."""
    folder = HERE / "forecasts" / forecaster
    paths = {key: folder / f"{key}.json" for key in {row.case.key for row in rows}}
    known = {key: known_steps(path) for key, path in paths.items()}
    return [row for row in rows if row.real > known[row.case.key]]


def known_steps(path: Path) -> float:
    """How many steps a forecast has trained for real; more than any run where there is none."""
    if not path.exists():
        return math.inf
    return int(json.loads(path.read_text(encoding="utf-8"))["trajectory"]["known"])


if __name__ == "__main__":
    main()
