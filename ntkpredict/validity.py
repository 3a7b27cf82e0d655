"""How far a forecast can be trusted, from what it knows of itself.

What forecasts of the development runs of `experiments/suite` were off by grows with a few signals
that are there before training. Their fit (`experiments/suite/calibrate.py`, shipped as
`calibration.json`) scales the errors that were seen there to this forecast: a conformal interval
with normalised scores (Lei et al. 2018, doi:10.1080/01621459.2017.1307116).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from sde import Trajectory

Word = Literal["good", "fair", "poor"]
Kernel = Literal["frozen", "growing"]

GOOD, FAIR = 0.1, 0.25
"""The largest errors to expect, of steps, that are called so."""

MOST = 2.0
TENTH = 0.1

LOOSE = 50.0
"""A learning rate that could grow so many times is far from the edge of stability."""


@dataclass(frozen=True)
class Signals:
    """What a forecast knows of itself.

    Attributes:
        kernel: frozen, or growing with its features.
        coordinate_wise: whether the optimizer is Adam or one of its kind.
        difference: |ln| of the losses that the frozen and the growing kernel expect, over each
            other, the largest until a tenth of the initial one is left, up to `MOST`: what rests on
            the growth. 0 for a frozen kernel.
        margin: how many times the learning rate could grow; None where no rule is known.
        start: the initial training loss over that of outputs that are all zero. Far above 1, a
            fresh head reads features that are not normalised.
        piloted: whether it goes on from steps that a budget has trained.
    """

    kernel: Kernel
    coordinate_wise: bool
    difference: float
    margin: float | None
    start: float = 1.0
    piloted: bool = False

    @property
    def calibration(self) -> str:
        """Which forecasts of the development runs this one is like."""
        return "piloted" if self.piloted and self.kernel == "growing" else self.kernel

    @property
    def regressors(self) -> Float[np.ndarray, " regressors"]:
        """Of ln spread: 1, is it Adam, the difference, how near the edge, the start."""
        near = 0.0 if self.margin is None else np.log(LOOSE / max(self.margin, 1e-3))
        start = np.log(np.clip(self.start, 1, 10))
        return np.array([1.0, self.coordinate_wise, self.difference, np.clip(near, 0, 4), start])


@dataclass(frozen=True)
class Validity:
    """What to expect of a forecast's steps.

    Attributes:
        word: ``"good"`` where the error to expect is up to 10 %, ``"fair"`` up to 25 %, else
            ``"poor"``.
        error: half of such forecasts were closer, as a share of the real steps.
        clock: ln(real / simulated) steps of such forecasts, equally likely each.
        signals: what it is told from.
        shift: ln of the factor by which the point forecast is later than the simulated curves, as
            the user's own runs were; 0 without them.
        own_runs: how many of the user's own runs `clock` is told from; 0 where it is shipped.
    """

    word: Word
    error: float
    clock: Float[np.ndarray, " outcomes"]
    signals: Signals
    shift: float = 0.0
    own_runs: int = 0

    @classmethod
    def of(cls, signals: Signals) -> Validity:
        """From the errors of the development runs."""
        outcomes = np.array(_calibration()[signals.calibration]["outcomes"])
        return cls.told(signals, scale(signals) * outcomes)

    @classmethod
    def told(
        cls, signals: Signals, clock: Float[np.ndarray, " outcomes"], shift: float = 0.0
    ) -> Validity:
        """From ln(real / simulated) steps of such forecasts, whose points are moved by a shift."""
        error = float(np.median(np.abs(np.expm1(shift - clock))))
        word: Word = "good" if error <= GOOD else "fair" if error <= FAIR else "poor"
        return cls(word, error, clock, signals, shift)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Validity:
        """From what JSON holds of it."""
        clock, signals = np.array(content["clock"], float), Signals(**content["signals"])
        return cls(**{**content, "clock": clock, "signals": signals})


def scale(signals: Signals) -> float:
    """Of ln(real / predicted) steps, by the errors of the development runs."""
    return spread(signals, _calibration()[signals.calibration]["weights"])


def spread(signals: Signals, weights: Any) -> float:
    """Of ln(real / predicted) steps."""
    return float(np.exp(signals.regressors @ np.asarray(weights)))


def difference(frozen: Trajectory, growing: Trajectory) -> float:
    """See `Signals`."""
    still, moving = (np.median(curves.train.loss, axis=0) for curves in (frozen, growing))
    if not (np.isfinite(still).all() and np.isfinite(moving).all()):
        return MOST
    until = moving > TENTH * moving[0]
    tiny = np.finfo(float).tiny
    ratio = np.log(np.fmax(still[until], tiny)) - np.log(np.fmax(moving[until], tiny))
    return float(min(np.abs(ratio).max(initial=0), MOST))


@lru_cache
def _calibration() -> Any:
    path = resources.files("ntkpredict").joinpath("calibration.json")
    return json.loads(path.read_text(encoding="utf-8"))
