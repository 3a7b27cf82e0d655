"""Early stopping as the frameworks count it, one evaluation after another.

What is counted is an immutable `Count` with one row a run, so that many simulated futures of one
run can go on from where it is.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Mode = Literal["min", "max"]
Framework = Literal["keras", "huggingface", "lightning"]
Values = Float[np.ndarray, " runs"]


class Count(NamedTuple):
    """Where each run stands.

    Attributes:
        best: what the next value is held against, negated where larger is better.
        waited: evaluations without an improvement.
        stopped: the evaluation, counted from 1, that stopped the run; 0 where it goes on.
        evaluations: how many there were.
    """

    best: Float[np.ndarray, " runs"]
    waited: Int[np.ndarray, " runs"]
    stopped: Int[np.ndarray, " runs"]
    evaluations: int

    def repeat(self, runs: int) -> Count:
        """A single run's count, for so many futures of it."""
        best, waited, stopped = (np.repeat(row, runs) for row in self[:3])
        return Count(best, waited, stopped, self.evaluations)


class Counter(abc.ABC):
    """A rule that sees one value of a metric after another.

    Attributes:
        mode: ``"min"`` where smaller values are better, ``"max"`` where larger ones are.
        patience: evaluations without an improvement that stop training; 0 where it does not wait.
    """

    mode: Mode
    patience: int = 0

    def start(self, runs: int = 1) -> Count:
        """Before the first evaluation."""
        zeros = np.zeros(runs, int)
        return Count(np.full(runs, np.inf), zeros, zeros, 0)

    def update(self, count: Count, values: Values) -> Count:
        """After one more evaluation, whose value each run has."""
        values = np.asarray(values, float)
        with np.errstate(invalid="ignore"):
            best, waited, over = self._judge(count, values if self.mode == "min" else -values)
        first = over & (count.stopped == 0)
        evaluations = count.evaluations + 1
        return Count(best, waited, np.where(first, evaluations, count.stopped), evaluations)

    def stops(
        self, values: Float[np.ndarray, "runs evaluations"], count: Count | None = None
    ) -> Int[np.ndarray, " runs"]:
        """The evaluation that stops each run, counted from the run's first; 0 where none does.

        Args:
            values: of the metric, those after `count`.
            count: where the runs stand; before their first evaluation where None.
        """
        count = self.start(len(values)) if count is None else count
        for column in values.T:
            if count.stopped.all():
                break
            count = self.update(count, column)
        return count.stopped

    @abc.abstractmethod
    def _judge(
        self, count: Count, values: Values
    ) -> tuple[Values, Int[np.ndarray, " runs"], Bool[np.ndarray, " runs"]]:
        """The new best and waited, and which runs this stops; values fall where all goes well."""


@dataclass(frozen=True)
class KerasCounter(Counter):
    """`keras.callbacks.EarlyStopping`.

    The first value is an improvement, be it NaN, which nothing beats afterwards. Restoring the
    best weights does not change when it stops. Values are compared in single precision, as
    backends do.

    Source: Keras 3.15, `callbacks/early_stopping.py` and `monitor_callback.py`.

    Attributes:
        patience: evaluations without an improvement that stop training; 0 is as good as 1.
        min_delta: an improvement is larger than its absolute value.
        mode: see `Counter`.
        baseline: only a value that beats it too starts the counter anew.
        start_from_epoch: evaluations that are passed over.
    """

    patience: int = 0
    min_delta: float = 0.0
    mode: Mode = "min"
    baseline: float | None = None
    start_from_epoch: int = 0

    def __post_init__(self) -> None:
        _check(self)

    def _judge(
        self, count: Count, values: Values
    ) -> tuple[Values, Int[np.ndarray, " runs"], Bool[np.ndarray, " runs"]]:
        if count.evaluations < self.start_from_epoch:
            return count.best, count.waited, np.zeros(len(values), bool)
        needed = _single(values + abs(self.min_delta))
        first = count.evaluations == self.start_from_epoch
        improved = first | (needed < _single(count.best))
        reset = improved
        if self.baseline is not None:
            sign = 1 if self.mode == "min" else -1
            reset = improved & (needed < np.float32(sign * self.baseline))
        waited = np.where(reset, 0, count.waited + 1)
        best = np.where(improved, values, count.best)
        return best, waited, ~improved & (waited >= self.patience)


@dataclass(frozen=True)
class HuggingFaceCounter(Counter):
    """`transformers.EarlyStoppingCallback` inside of its `Trainer`.

    The best metric is the Trainer's: any better value becomes it, after the callback has looked,
    but only one better by more than the threshold starts the counter anew. So slow progress in
    small steps stops training.

    Source: transformers 5.23, `trainer_callback.py` and `Trainer._determine_best_metric`.

    Attributes:
        patience: evaluations without an improvement that stop training; 0 stops at the first.
        threshold: an improvement is larger.
        mode: see `Counter`; ``"max"`` is `greater_is_better`.
    """

    patience: int = 1
    threshold: float = 0.0
    mode: Mode = "min"

    def __post_init__(self) -> None:
        _check(self)

    def _judge(
        self, count: Count, values: Values
    ) -> tuple[Values, Int[np.ndarray, " runs"], Bool[np.ndarray, " runs"]]:
        better = values < count.best
        reset = better & (np.abs(values - count.best) > self.threshold)
        reset |= count.evaluations == 0
        waited = np.where(reset, 0, count.waited + 1)
        return np.where(better, values, count.best), waited, waited >= self.patience


@dataclass(frozen=True)
class LightningCounter(Counter):
    """`lightning.pytorch.callbacks.EarlyStopping`, in single precision as its tensors are.

    Not in it: the Trainer's `min_epochs` and `min_steps`.

    Source: Lightning 2.6, `callbacks/early_stopping.py`.

    Attributes:
        patience: evaluations without an improvement that stop training; 0 is as good as 1.
        min_delta: an improvement is larger.
        mode: see `Counter`.
        check_finite: whether NaN and infinity stop training at once.
        stopping_threshold: a value that beats it stops training at once.
        divergence_threshold: a value worse than it stops training at once.
    """

    patience: int = 3
    min_delta: float = 0.0
    mode: Mode = "min"
    check_finite: bool = True
    stopping_threshold: float | None = None
    divergence_threshold: float | None = None

    def __post_init__(self) -> None:
        _check(self)

    def _judge(
        self, count: Count, values: Values
    ) -> tuple[Values, Int[np.ndarray, " runs"], Bool[np.ndarray, " runs"]]:
        single = _single(values)
        sign = np.float32(1 if self.mode == "min" else -1)
        over = ~np.isfinite(single) & self.check_finite
        if self.stopping_threshold is not None:
            over |= single < sign * np.float32(self.stopping_threshold)
        if self.divergence_threshold is not None:
            over |= single > sign * np.float32(self.divergence_threshold)
        improved = ~over & (single + np.float32(self.min_delta) < _single(count.best))
        waited = np.where(improved, 0, count.waited + 1)
        patient = improved | (waited < self.patience)
        return np.where(improved, values, count.best), waited, over | ~patient


@dataclass(frozen=True)
class TargetCounter(Counter):
    """A metric comes to a value, or to a share of its first one.

    Attributes:
        value: to come to; or
        relative: the share of the first value to come to.
        mode: see `Counter`.
    """

    value: float | None = None
    relative: float | None = None
    mode: Mode = "min"

    def _judge(
        self, count: Count, values: Values
    ) -> tuple[Values, Int[np.ndarray, " runs"], Bool[np.ndarray, " runs"]]:
        first = values if count.evaluations == 0 else count.best
        if self.relative is not None:
            return first, count.waited, values <= self.relative * first
        target = np.inf if self.value is None else self.value
        return first, count.waited, values <= (target if self.mode == "min" else -target)


def early_stopping(
    framework: Framework, patience: int, min_delta: float = 0.0, mode: Mode = "min"
) -> Counter:
    """A framework's counter, with the options that all of them have.

    Raises:
        ValueError: another framework, or a value outside of its range.
    """
    if framework == "keras":
        return KerasCounter(patience, min_delta, mode)
    if framework == "huggingface":
        return HuggingFaceCounter(patience, min_delta, mode)
    if framework == "lightning":
        return LightningCounter(patience, min_delta, mode)
    msg = f"framework: got {framework!r}; expected 'keras', 'huggingface' or 'lightning'"
    raise ValueError(msg)


def _single(values: Values) -> Float[np.ndarray, " runs"]:
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32)


def _check(counter: KerasCounter | HuggingFaceCounter | LightningCounter) -> None:
    patience = counter.patience
    if not isinstance(patience, (int, np.integer)) or patience < 0:
        msg = f"patience: got {patience}; expected a whole number, at least 0"
        raise ValueError(msg)
    if counter.mode not in ("min", "max"):
        msg = f"mode: got {counter.mode!r}; expected 'min' or 'max'"
        raise ValueError(msg)
