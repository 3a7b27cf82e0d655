"""Loss and accuracy as functions of the step, for several random seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Curve:
    """One data set's curves.

    Attributes:
        loss: mean over the samples.
        accuracy: in 0..1.
    """

    loss: Float[np.ndarray, "seeds grid"]
    accuracy: Float[np.ndarray, "seeds grid"]

    @staticmethod
    def of(points: Sequence[tuple[float, float]]) -> Curve:
        """One seed's curves, from (loss, accuracy) at each point of the grid."""
        return Curve(*np.array(points, float).T[:, None])


@dataclass(frozen=True)
class Trajectory:
    """Curves of training on a grid of steps, one row a seed (of the minibatch order).

    Attributes:
        steps: the grid, from 0 on, increasing.
        train: on the training samples.
        validation: on the validation samples, if there are any.
        known: of predicted curves, the last step of those that were trained for real: on every
            clock they are what they are. 0 where there are none.
    """

    steps: Int[np.ndarray, " grid"]
    train: Curve
    validation: Curve | None
    known: int = 0

    def quantile(self, probability: float | list[float]) -> Trajectory:
        """The same curves with one row a probability, a quantile over the seeds at every step."""
        return self._reduce(lambda values: np.quantile(values, np.atleast_1d(probability), axis=0))

    def mean(self) -> Trajectory:
        """The same curves with one row, the mean over the seeds."""
        return self._reduce(lambda values: values.mean(axis=0, keepdims=True))

    def first(self, count: int) -> Trajectory:
        """The first points of the grid."""
        cut = self._reduce(lambda values: values[:, :count])
        return replace(cut, steps=self.steps[:count])

    def beginning(self, known: Trajectory) -> Trajectory:
        """The same curves, where their first points are known.

        Args:
            known: one row on the first points of the grid, or on more, with the same splits; it
                begins every row.
        """

        def joined(curve: Curve, first: Curve) -> Curve:
            def values(later: np.ndarray, row: np.ndarray) -> np.ndarray:
                count = min(later.shape[1], row.shape[1])
                begun = np.broadcast_to(row[:, :count], (len(later), count))
                return np.concatenate([begun, later[:, count:]], axis=1)

            return Curve(values(curve.loss, first.loss), values(curve.accuracy, first.accuracy))

        validation = None
        if self.validation is not None:
            validation = joined(self.validation, known.curve("validation"))
        last = max(self.known, int(min(known.steps[-1], self.steps[-1])))
        return Trajectory(self.steps, joined(self.train, known.train), validation, last)

    def onto(self, grid: Int[np.ndarray, " grid"]) -> Int[np.ndarray, " joined"]:
        """Its steps, and then those of a grid that come later."""
        return np.concatenate([self.steps, grid[grid > self.steps[-1]]])

    def slowed(self, factor: float) -> Trajectory:
        """The same curves on a clock slower by a factor: what was at step t is at factor · t.

        What is known stays, and nothing that comes later comes before its end.
        """
        later = np.maximum(self.steps / factor, self.known)
        return self.at(np.where(self.steps <= self.known, self.steps, later))

    def at(
        self,
        times: Float[np.ndarray, " points"] | Int[np.ndarray, " points"],
        steps: Int[np.ndarray, " points"] | None = None,
    ) -> Trajectory:
        """The same curves on another clock: what was at these times is at these steps.

        Between steps they are interpolated, beyond the last one they stay as they are there.

        Args:
            times: increasing.
            steps: the grid's own where None.
        """

        def stretch(values: np.ndarray) -> np.ndarray:
            return np.stack([np.interp(times, self.steps, row) for row in values])

        moved = self._reduce(stretch)
        return moved if steps is None else replace(moved, steps=steps)

    def generalizing_like(self, other: Trajectory) -> Trajectory:
        """The same training, with the validation that another one has at the same training losses.

        Their first seeds are compared, as many as the other one has; what each seed differs by
        stays, in proportion where a loss would fall further than that of the mean does. Where the
        other training loss does not get as low, or never was as high, the last difference is kept.
        """
        if self.validation is None or other.validation is None:
            return self
        count = len(other.train.loss)
        own, others = self._reduce(lambda rows: rows[:count]).mean(), other.mean()
        losses, lowest = own.train.loss[0], np.minimum.accumulate(others.train.loss[0])
        if not (np.isfinite(losses).all() and np.isfinite(lowest).all()):
            return self
        if np.allclose(losses, others.train.loss[0], rtol=1e-3):
            return self
        falls = np.diff(lowest, prepend=np.inf) < 0
        reached = (losses >= lowest[-1]) & (losses <= lowest[0])
        last = np.maximum.accumulate(np.where(reached, np.arange(len(reached)), 0))

        def mapped(name: str) -> tuple[np.ndarray, np.ndarray]:
            mine, theirs = (getattr(each.curve("validation"), name)[0] for each in (own, others))
            return mine[last], np.interp(-losses, -lowest[falls], theirs[falls])[last]

        mine, theirs = mapped("loss")
        loss = self.validation.loss
        loss = np.maximum(loss + theirs - mine, loss * np.fmin(theirs / mine, 1))
        mine, theirs = mapped("accuracy")
        accuracy = np.clip(self.validation.accuracy + theirs - mine, 0, 1)
        return replace(self, validation=Curve(loss, accuracy))

    @property
    def diverged(self) -> Bool[np.ndarray, " seeds"]:
        """Which runs end with a training loss above that of their start, or none at all."""
        first, last = self.train.loss[:, 0], self.train.loss[:, -1]
        return ~(last <= first)  # true for NaN

    def curve(self, on: str) -> Curve:
        """`train` or `validation`, by name.

        Raises:
            ValueError: validation was asked for and there is none.
        """
        if on == "train":
            return self.train
        if self.validation is None:
            msg = "on: got 'validation', but there is no validation data; give some, or use 'train'"
            raise ValueError(msg)
        return self.validation

    def _reduce(self, function: Callable[[np.ndarray], np.ndarray]) -> Trajectory:
        def reduce(curve: Curve) -> Curve:
            with np.errstate(invalid="ignore"):
                return Curve(function(curve.loss), function(curve.accuracy))

        validation = None if self.validation is None else reduce(self.validation)
        return replace(self, train=reduce(self.train), validation=validation)


def log_grid(max_steps: int, *, per_decade: int = 16) -> Int[np.ndarray, " grid"]:
    """Whole steps 0, 1, … `max_steps`, spaced evenly on a logarithmic axis.

    Raises:
        ValueError: fewer than one step.
    """
    if max_steps < 1:
        msg = f"max_steps: got {max_steps}; expected at least 1"
        raise ValueError(msg)
    count = int(np.ceil(np.log10(max_steps) * per_decade)) + 1
    spaced = np.geomspace(1, max_steps, count).round().astype(int)
    return np.unique(np.concatenate([[0], spaced, [max_steps]]))
