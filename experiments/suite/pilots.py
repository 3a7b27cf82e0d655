"""The default forecast, its clock set by the first steps of the real run.

They are a share of the run's budget, so that all targets of a run have one pilot, as the power
laws do. Reads stored runs and forecasts alone and writes one file a run.
"""

import json
from pathlib import Path

import numpy as np
from forecast import answers
from train import rounded

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
    pilot = Pilot.of(np.array(run["batch_loss"][:steps], float), expected)
    curves = pilot.corrected(expected)
    signals = Signals(**ours["signals"] | {"piloted": True})
    content = {
        "forecaster": name,
        **answers(curves, signals, targets(case["max_steps"])),
        "seconds": ours["seconds"] + steps * run["seconds"] / run["trained_steps"],
        "forward_passes": ours["forward_passes"] + 3.0 * case["batch_size"] * steps,
        "trajectory": curves,
    }
    write(folder / "forecasts" / name / path.name, rounded(to_plain(content)))
