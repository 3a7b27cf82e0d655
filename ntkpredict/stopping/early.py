"""Early stopping, as frameworks count it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from ntkpredict.counter import Counter, Framework, Mode, early_stopping
from ntkpredict.stopping.metric import Metric, On, check_metric, check_split, number
from ntkpredict.stopping.rule import Steps, StoppingRule
from ntkpredict.stopping.watch import Watch
from sde import Trajectory


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
        check_split(self.on)
        check_metric(self.metric)
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
        delta = f">{number(self.min_delta)}" if self.min_delta else ""
        framework = "" if self.framework == "keras" else f"{self.framework}_"
        name = f"{framework}{self.on}_{self.metric}"
        return f"{name}_patience>={self.patience}@{self.every}{delta}"
