"""What a page says: a result as JSON holds it, and what follows from it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ntkpredict.forecast import Forecast
from ntkpredict.milestones import milestones
from ntkpredict.ranking import Ranking
from ntkpredict.record import to_plain
from ntkpredict.validate import Validation


def content(result: Forecast | Validation | Ranking) -> dict[str, Any]:
    """All numbers of a page, as JSON holds them.

    Returns:
        ``kind``, ``"forecast"``, ``"validation"`` or ``"ranking"``; ``result``, as its `save`
        writes it; and ``derived``, what follows from it.
    """
    if isinstance(result, Ranking):
        kind, derived = "ranking", _of_ranking(result)
    elif isinstance(result, Validation):
        kind, derived = "validation", _of_forecast(result.forecast)
    else:
        kind, derived = "forecast", _of_forecast(result)
    return {"kind": kind, "result": result.to_dict(), "derived": to_plain(derived)}


def _of_forecast(forecast: Forecast) -> dict[str, Any]:
    spectrum = np.maximum(forecast.spectrum, 0)
    held = np.cumsum(spectrum) / max(spectrum.sum(), np.finfo(float).tiny)
    return {
        "spent": sum(forecast.forecast_seconds.values()),
        "milestones": milestones(forecast),
        "margin": None if forecast.stability is None else forecast.stability.margin,
        "modes": int(np.searchsorted(held, 0.95)) + 1,
        "at_stop": None if forecast.steps is None else _at(forecast, forecast.steps),
    }


def _at(forecast: Forecast, steps: float) -> dict[str, float]:
    """The metrics to expect at a step."""
    median = forecast.trajectory.quantile(0.5)
    splits = ["train"] if median.validation is None else ["train", "validation"]
    return {
        f"{split}_{metric}": float(
            np.interp(steps, median.steps, getattr(median.curve(split), metric)[0])
        )
        for split in splits
        for metric in ("loss", "accuracy")
    }


def _of_ranking(ranking: Ranking) -> dict[str, Any]:
    candidates = ranking.candidates
    return {
        "spent": sum(ranking.forecast_seconds.values()),
        "reached": ranking.best is not None,
        "ranks": list(range(1, len(candidates) + 1)),
        "margins": [c.stability and c.stability.margin for c in candidates],
        "final_losses": [c.final_loss for c in candidates],
        "priced": any(candidate.price is not None for candidate in candidates),
        "machines": len({candidate.machine for candidate in candidates}),
    }
