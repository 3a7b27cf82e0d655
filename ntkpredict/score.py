"""Forecasters held against the real runs of a suite."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ntkpredict.interval import Interval
from ntkpredict.milestones import FRACTIONS
from ntkpredict.record import to_plain, to_trajectory, write
from ntkpredict.stopping import (
    Best,
    EarlyStopping,
    StoppingRule,
    TargetAccuracy,
    TargetLoss,
    parse,
)
from sde import Trajectory

ACCURACIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
PATIENCE = 5
EVALUATIONS = 40
"""Within the budget, for early stopping."""

TOLERANCE = 0.15
GROUPINGS = (
    ("split",),
    ("split", "distance"),
    ("split", "optimizer"),
    ("split", "size"),
    ("split", "kind"),
    ("split", "network", "distance"),
)
KINDS = {
    TargetLoss: "loss fraction",
    TargetAccuracy: "accuracy",
    EarlyStopping: "early stopping",
    Best: "best",
}
_ORDER = ("near", "medium", "far", *KINDS.values())

T = TypeVar("T")


def targets(max_steps: int) -> list[StoppingRule]:
    """What every forecaster is asked about a run with this budget in steps."""
    return [
        *(TargetLoss(relative=fraction) for fraction in FRACTIONS),
        *(TargetAccuracy(value, on="validation") for value in ACCURACIES),
        EarlyStopping(PATIENCE, every=max(max_steps // EVALUATIONS, 1)),
        Best(),
    ]


def applicable(rule: StoppingRule, trajectory: Trajectory) -> bool:
    """Whether a rule has its data and is not met before training starts."""
    try:
        return bool((rule.steps(trajectory) > 0).all())
    except ValueError:
        return False


@dataclass(frozen=True)
class Case:
    """A real run.

    Attributes:
        key: its name.
        split: of the suite.
        distance: of the data from the pretraining data.
        network: its name.
        optimizer: its name.
        size: class of the number of training samples.
        seconds: of training.
        trained_steps: of training.
        forward_passes: of one sample, that they cost.
        diverged: whether the training loss ends above its start or not finite.
        steps: to each target that applies, infinite where not reached; by rule.
    """

    key: str
    split: str
    distance: str
    network: str
    optimizer: str
    size: str
    seconds: float
    trained_steps: int
    forward_passes: float
    diverged: bool
    steps: dict[StoppingRule, float]


@dataclass(frozen=True)
class Answers:
    """What a forecaster said about a run.

    Attributes:
        steps: infinite where it says that a target is not reached; by rule.
        intervals: None where there is none; by rule.
        trusted: whether the forecaster trusts itself; None where it does not tell.
        seconds: that the forecast took.
        forward_passes: of one sample, that it cost.
        diverges: whether most of its curves diverge, or no fraction of the loss is reached.
    """

    steps: dict[StoppingRule, float]
    intervals: dict[StoppingRule, Interval | None]
    trusted: bool | None
    seconds: float
    forward_passes: float
    diverges: bool


@dataclass(frozen=True)
class Row:
    """One target of one run, and what a forecaster said about the run, if anything."""

    case: Case
    rule: StoppingRule
    answers: Answers | None

    @property
    def kind(self) -> str:
        """Of target."""
        return KINDS[type(self.rule)]

    @property
    def real(self) -> float:
        """Steps, infinite where not reached."""
        return self.case.steps[self.rule]

    @property
    def predicted(self) -> float | None:
        """Steps, infinite where said not to be reached; None without an answer."""
        return None if self.answers is None else self.answers.steps.get(self.rule)

    @property
    def interval(self) -> Interval | None:
        """Of the predicted steps."""
        return None if self.answers is None else self.answers.intervals.get(self.rule)

    def group(self, by: tuple[str, ...]) -> tuple[str, ...]:
        """Its values of some of split, distance, network, optimizer, size and kind."""
        return tuple(self.kind if name == "kind" else getattr(self.case, name) for name in by)


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
    """Hold the forecasts in a suite's folder against its real runs.

    Args:
        folder: with ``runs/KEY.json`` and ``forecasts/FORECASTER/KEY.json``; a forecast of a run
            that is not there is passed over.

    Raises:
        ValueError: a folder is missing or empty, or a file cannot be read; the message names it.
    """
    root = Path(folder)
    cases = [_read(path, partial(_case, path.stem)) for path in _found(root / "runs", "*.json")]
    rows: dict[str, list[Row]] = {}
    for forecaster in _found(root / "forecasts", "*/"):
        answers = {path.stem: _read(path, _answers) for path in _found(forecaster, "*.json")}
        rows[forecaster.name] = [
            Row(case, rule, answers.get(case.key)) for case in cases for rule in case.steps
        ]
    return Scores(rows)


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


def _found(folder: Path, pattern: str) -> list[Path]:
    found = sorted(folder.glob(pattern))
    if not found:
        msg = (
            f"suite: {str(folder)!r} is missing or empty; "
            "expected runs/KEY.json and forecasts/FORECASTER/KEY.json"
        )
        raise ValueError(msg)
    return found


def _read(path: Path, build: Callable[[Any], T]) -> T:
    try:
        return build(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        msg = f"suite: {str(path)!r} cannot be read ({error!r}); make it again"
        raise ValueError(msg) from error


def _case(key: str, content: Any) -> Case:
    task, case, trajectory = content["task"], content["case"], _curves(content["trajectory"])
    asked = [rule for rule in targets(case["max_steps"]) if applicable(rule, trajectory)]
    return Case(
        key=key,
        split=task["split"],
        distance=task["distance"],
        network=task["network"],
        optimizer=case["optimizer"],
        size="<=1000 samples" if task["samples"] <= 1000 else ">1000 samples",
        seconds=float(content["seconds"]),
        trained_steps=content["trained_steps"],
        forward_passes=float(3 * content["trained_steps"] * case["batch_size"]),
        diverged=bool(trajectory.diverged[0]),
        steps={rule: float(rule.steps(trajectory)[0]) for rule in asked},
    )


def _answers(content: Any) -> Answers:
    found = {parse(text): answer for text, answer in content["targets"].items()}
    steps = {rule: _end(_optional(answer["steps"])) for rule, answer in found.items()}
    losses = [value for rule, value in steps.items() if isinstance(rule, TargetLoss)]
    curves = content["trajectory"]
    diverges = curves is not None and bool(to_trajectory(curves).diverged.mean() > 0.5)
    return Answers(
        steps=steps,
        intervals={rule: _interval(answer["interval"]) for rule, answer in found.items()},
        trusted=content["trusted"],
        seconds=float(content["seconds"]),
        forward_passes=float(content["forward_passes"]),
        diverges=diverges or (bool(losses) and min(losses) == math.inf),
    )


def _interval(content: Any) -> Interval | None:
    if content is None:
        return None
    low, high = content
    return float(low), _optional(high)


def _optional(content: Any) -> float | None:
    return None if content is None else float(content)


def _curves(content: Any) -> Trajectory:
    """The one row of curves of a real run."""
    trajectory = to_trajectory(content)
    if len(trajectory.train.loss) != 1:
        msg = f"trajectory: got {len(trajectory.train.loss)} rows; expected 1"
        raise ValueError(msg)
    return trajectory
