"""When training is over: rules that turn curves into a number of steps."""

from __future__ import annotations

import abc
import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from jaxtyping import Float, Int

from ntkpredict.counter import Counter, Framework, Mode, TargetCounter, early_stopping
from sde import Trajectory

On = Literal["train", "validation"]
Metric = Literal["loss", "accuracy"]
Steps = Float[np.ndarray, " seeds"]

_ROUNDING = 1e-6  # 9 of 10 samples are less than 0.9 in single precision


class Watch(NamedTuple):
    """What a rule looks at while training runs.

    Attributes:
        counter: says when it stops.
        metric: its name, such as ``"validation_loss"``.
        every: steps between evaluations; whenever there is a value where None.
    """

    counter: Counter
    metric: str
    every: int | None = None


class StoppingRule(abc.ABC):
    """A rule; combine rules with ``|``: the first to be met stops training."""

    @abc.abstractmethod
    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:
        """The step at which each seed's run stops, infinite where it does not.

        Between the points of the grid curves are interpolated.

        Args:
            trajectory: the curves.
            complete: whether they reach the end of the budget.

        Raises:
            ValueError: the target is met before training starts.
        """

    def evaluations(self, max_steps: int) -> Int[np.ndarray, " evaluations"]:  # noqa: ARG002
        """Steps up to the budget at which the curves must be known for this rule, beyond a grid."""
        return np.empty(0, int)

    @property
    def watches(self) -> tuple[Watch, ...]:
        """What it looks at while training runs; nothing where only hindsight tells."""
        return ()

    @property
    def limit(self) -> int | None:
        """The number of steps at which it stops whatever the curves; None where there is none."""
        return None

    @abc.abstractmethod
    def __str__(self) -> str:
        """As `parse` reads it."""

    def __or__(self, other: StoppingRule) -> StoppingRule:
        return AnyOf((*_alternatives(self), *_alternatives(other)))


@dataclass(frozen=True)
class TargetLoss(StoppingRule):
    """The loss falls to a value, or to a fraction of the loss before training.

    Attributes:
        value: the loss to reach, absolute; or
        relative: the fraction of the initial loss to reach, in (0, 1).
        on: ``"train"`` or ``"validation"``.
    """

    value: float | None = None
    relative: float | None = None
    on: On = "train"

    def __post_init__(self) -> None:
        if (self.value is None) == (self.relative is None):
            msg = f"TargetLoss: got value={self.value}, relative={self.relative}; expected one"
            raise ValueError(msg)
        if self.value is not None and not 0 < self.value < np.inf:
            msg = f"value: got {self.value}; expected a loss greater than 0"
            raise ValueError(msg)
        if self.relative is not None and not 0 < self.relative < 1:
            msg = f"relative: got {self.relative}; expected a fraction between 0 and 1"
            raise ValueError(msg)
        _check_split(self.on)

    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:  # noqa: ARG002
        """The first step with a loss at or below the target."""
        loss = trajectory.curve(self.on).loss
        target = self.value if self.value is not None else self.relative * loss[:, 0]
        if (loss[:, 0] <= target).any():
            start = loss[:, 0].min()
            msg = f"target: the {self.on} loss starts at {start:.4g}; aim below, got {self}"
            raise ValueError(msg)
        return _crossing(trajectory.steps, loss, np.broadcast_to(target, len(loss)))

    @property
    def watches(self) -> tuple[Watch, ...]:
        """The loss; a share of it counts from the first value there is."""
        return (Watch(TargetCounter(self.value, self.relative), f"{self.on}_loss"),)

    def __str__(self) -> str:
        goal = _number(self.value) if self.value is not None else f"{_number(self.relative)}x"
        return f"{_prefix(self.on)}loss<={goal}"


@dataclass(frozen=True)
class TargetAccuracy(StoppingRule):
    """The accuracy rises to a value.

    Attributes:
        value: in (0, 1].
        on: ``"train"`` or ``"validation"``.
    """

    value: float
    on: On = "train"

    def __post_init__(self) -> None:
        if not 0 < self.value <= 1:
            msg = f"value: got {self.value}; expected an accuracy in (0, 1]"
            raise ValueError(msg)
        _check_split(self.on)

    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:  # noqa: ARG002
        """The first step with an accuracy at or above the target."""
        accuracy = trajectory.curve(self.on).accuracy
        target = self.value * (1 - _ROUNDING)
        if (accuracy[:, 0] >= target).any():
            start = accuracy[:, 0].max()
            msg = f"target: the {self.on} accuracy starts at {start:.4g}; aim above, got {self}"
            raise ValueError(msg)
        return _crossing(trajectory.steps, -accuracy, np.full(len(accuracy), -target))

    @property
    def watches(self) -> tuple[Watch, ...]:
        """The accuracy."""
        target = self.value * (1 - _ROUNDING)
        return (Watch(TargetCounter(target, mode="max"), f"{self.on}_accuracy"),)

    def __str__(self) -> str:
        return f"{_prefix(self.on)}accuracy>={_number(self.value)}"


@dataclass(frozen=True)
class Converged(StoppingRule):
    """The training loss comes within ε of its value at the end of the budget, |L_t − L_T| < ε.

    The paper's definition of training time. A real run can only tell in hindsight.

    Source: Zancato et al. 2020, Algorithm 1 of the supplement.

    Attributes:
        eps: ε, in units of the loss.
    """

    eps: float

    def __post_init__(self) -> None:
        if not 0 < self.eps < np.inf:
            msg = f"eps: got {self.eps}; expected a loss greater than 0"
            raise ValueError(msg)

    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:
        """The first step within ε of the end."""
        loss = trajectory.train.loss
        if not complete:
            return np.full(len(loss), np.inf)
        distance = np.abs(loss - loss[:, -1:])
        return _crossing(trajectory.steps, distance, np.full(len(loss), self.eps))

    def __str__(self) -> str:
        return f"converged<{_number(self.eps)}"


@dataclass(frozen=True)
class EarlyStopping(StoppingRule):
    """A metric has not improved for several evaluations in a row, as a framework counts.

    Step 0 is not evaluated. See `KerasCounter`, `HuggingFaceCounter` and `LightningCounter` for
    what an improvement is to each of them.

    Attributes:
        patience: evaluations without an improvement that stop training.
        every: steps between evaluations.
        min_delta: an improvement is larger; in units of the metric, at least 0.
        on: ``"train"`` or ``"validation"``.
        metric: ``"loss"`` or ``"accuracy"``.
        framework: ``"keras"``, ``"huggingface"`` or ``"lightning"``.
    """

    patience: int
    every: int
    min_delta: float = 0.0
    on: On = "validation"
    metric: Metric = "loss"
    framework: Framework = "keras"

    def __post_init__(self) -> None:
        for name, value, least in (("patience", self.patience, 0), ("every", self.every, 1)):
            if not isinstance(value, (int, np.integer)) or value < least:
                msg = f"{name}: got {value}; expected a whole number, at least {least}"
                raise ValueError(msg)
        if not 0 <= self.min_delta < np.inf:
            msg = f"min_delta: got {self.min_delta}; expected a number, at least 0"
            raise ValueError(msg)
        _check_split(self.on)
        _check_metric(self.metric)
        _ = self._counter

    @property
    def _counter(self) -> Counter:
        mode: Mode = "min" if self.metric == "loss" else "max"
        return early_stopping(self.framework, self.patience, self.min_delta, mode)

    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:  # noqa: ARG002
        """The evaluation at which patience runs out."""
        evaluations = self.evaluations(int(trajectory.steps[-1]))
        rows = getattr(trajectory.curve(self.on), self.metric)
        values = np.stack([np.interp(evaluations, trajectory.steps, row) for row in rows])
        stops = self._counter.stops(values)
        return np.insert(evaluations.astype(float), 0, np.inf)[stops]

    def evaluations(self, max_steps: int) -> Int[np.ndarray, " evaluations"]:
        """The multiples of `every`, without 0."""
        return np.arange(self.every, max_steps + 1, self.every)

    @property
    def watches(self) -> tuple[Watch, ...]:
        """The metric, evaluated every so many steps."""
        return (Watch(self._counter, f"{self.on}_{self.metric}", self.every),)

    def __str__(self) -> str:
        delta = f">{_number(self.min_delta)}" if self.min_delta else ""
        framework = "" if self.framework == "keras" else f"{self.framework}_"
        name = f"{framework}{self.on}_{self.metric}"
        return f"{name}_patience>={self.patience}@{self.every}{delta}"


@dataclass(frozen=True)
class Best(StoppingRule):
    """The step of the best metric within the budget; known in hindsight only.

    It is the first of equals and 0 where training only makes things worse; what is not a number
    is passed over.

    Attributes:
        on: ``"train"`` or ``"validation"``.
        metric: ``"loss"``, the least, or ``"accuracy"``, the greatest.
    """

    on: On = "validation"
    metric: Metric = "loss"

    def __post_init__(self) -> None:
        _check_split(self.on)
        _check_metric(self.metric)

    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:
        """That step, on the grid."""
        values = _falling(trajectory, self.on, self.metric)
        if not complete:
            return np.full(len(values), np.inf)
        values = np.where(np.isnan(values), np.inf, values)
        best = trajectory.steps[values.argmin(axis=1)]
        return np.where(values.min(axis=1) < np.inf, best, np.inf)

    def __str__(self) -> str:
        return f"best_{self.on}_{self.metric}"


@dataclass(frozen=True)
class MaxSteps(StoppingRule):
    """A fixed number of steps.

    Attributes:
        value: at least 1.
    """

    value: int

    def __post_init__(self) -> None:
        if not isinstance(self.value, (int, np.integer)) or self.value < 1:
            msg = f"value: got {self.value}; expected a whole number of steps, at least 1"
            raise ValueError(msg)

    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:  # noqa: ARG002
        """That number, where the curves reach it."""
        reached = trajectory.steps[-1] >= self.value
        return np.full(len(trajectory.train.loss), float(self.value) if reached else np.inf)

    @property
    def limit(self) -> int:
        """That number."""
        return int(self.value)

    def __str__(self) -> str:
        return f"steps>={self.value}"


@dataclass(frozen=True)
class AnyOf(StoppingRule):
    """The first of several rules.

    Attributes:
        rules: the rules, at least one.
    """

    rules: tuple[StoppingRule, ...]

    def __post_init__(self) -> None:
        if not self.rules:
            msg = "rules: got none; expected at least one"
            raise ValueError(msg)

    def steps(self, trajectory: Trajectory, *, complete: bool = True) -> Steps:
        """The smallest of the rules' steps."""
        return np.min([rule.steps(trajectory, complete=complete) for rule in self.rules], axis=0)

    def evaluations(self, max_steps: int) -> Int[np.ndarray, " evaluations"]:
        """Those of all the rules."""
        return np.unique(np.concatenate([rule.evaluations(max_steps) for rule in self.rules]))

    @property
    def watches(self) -> tuple[Watch, ...]:
        """Those of all the rules."""
        return tuple(watch for rule in self.rules for watch in rule.watches)

    @property
    def limit(self) -> int | None:
        """The smallest of the rules' limits."""
        limits = [rule.limit for rule in self.rules if rule.limit is not None]
        return min(limits, default=None)

    def __str__(self) -> str:
        return " | ".join(str(rule) for rule in self.rules)


_FRAMEWORK = r"((?P<framework>keras|huggingface|lightning)_)?"
_ON = r"(?P<on>train_|validation_|val_)?"
_METRIC = r"(?P<metric>loss|accuracy)"
_NUMBER = r"(?P<number>[0-9.eE+-]+)"
_RULE = re.compile(
    rf"{_ON}(?P<name>loss|accuracy|converged|steps)"
    rf"\s*(?P<sign><=|<|>=|>)\s*{_NUMBER}(?P<relative>x)?"
)
_PATIENCE = re.compile(
    rf"{_FRAMEWORK}{_ON}({_METRIC}_)?patience\s*>=?\s*(?P<patience>[0-9]{{1,15}})"
    rf"\s*@\s*(?P<every>[0-9]{{1,15}})(\s*>\s*{_NUMBER})?"
)
_BEST = re.compile(rf"best_{_ON}{_METRIC}")


def parse(text: str) -> StoppingRule:
    """A rule from text, as the command line takes it.

    ``patience>=5@20`` is `EarlyStopping(5, every=20)`; ``>0.01`` after it is its `min_delta`. It
    and `Best` look at validation where nothing else is said, and patience at the loss. It counts as
    Keras does, or as ``huggingface_`` or ``lightning_`` before it says.

    >>> str(parse("loss<=0.1x | val_accuracy>=0.95"))
    'loss<=0.1x | validation_accuracy>=0.95'
    >>> str(parse("val_accuracy_patience>=5@20>0.01"))
    'validation_accuracy_patience>=5@20>0.01'
    >>> parse("best_val_loss")
    Best(on='validation', metric='loss')

    Raises:
        ValueError: not a rule, or a value outside of its range.
    """
    rules = [_parse_one(part.strip()) for part in text.split("|")]
    return rules[0] if len(rules) == 1 else AnyOf(tuple(rules))


def _parse_one(text: str) -> StoppingRule:
    if match := _PATIENCE.fullmatch(text):
        delta = 0.0 if match["number"] is None else _float(match["number"], text)
        patience, every = int(match["patience"]), int(match["every"])
        on = _on(match, "validation")
        framework = cast(Framework, match["framework"] or "keras")
        return EarlyStopping(patience, every, delta, on, _metric(match), framework)
    if match := _BEST.fullmatch(text):
        return Best(_on(match, "validation"), _metric(match))
    match = _RULE.fullmatch(text)
    if match is None or not _is_sensible(match):
        msg = (
            f"until: got {text!r}; expected loss<=0.1, loss<=0.1x (of the initial loss), "
            "accuracy>=0.9, converged<0.01, steps>=500, patience>=5@20 (5 evaluations, one every "
            "20 steps, without a better validation loss) or best_val_loss, "
            "with val_ for validation, joined by |"
        )
        raise ValueError(msg)
    number, on = _float(match["number"], text), _on(match, "train")
    if match["name"] == "loss":
        return (
            TargetLoss(relative=number, on=on) if match["relative"] else TargetLoss(number, on=on)
        )
    if match["name"] == "accuracy":
        return TargetAccuracy(number, on=on)
    if match["name"] == "converged":
        return Converged(number)
    if not number.is_integer():
        msg = f"until: got {text!r}; expected a whole number of steps"
        raise ValueError(msg)
    return MaxSteps(int(number))


def _float(number: str, text: str) -> float:
    try:
        return float(number)
    except ValueError as error:
        msg = f"until: {number!r} in {text!r} is not a number"
        raise ValueError(msg) from error


def _on(match: re.Match[str], default: On) -> On:
    if match["on"] is None:
        return default
    return "train" if match["on"] == "train_" else "validation"


def _metric(match: re.Match[str]) -> Metric:
    return "accuracy" if match["metric"] == "accuracy" else "loss"


def _is_sensible(match: re.Match[str]) -> bool:
    falling = match["name"] in ("loss", "converged")
    splits = match["on"] is None or match["name"] in ("loss", "accuracy")
    relative = match["relative"] is None or match["name"] == "loss"
    return ("<" in match["sign"]) == falling and splits and relative


def _alternatives(rule: StoppingRule) -> tuple[StoppingRule, ...]:
    return rule.rules if isinstance(rule, AnyOf) else (rule,)


def _check_split(on: str) -> None:
    if on not in ("train", "validation"):
        msg = f"on: got {on!r}; expected 'train' or 'validation'"
        raise ValueError(msg)


def _check_metric(metric: str) -> None:
    if metric not in ("loss", "accuracy"):
        msg = f"metric: got {metric!r}; expected 'loss' or 'accuracy'"
        raise ValueError(msg)


def _falling(trajectory: Trajectory, on: On, metric: Metric) -> Float[np.ndarray, "seeds grid"]:
    """A metric's curves, turned so that they fall where training goes well."""
    curve = trajectory.curve(on)
    return curve.loss if metric == "loss" else -curve.accuracy


def _number(value: Any) -> str:
    """As short as it can be read back exactly."""
    number = float(value)
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def _prefix(on: On) -> str:
    return "" if on == "train" else "validation_"


def _crossing(steps: np.ndarray, values: np.ndarray, targets: np.ndarray) -> Steps:
    """Where each row first falls to its target, interpolated; infinite where it does not."""
    below = values <= targets[:, None]
    first = below.argmax(axis=1)
    found = below.any(axis=1)
    rows = np.arange(len(values))
    before = np.maximum(first - 1, 0)
    start = values[rows, before]
    drop = start - values[rows, first]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(np.isfinite(drop) & (drop > 0), (start - targets) / drop, 1.0)
    crossing = steps[before] + share * (steps[first] - steps[before])
    return np.where(found, np.where(first == 0, 0.0, crossing), np.inf)
