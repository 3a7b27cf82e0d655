"""One metric and the rule that looks at it, while training runs."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ntkpredict.counter import TargetCounter
from ntkpredict.forecast import Forecast
from ntkpredict.progress.futures import FUTURES, Model, stopping_steps
from ntkpredict.progress.observed import HUGE, Observed, Turn
from ntkpredict.progress.posterior import SHIPPED, NoisePrior
from ntkpredict.progress.schedule import RateTime
from ntkpredict.progress.shapes import Expected, PowerLaws
from ntkpredict.stopping import Watch

Stops = Float[np.ndarray, " _"]

FORECAST_WEIGHT = 0.5
"""Prior probability that the forecast tells the curve; chosen on development runs of the suite."""

_MOST_EVALUATIONS = 2000
"""To come that are simulated; patience that outlasts them counts as the maximum."""

_MOST_FOR_A_TARGET = 400
_MOST_VALUES = 4096
"""That are kept for a target, which does not look back."""

_FAN_STEPS = 40


class Value(NamedTuple):
    """Of a metric.

    Attributes:
        step: at which it was taken.
        value: the number.
        samples: validation samples that it was taken on; all of them where None.
    """

    step: int
    value: float
    samples: int | None = None


class Fan(NamedTuple):
    """A curve so far, and its trend ahead with a 95 % band.

    Attributes:
        metric: its name.
        steps: of the values so far.
        values: so far.
        ahead: steps to come.
        low: lower end of the band.
        middle: median.
        high: upper end.
    """

    metric: str
    steps: Stops
    values: Stops
    ahead: Stops
    low: Stops
    middle: Stops
    high: Stops


class Watching:
    """Collects a metric's values and says where the rule may stop training.

    Args:
        watch: the metric and the rule.
        time: learning-rate time up to the budget.
        every: steps between evaluations to expect, until values tell, where the rule does not say.
        forecast: what was expected before launch.
        validation_samples: how many there are.
        noise: what earlier runs tell of the noise.
    """

    def __init__(
        self,
        watch: Watch,
        time: RateTime,
        *,
        every: int | None = None,
        forecast: Forecast | None = None,
        validation_samples: int | None = None,
        noise: NoisePrior = SHIPPED,
    ) -> None:
        self.watch = watch
        self.count = watch.counter.start()
        self.values: list[Value] = []
        self.added = 0
        self.met: int | None = None
        self._time = time
        self._every = every
        self._curves = None if forecast is None else _curves(forecast, watch.metric)
        self._forecast = forecast
        self._total = validation_samples
        self._noise = noise
        self._counted = 0
        self._origin = 0.0
        self._before: tuple[Stops, Stops] | None = None

    def add(self, value: Value) -> None:
        """One more value; one on all samples counts for the rule, where the rule looks."""
        self.values.append(value)
        self.added += 1
        if isinstance(self.watch.counter, TargetCounter) and len(self.values) > _MOST_VALUES:
            self.values = self.values[::2]
        if value.samples is not None or not self._looks(value.step):
            return
        self._counted = value.step
        self.count = self.watch.counter.update(self.count, np.array([value.value]))
        if self.met is None and self.count.stopped[0]:
            self.met = value.step

    def wait(self, evaluations: int) -> None:
        """Go on from so many evaluations without an improvement, whatever the values said."""
        waited, stopped = np.array([evaluations]), np.zeros(1, int)
        self.count = self.count._replace(waited=waited, stopped=stopped)
        self.met = None

    def refresh(self, forecast: Forecast, step: int, seed: int) -> None:
        """Expect what a forecast says that was made at the weights of this step.

        Up to here its curve is the trend as known so far.
        """
        fitted = None if not self.values else self._model()
        if fitted is not None:
            model, observed, turn = fitted
            steps = observed.steps
            trend = np.median(self._trends(model, observed, steps, seed), axis=0)
            self._before = (steps, turn.back(observed.scale * trend))
        self._forecast, self._curves = forecast, _curves(forecast, self.watch.metric)
        self._origin = float(step)
        self.added += 1

    @property
    def every(self) -> float | None:
        """Steps between evaluations; None where not known yet."""
        if self.watch.every is not None:
            return float(self.watch.every)
        recent = self.values[-100:]
        steps = [value.step for value in recent if value.samples is None and value.step > 0]
        if len(steps) > 1:
            return float(np.median(np.diff(steps)))
        known = self._every or (steps[0] if steps else None)
        return None if known is None else float(known)

    def stops(self, step: int, limit: int, seed: int) -> Stops | None:
        """Steps at which the rule may stop training, equally likely each, infinite beyond a limit.

        None where there is nothing to tell from.
        """
        known = self._model()
        if known is None:
            return None
        model, observed, turn = known
        random = np.random.default_rng([seed, self.added])
        evaluations = self._evaluations(step, limit, model.every)
        return stopping_steps(
            model, observed, self.watch.counter, self.count, evaluations, turn, random, FUTURES
        )

    def fan(self, step: int, limit: float, seed: int) -> Fan | None:
        """The curve so far and where its trend may go up to a limit."""
        known = self._model()
        if known is None:
            return None
        model, observed, turn = known
        ahead = np.linspace(step, max(limit, step + model.every), _FAN_STEPS)
        trends = self._trends(model, observed, ahead, seed)
        values = turn.back(observed.scale * np.maximum(trends, 0))
        low, middle, high = np.quantile(values, [0.025, 0.5, 0.975], axis=0)
        past = turn.back(observed.values)
        return Fan(self.watch.metric, observed.steps, past, ahead, low, middle, high)

    def _trends(
        self, model: Model, observed: Observed, steps: Stops, seed: int
    ) -> Float[np.ndarray, "futures points"]:
        drawn = model.draws(observed, FUTURES, np.random.default_rng([seed, self.added]))
        return np.einsum("fmi,fi->fm", model.design(steps)[drawn.shape], drawn.theta)

    def _model(self) -> tuple[Model, Observed, Turn] | None:
        every = self.every
        if every is None or (not self.values and self._curves is None):
            return None
        turn = self._turn()
        observed = self._observed(turn, every)
        laws = PowerLaws(self._time, every)
        if self._curves is None or self._forecast is None:
            return Model((laws,), (1.0,), self._time, every, self._noise), observed, turn
        curves = turn.of_values(self._curves) / observed.scale
        grid, clock = self._forecast.trajectory.steps, self._forecast.validity.clock
        before = None
        if self._before is not None:
            before = (self._before[0], turn.of_values(self._before[1]) / observed.scale)
        told = Expected(grid.astype(float), curves, clock, self._origin, before)
        weights = (1 - FORECAST_WEIGHT, FORECAST_WEIGHT)
        return Model((laws, told), weights, self._time, every, self._noise), observed, turn

    def _looks(self, step: int) -> bool:
        if self.watch.every is None:
            return True
        return step // self.watch.every > self._counted // self.watch.every

    def _turn(self) -> Turn:
        values = np.array([v.value for v in self.values])
        if self._curves is not None:
            values = np.append(values, self._curves.ravel())
        return Turn.of(self.watch.counter.mode, values)

    def _observed(self, turn: Turn, every: float) -> Observed:
        values = turn.of_values(np.array([v.value for v in self.values]))
        share = 1 / (self._total or np.inf)
        fewer = np.array([0.0 if v.samples is None else 1 / v.samples - share for v in self.values])
        # per sample errors are 0 or 1, losses about as spread as they are large
        finite = np.clip(np.nan_to_num(values), -HUGE, HUGE)
        spread = np.abs(finite * (1 - finite)) if turn == Turn(-1.0, 1.0) else finite**2
        expected = None
        if self._curves is not None and self._forecast is not None:
            rows = turn.of_values(self._curves)
            expected = float(np.interp(every, self._forecast.trajectory.steps, rows.mean(axis=0)))
        steps = np.array([v.step for v in self.values], float)
        return Observed.of(steps, values, np.maximum(fewer, 0) * spread, expected)

    def _evaluations(self, step: int, limit: int, every: float) -> Stops:
        first = (max(step, self._counted) // every + 1) * every
        if self.watch.every is None and self.values:
            last = self.values[-1].step
            first = last + max((step - last) // every + 1, 1) * every
        steps = first + every * np.arange(_MOST_EVALUATIONS)
        if isinstance(self.watch.counter, TargetCounter):
            thinned = np.linspace(first, max(limit, first), _MOST_FOR_A_TARGET)
            steps = thinned if limit - first > every * _MOST_FOR_A_TARGET else steps
        return steps[steps <= limit]


def _curves(forecast: Forecast, metric: str) -> Float[np.ndarray, "runs grid"] | None:
    match = re.fullmatch("(train|validation|val|eval)_(loss|accuracy|acc)", metric)
    if match is None:
        return None
    curve = forecast.trajectory.train if match[1] == "train" else forecast.trajectory.validation
    if curve is None:
        return None
    rows = curve.loss if match[2] == "loss" else curve.accuracy
    rows = np.asarray(rows, float)[np.isfinite(rows[:, 0])]
    # What diverges does not get better again: its last value that can be told is repeated.
    known = np.where(np.isfinite(rows), np.arange(rows.shape[1]), 0)
    rows = np.take_along_axis(rows, np.maximum.accumulate(known, axis=1), axis=1)
    return rows if len(rows) else None
