"""What the README reads off the rows of all targets, beyond the scores of results.json.

    python experiments/suite/reading.py    # from stored runs and forecasts, in seconds

Errors of ours, with and without a budget, beside those of two baselines: where validity says poor
and where it does not, and without the targets that are met in steps trained for real, by distance,
optimizer and network. Writes reading.json.
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
READ = ("error_median", "within_15", "missed", "coverage", "width")
PARTS = (("distance",), ("optimizer",), ("optimizer", "network"))

Answered = dict[str, Row]
"""What each forecaster said of one target."""


def main(folder: Path = HERE) -> dict[str, Any]:
    """Of each split, by group of targets that are really reached and forecast by all."""
    told = score(HERE).rows
    every = [dict(zip(told, rows, strict=True)) for rows in zip(*told.values(), strict=True)]
    found: dict[str, Any] = {}
    for split in ("development", "held-out"):
        chosen = [each for each in every if is_asked(each["ours"], split)]
        found[split] = {
            group: {"targets": len(part), **{name: read(part, name) for name in FORECASTERS}}
            for group, part in groups(chosen).items()
        }
    found = rounded(to_plain(found))
    write(folder / "reading.json", found)
    print(json.dumps(found, indent=1))
    return found


def is_asked(row: Row, split: str) -> bool:
    """A target of the split, really reached, by a run that does not diverge."""
    return row.case.split == split and not row.case.diverged and math.isfinite(row.real)


def read(targets: list[Answered], forecaster: str) -> dict[str, Any]:
    """What is read of a forecaster's summary."""
    summary = summarise([each[forecaster] for each in targets])
    return {name: getattr(summary, name) for name in READ}


def groups(targets: list[Answered]) -> dict[str, list[Answered]]:
    """By what validity says, and by whether targets are met in steps trained for real."""
    found = {
        "all": targets,
        "poor": [each for each in targets if not each["ours"].answers.trusted],
        "not poor": [each for each in targets if each["ours"].answers.trusted],
        "met in first steps": [each for each in targets if not is_later(each["ours"])],
    }
    for name in ("ours", *SHARES):
        later = [each for each in targets if is_later(each[name])]
        group = "met later" if name == "ours" else f"met after {name}"
        found[group] = later
        for by in PARTS:
            for each in later:
                part = ", ".join((group, *each["ours"].group(by)))
                found.setdefault(part, []).append(each)
    return found


def is_later(row: Row) -> bool:
    """Whether a target is met after the steps that the forecaster trains for real, if it tells."""
    return row.answers is not None and row.real > row.answers.known


if __name__ == "__main__":
    main()
