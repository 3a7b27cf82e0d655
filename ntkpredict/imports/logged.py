"""What a training loop of another program logged of one run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ntkpredict.record import to_plain
from sde import Curve, Trajectory

Unit = Literal["steps", "epochs"]
Point = tuple[int, float]
Kept = tuple[str, str]

_SPLITS = {
    "train": re.compile(r"(?:train|training)[_/](.+?)(?:_epoch)?"),
    "validation": re.compile(r"(?:val|valid|validation|eval)[_/](.+?)(?:_epoch)?"),
}
_LOSS = re.compile("loss")
_ACCURACY = re.compile("((sparse_)?categorical_|binary_)?acc(uracy)?")
_RATE = re.compile("(train/)?(learning_rate|lr)|lr-.+")


class UnknownLogError(ValueError):
    """Nothing that is known, or nothing in it."""


@dataclass(frozen=True)
class Logged:
    """One run.

    Attributes:
        values: by metric as the program names it: pairs of steps done and the value then.
        unit: what the steps are.
        steps: how many were done.
        seconds: from start to end; None where that was not logged.
        batch_size: samples per step; None likewise.
    """

    values: Mapping[str, list[Point]]
    unit: Unit = "steps"
    steps: int = 0
    seconds: float | None = None
    batch_size: int | None = None

    def in_steps(self, steps_per_epoch: int | None) -> Logged:
        """The same, counted in steps where it was in epochs and their length is given."""
        if steps_per_epoch is None or self.unit == "steps":
            return self
        n = steps_per_epoch
        values = {
            name: [(step * n, value) for step, value in points]
            for name, points in self.values.items()
        }
        return Logged(values, "steps", self.steps * n, self.seconds, self.batch_size)

    @property
    def learning_rate(self) -> float | None:
        """The largest that was logged."""
        logged = [
            value
            for name, points in self.values.items()
            if _RATE.fullmatch(name)
            for _, value in points
        ]
        return max(logged, default=None)

    def to_result(self) -> dict[str, Any]:
        """As a real run is kept in the history; other metrics stay beside its curves.

        What was not logged at one of the steps is None.
        """
        known: dict[Kept, dict[int, float]] = {}
        others = {}
        for name, points in self.values.items():
            place = _place(name)
            if place is None or place in known:
                others[name] = points
            else:
                known[place] = dict(points)
        steps = sorted({step for points in known.values() for step in points})

        def curve(split: str) -> Curve:
            loss, accuracy = (
                np.array([[known.get((split, name), {}).get(step, np.nan) for step in steps]])
                for name in ("loss", "accuracy")
            )
            return Curve(loss, accuracy)

        validation = curve("validation") if any(s == "validation" for s, _ in known) else None
        run = {
            "steps": None,
            "trained_steps": self.steps,
            "unit": self.unit,
            "seconds": self.seconds,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "trajectory": Trajectory(np.array(steps, int), curve("train"), validation),
            "metrics": others,
        }
        return {name: to_plain(value) for name, value in run.items()}


def gather(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> dict[str, list[Point]]:
    """Series by metric, from rows of a step and what was logged there; only numbers are kept."""
    series: dict[str, list[Point]] = {}
    for step, row in rows:
        for name, value in row.items():
            number = as_number(value)
            if number is not None:
                series.setdefault(name, []).append((step, number))
    return series


def as_number(value: Any) -> float | None:
    """Of what a file has in a field; None where it is no number."""
    if isinstance(value, bool) or value in (None, ""):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _place(name: str) -> Kept | None:
    """Which curve a metric is: a split, and loss or accuracy."""
    split, metric = "train", name
    for known, pattern in _SPLITS.items():
        if match := pattern.fullmatch(name):
            split, metric = known, match[1]
    for kind, pattern in (("loss", _LOSS), ("accuracy", _ACCURACY)):
        if pattern.fullmatch(metric):
            return split, kind
    return None
