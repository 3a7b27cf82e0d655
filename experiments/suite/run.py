"""How good are forecasts on runs that nobody tuned for?

    python experiments/suite/run.py [--smoke]

Trains, forecasts and scores what is not there yet, then writes results.json, the figures and the
READMEs' tables. Every run and every forecast is a file of its own, so it may be stopped and started
again at any time.
"""

import sys
from pathlib import Path
from typing import Any

import baselines
import figures
import forecast
import jax
import smaller
import table
import train
from rich.console import Console
from tasks import CASES, SMOKE

from ntkpredict.display import show
from ntkpredict.score import score

HERE = Path(__file__).parent
OURS = ("ours", *forecast.SHARES)
"""The default, and what a budget buys."""


def main(smoke: bool, folder: Path = HERE) -> dict[str, Any]:
    """Train, forecast, score."""
    cases = SMOKE if smoke else CASES
    train.main(folder, cases)
    forecast.main(folder, cases)
    smaller.main(folder, cases)
    baselines.main(folder, {path.stem for path in (folder / "forecasts" / "ours").iterdir()})
    scores = score(folder)
    scores.save(folder / "results.json")
    figures.draw(scores, folder, OURS)
    if folder == HERE:
        table.main()
    show(Console(), scores)
    return scores.to_dict()


if __name__ == "__main__":
    jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "ntkpredict-jax"))
    main(smoke="--smoke" in sys.argv)
