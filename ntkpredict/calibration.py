"""Intervals from what forecasts were off by: those shipped, and the user's own.

The errors of forecasts of one user are exchangeable, whatever their distribution: the next one lies
below the k-th smallest of n with probability k/(n + 1). So a quantile at level p with p(n + 1) ≥ 1
is the user's own one, split conformal prediction (Vovk, Gammerman and Shafer 2005,
doi:10.1007/b106715; as a predictive distribution Vovk et al. 2019, doi:10.1007/s10994-018-5755-8).
Further out the user's runs do not tell: there the quantile is the outer one of the user's most
extreme error and what is shipped. The 95 % interval is the user's own from 39 runs on, and holds
the next run with probability at least (n - 1)/(n + 1) before.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from ntkpredict.cost import CostModel
from ntkpredict.history import History, Record
from ntkpredict.validity import Signals, Validity, scale

FEWEST = 8
"""Runs of the user's own below which only the shipped errors count."""

LATEST = 400
"""Records of a history that are looked at."""

FEWEST_STEPS = 50
"""Of a run that tells what a step costs."""

FAR = float(np.log(100.0))
"""ln(real / predicted) of a run that did not get there within its budget."""


@dataclass(frozen=True)
class Pair:
    """A forecast and the real run that it was of.

    Attributes:
        signals: of the forecast.
        log_ratio: ln(real / simulated) steps.
        cost_ratio: seconds of a step of the run over those of a batch timed before it; None where
            it is too short to tell.
    """

    signals: Signals
    log_ratio: float
    cost_ratio: float | None = None


@dataclass(frozen=True)
class Calibration:
    """What to expect of a forecast's errors.

    Attributes:
        pairs: the user's own; without any, what is shipped.
    """

    pairs: tuple[Pair, ...] = ()

    @classmethod
    def of(cls, history: History | None) -> Calibration:
        """From the latest records of a history, if there is one.

        A history that cannot be read is a warning: forecasts are worth more.
        """
        if history is None:
            return cls()
        try:
            return cls(pairs(history.records(latest=LATEST)))
        except OSError as error:
            warnings.warn(f"not calibrated on own runs: {error}", stacklevel=2)
            return cls()

    def validity(self, signals: Signals) -> Validity:
        """How far to trust a forecast with these signals."""
        shipped = Validity.of(signals)
        own = np.sort([p.log_ratio / scale(p.signals) for p in self._like(signals)])
        if len(own) < FEWEST:
            return shipped
        unit = scale(signals)
        shift = float(np.median(own)) * unit
        clock = conformal(own, shipped.clock / unit) * unit
        return replace(Validity.told(signals, clock, shift), own_runs=len(own))

    def cost(self, measured: CostModel) -> CostModel:
        """What a step will cost, from what a timed batch does: 5 %, median and 95 % of own runs."""
        ratios = [pair.cost_ratio for pair in self.pairs if pair.cost_ratio is not None]
        if len(ratios) < FEWEST:
            return measured
        low, middle, high = np.quantile(ratios, [0.05, 0.5, 0.95])
        timed = measured.batch_seconds[1]
        seconds = (float(low * timed), float(middle * timed), float(high * timed))
        return replace(measured, batch_seconds=seconds, own_ratio=float(middle))

    def _like(self, signals: Signals) -> list[Pair]:
        return [pair for pair in self.pairs if pair.signals.calibration == signals.calibration]


SHIPPED = Calibration()


def conformal(
    own: Float[np.ndarray, " runs"], shipped: Float[np.ndarray, " outcomes"]
) -> Float[np.ndarray, " outcomes"]:
    """Quantiles of the next error at the levels 0, 1/40, … 1.

    Args:
        own: errors so far, increasing.
        shipped: quantiles at these levels of what is shipped.
    """
    levels = np.linspace(0, 1, len(shipped))
    rank = np.round(levels * (len(own) + 1), 9)
    last = len(own) - 1
    low = own[np.clip(np.floor(rank).astype(int) - 1, 0, last)]
    high = own[np.clip(np.ceil(rank).astype(int) - 1, 0, last)]
    low = np.where(rank >= 1, low, np.minimum(low, shipped))
    high = np.where(rank <= len(own), high, np.maximum(high, shipped))
    return np.where(levels < 0.5, low, np.where(levels > 0.5, high, (low + high) / 2))


def pairs(records: list[Record]) -> tuple[Pair, ...]:
    """The latest real run of each task, with the latest forecast made of it before.

    A run that goes on without an answer in its forecast tells nothing of its clock, nor does one
    that was answered by steps trained for real; records of another version are passed over.
    """
    forecasts: dict[tuple[str, ...], Record] = {}
    found: dict[tuple[str, ...], Pair] = {}
    for record in records:
        task = record.task
        key = (task.network_fingerprint, task.data_fingerprint, task.plan, task.until)
        if record.kind == "forecast":
            forecasts[key] = record
        elif key in forecasts and task.until:
            with suppress(KeyError, TypeError, ValueError):
                pair = _pair(forecasts[key].result, record.result)
                if pair is not None:
                    found[key] = pair
    return tuple(found.values())


def _pair(forecast: dict[str, Any], run: dict[str, Any]) -> Pair | None:
    if not forecast["steps"] or forecast["steps"] <= forecast["trajectory"]["known"]:
        return None
    told, real = forecast["validity"], run["steps"]
    ratio = FAR if real is None else float(np.log(max(real, 1e-9) / forecast["steps"]))
    cost = forecast["cost"]
    timed = cost["batch_seconds"][1] / cost.get("own_ratio", 1.0)
    steps = run["trained_steps"]
    return Pair(
        signals=Signals(**told["signals"]),
        log_ratio=ratio + told.get("shift", 0.0),
        cost_ratio=run["seconds"] / steps / timed if steps >= FEWEST_STEPS else None,
    )
