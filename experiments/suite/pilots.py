"""The default forecast after the first steps of the real run.

They are a share of the run's budget, so that all targets of a run have one pilot, as the power
laws do. Reads stored runs and forecasts alone and writes one file a run.
"""

import json
from pathlib import Path

import numpy as np
from forecast import answers
from train import SAMPLES, rounded

from ntkpredict.pilot import Pilot
from ntkpredict.record import to_plain, to_trajectory, write
from ntkpredict.suite import targets
from ntkpredict.validity import Signals

SHARES = {f"ours-pilot-{share:g}": share / 100 for share in (1, 5, 10, 20)}
"""Forecasters, by the share of the budget that is trained."""


def main(folder: Path) -> None:
    """For every run with a forecast of ours."""
    for path in sorted((folder / "forecasts" / "ours").glob("*.json")):
        for name, share in SHARES.items():
            (folder / "forecasts" / name).mkdir(exist_ok=True)
            piloted(folder, path, name, share)


def piloted(folder: Path, path: Path, name: str, share: float) -> None:
    """One forecast, corrected and written."""
    ours = json.loads(path.read_text(encoding="utf-8"))
    run = json.loads((folder / "runs" / path.name).read_text(encoding="utf-8"))
    case, expected = run["case"], to_trajectory(ours["trajectory"])
    steps = int(np.ceil(share * case["max_steps"]))
    content = ours | {"forecaster": name}
    if steps > expected.known:
        curves = to_trajectory(run["trajectory"])
        seen = int(np.searchsorted(curves.steps, steps, side="right"))
        trajectory = Pilot.of(curves.first(seen), expected).corrected(expected)
        signals = Signals(**ours["signals"] | {"piloted": True})
        trained = 3.0 * case["batch_size"]
        evaluated = sum(min(SAMPLES, run["task"][split]) for split in ("samples", "validation"))
        passes = trained * steps + evaluated * seen
        second = trained * run["trained_steps"] / run["seconds"]
        content |= {
            **answers(trajectory, signals, targets(case["max_steps"])),
            "seconds": ours["seconds"] + passes / second,
            "forward_passes": ours["forward_passes"] + passes,
            "trajectory": trajectory,
        }
    write(folder / "forecasts" / name / path.name, rounded(to_plain(content)))
