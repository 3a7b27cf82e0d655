"""Forecasters held against the real runs of a suite."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ntkpredict.record import to_plain, write
from ntkpredict.suite import KINDS, Row, read_suite

TOLERANCE = 0.15
GROUPINGS = (
    ("split",),
    ("split", "distance"),
    ("split", "optimizer"),
    ("split", "size"),
    ("split", "kind"),
    ("split", "network", "distance"),
)
_ORDER = ("near", "medium", "far", *KINDS.values())


@dataclass(frozen=True)
class Summary:
    """How good the answers of a forecaster are; None where there is nothing to tell it from.

    Runs that diverged are counted apart. Errors are |predicted / real - 1| over the targets that
    are really reached, infinite where the forecast says that they are not.

    Attributes:
        runs: that did not diverge.
        targets: of these runs, answered.
        missing: of these runs, not answered.
        reached: share of the targets that is really reached.
        missed: share of the reached ones that the forecast says is not.
        invented: share of the ones not reached that the forecast says is.
        error_median: of the reached ones.
        error_95: of the reached ones, 95th percentile.
        bias: median of log(predicted / real), below 0 where forecasts are too fast.
        within_15: share of errors up to 15 %.
        intervals: share of the reached ones with an interval.
        coverage: share of these intervals that hold the real steps.
        width: median of their upper over their lower ends.
        flagged: share of the reached ones, where forecasts tell, with one that is not trusted.
        error_flagged: median error of those.
        error_unflagged: median error of those with a forecast that is trusted.
        speedup_seconds: median of seconds of training over seconds of forecasting.
        speedup_passes: the same in forward passes.
        cost_in_steps: median of the steps of the run that cost as many forward passes as the
            forecast, however long the run is.
        diverged: runs that did, of those with a forecast.
        diverged_told: share of these of which the forecast says so, or that no loss is reached.
    """

    runs: int
    targets: int
    missing: int
    reached: float | None
    missed: float | None
    invented: float | None
    error_median: float | None
    error_95: float | None
    bias: float | None
    within_15: float | None
    intervals: float | None
    coverage: float | None
    width: float | None
    flagged: float | None
    error_flagged: float | None
    error_unflagged: float | None
    speedup_seconds: float | None
    speedup_passes: float | None
    cost_in_steps: float | None
    diverged: int
    diverged_told: float | None


@dataclass(frozen=True)
class Scores:
    """Every forecaster against every run.

    Attributes:
        rows: one a target that applies, by forecaster.
    """

    rows: dict[str, list[Row]]

    def summaries(self, forecaster: str, by: tuple[str, ...]) -> dict[tuple[str, ...], Summary]:
        """By groups of runs and targets.

        Args:
            forecaster: its name.
            by: any of split, distance, network, optimizer, size and kind.
        """
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in self.rows[forecaster]:
            groups.setdefault(row.group(by), []).append(row)
        return {key: summarise(groups[key]) for key in sorted(groups, key=_place)}

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; what is infinite becomes None."""
        scores = [
            {"forecaster": name, "group": dict(zip(by, group, strict=True)), **vars(summary)}
            for name in self.rows
            for by in GROUPINGS
            for group, summary in self.summaries(name, by).items()
        ]
        return to_plain({"scores": scores})

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        write(path, self.to_dict())


def score(folder: str | Path) -> Scores:
    """Hold the forecasts in a suite's folder against its real runs, see `read_suite`."""
    return Scores(read_suite(folder))


def summarise(rows: list[Row]) -> Summary:
    """One group of targets."""
    runs = {row.case.key: row for row in rows}.values()
    steady = [row for row in runs if not row.case.diverged]
    diverged = [row.answers for row in runs if row.case.diverged and row.answers is not None]
    known = [row for row in rows if not row.case.diverged and row.predicted is not None]
    reached = [row for row in known if math.isfinite(row.real)]
    errors = [_error(row) for row in reached]
    intervals = [(row.interval, row.real) for row in reached if row.interval is not None]
    trust = [row.answers.trusted for row in reached if row.answers is not None]
    asked = sum(not row.case.diverged for row in rows)
    return Summary(
        runs=len(steady),
        targets=len(known),
        missing=asked - len(known),
        reached=_share(math.isfinite(row.real) for row in known),
        missed=_share(row.predicted == math.inf for row in reached),
        invented=_share(row.predicted != math.inf for row in known if row.real == math.inf),
        error_median=_median(errors),
        error_95=float(np.quantile(errors, 0.95, method="higher")) if errors else None,
        bias=_median(_log_ratio(row) for row in reached),
        within_15=_share(error <= TOLERANCE for error in errors),
        intervals=_share(row.interval is not None for row in reached),
        coverage=_share(low <= real <= _end(high) for (low, high), real in intervals),
        width=_median(_ratio(_end(high), low) for (low, high), _ in intervals),
        flagged=_share(trusted is False for trusted in trust if trusted is not None),
        error_flagged=_median(e for e, t in zip(errors, trust, strict=True) if t is False),
        error_unflagged=_median(e for e, t in zip(errors, trust, strict=True) if t is True),
        speedup_seconds=_median(
            _ratio(row.case.seconds, row.answers.seconds) for row in steady if row.answers
        ),
        speedup_passes=_median(
            _ratio(row.case.forward_passes, row.answers.forward_passes)
            for row in steady
            if row.answers
        ),
        cost_in_steps=_median(
            row.answers.forward_passes / row.case.forward_passes * row.case.trained_steps
            for row in steady
            if row.answers
        ),
        diverged=len(diverged),
        diverged_told=_share(answers.diverges for answers in diverged),
    )


def _error(row: Row) -> float:
    return math.inf if row.predicted is None else abs(row.predicted / row.real - 1)


def _log_ratio(row: Row) -> float:
    return math.log(row.predicted / row.real) if row.predicted else -math.inf


def _ratio(value: float, other: float) -> float:
    return value / other if other > 0 else math.inf


def _end(high: float | None) -> float:
    return math.inf if high is None else high


def _share(values: Iterable[bool]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


def _place(group: tuple[str, ...]) -> tuple[tuple[int, str], ...]:
    return tuple((_ORDER.index(name) if name in _ORDER else -1, name) for name in group)
