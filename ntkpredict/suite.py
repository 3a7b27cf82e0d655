"""The real runs of a suite, and what forecasters said about them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ntkpredict.interval import Interval
from ntkpredict.milestones import FRACTIONS
from ntkpredict.record import to_trajectory
from ntkpredict.stopping import (
    Best,
    EarlyStopping,
    StoppingRule,
    TargetAccuracy,
    TargetLoss,
    parse,
)
from ntkpredict.validity import Signals
from sde import Trajectory

ACCURACIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
PATIENCE = 5
EVALUATIONS = 40
"""Within the budget, for early stopping."""

KINDS = {
    TargetLoss: "loss fraction",
    TargetAccuracy: "accuracy",
    EarlyStopping: "early stopping",
    Best: "best",
}
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
        known: the last step that it has trained for real.
        signals: what its validity is told from; None where it does not tell.
    """

    steps: dict[StoppingRule, float]
    intervals: dict[StoppingRule, Interval | None]
    trusted: bool | None
    seconds: float
    forward_passes: float
    diverges: bool
    known: int
    signals: Signals | None


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
    def foretold(self) -> bool:
        """Whether the answer is a number of steps beyond those that were trained for real."""
        if self.answers is None or self.predicted is None:
            return False
        return self.answers.known < self.predicted < math.inf

    @property
    def interval(self) -> Interval | None:
        """Of the predicted steps."""
        return None if self.answers is None else self.answers.intervals.get(self.rule)

    def group(self, by: tuple[str, ...]) -> tuple[str, ...]:
        """Its values of some of split, distance, network, optimizer, size and kind."""
        return tuple(self.kind if name == "kind" else getattr(self.case, name) for name in by)


def read_suite(folder: str | Path) -> dict[str, list[Row]]:
    """Every target that applies to a run, with what was said about it, by forecaster.

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
    return rows


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
    steps = {rule: _steps(answer["steps"]) for rule, answer in found.items()}
    losses = [value for rule, value in steps.items() if isinstance(rule, TargetLoss)]
    curves = None if content["trajectory"] is None else to_trajectory(content["trajectory"])
    diverges = curves is not None and bool(curves.diverged.mean() > 0.5)
    return Answers(
        steps=steps,
        intervals={rule: _interval(answer["interval"]) for rule, answer in found.items()},
        trusted=content["trusted"],
        seconds=float(content["seconds"]),
        forward_passes=float(content["forward_passes"]),
        diverges=diverges or (bool(losses) and min(losses) == math.inf),
        known=0 if curves is None else curves.known,
        signals=Signals(**content["signals"]) if "signals" in content else None,
    )


def _interval(content: Any) -> Interval | None:
    if content is None:
        return None
    low, high = content
    return float(low), None if high is None else float(high)


def _steps(content: Any) -> float:
    return math.inf if content is None else float(content)


def _curves(content: Any) -> Trajectory:
    """The one row of curves of a real run."""
    trajectory = to_trajectory(content)
    if len(trajectory.train.loss) != 1:
        msg = f"trajectory: got {len(trajectory.train.loss)} rows; expected 1"
        raise ValueError(msg)
    return trajectory
