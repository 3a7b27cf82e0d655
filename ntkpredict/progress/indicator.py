"""The progress indicator: from steps done and values seen to the time that remains."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ntkpredict.cost import Clock
from ntkpredict.forecast import Forecast
from ntkpredict.progress.estimate import Estimate, Range
from ntkpredict.progress.extra import ExtraPoints
from ntkpredict.progress.outcomes import Outcomes
from ntkpredict.progress.posterior import SHIPPED, NoisePrior
from ntkpredict.progress.schedule import RateTime, Schedule
from ntkpredict.progress.watching import Fan, Value, Watching
from ntkpredict.progress.work import Kind, Meter, Pieces
from ntkpredict.stopping import StoppingRule, Watch


class Indicator:
    """Follows one run.

    Args:
        until: what stops the run, a rule or what to watch; only `max_steps` where None.
        max_steps: the most steps there will be.
        forecast: of this run; its curves are what is expected until the real ones tell better.
        every: steps between evaluations to expect, until values tell, where the rule does not say.
        batch_size: samples of a step.
        schedule: step -> learning rate; constant where None.
        validation_samples: how many there are.
        price_per_hour: of the machine.
        start: steps done before, by a run that is now resumed.
        noise: of the metrics, what earlier runs tell; see `noise_prior`.
        window: seconds over which speed is measured.
        seed: of the simulated futures.
        clock: seconds since some moment.

    Raises:
        ValueError: a number outside of its range.
    """

    def __init__(
        self,
        until: StoppingRule | tuple[Watch, ...] | None,
        max_steps: int,
        *,
        forecast: Forecast | None = None,
        every: int | None = None,
        batch_size: int = 1,
        schedule: Schedule | None = None,
        validation_samples: int | None = None,
        price_per_hour: float | None = None,
        start: int = 0,
        noise: NoisePrior = SHIPPED,
        window: float = 30.0,
        seed: int = 0,
        clock: Clock = time.monotonic,
    ) -> None:
        limit = until.limit if isinstance(until, StoppingRule) else None
        watches = until.watches if isinstance(until, StoppingRule) else until or ()
        _check("max_steps", max_steps)
        _check("every", every)
        _check("batch_size", batch_size)
        _check("validation_samples", validation_samples)
        _check("start", start, least=0)
        self.step = start
        self.max_steps = max_steps if limit is None else min(max_steps, limit)
        self._batch_size = batch_size
        self._price = price_per_hour
        self._seed = seed
        self._start = start
        rate_time = RateTime.of(schedule, max_steps)
        self._watching = tuple(
            Watching(
                watch,
                rate_time,
                every=every,
                forecast=forecast,
                validation_samples=validation_samples,
                noise=noise,
            )
            for watch in watches
        )
        self._total = validation_samples
        expected = None
        if forecast is not None:
            cost = forecast.cost
            expected = Pieces(cost.batch_seconds[1], cost.validation_seconds)
        self.meter = Meter(clock, window, expected)
        self._known: tuple[int, Outcomes | None] = (-1, None)
        self._fan: tuple[int, Fan | None] = (-1, None)

    def advance(self, steps: int = 1) -> None:
        """So many training steps have just been done."""
        self.step += steps
        self.meter.lap("training", steps)

    def lap(self, kind: Kind, pieces: float = 1.0) -> None:
        """Other work has just been done."""
        self.meter.lap(kind, pieces)

    def report(self, values: Mapping[str, Any], samples: int | None = None) -> None:
        """Values of metrics at this step, by name; names that no rule looks at do not matter.

        Args:
            values: such as ``{"validation_loss": 0.3}``.
            samples: where they were taken on some of the validation samples only: how many. Such
                values tell about the curve, but never count for the rule.
        """
        for watching in self._watching:
            if watching.watch.metric in values:
                number = float(values[watching.watch.metric])
                watching.add(Value(self.step, number, samples))

    @property
    def stopped(self) -> bool:
        """Whether the rule stops training at this step."""
        met = any(watching.met is not None for watching in self._watching)
        return met or self.step >= self.max_steps

    def estimate(self) -> Estimate:
        """What remains, as of now; simulated anew where there are new values."""
        outcomes = self._outcomes()
        middle = float(max(self.max_steps, self.step)) if outcomes is None else outcomes.median
        interval = None if outcomes is None else outcomes.interval
        pace, passed = self.meter.pace, self.meter.seconds
        work = {} if pace is None else self._work(pace, passed, middle, interval)
        return Estimate(
            step=self.step,
            steps=middle,
            steps_interval=interval,
            mode=middle if outcomes is None else outcomes.mode,
            at_maximum=None if outcomes is None else outcomes.at_limit,
            seconds_passed=passed,
            shares=self.meter.shares,
            **{name: work.get(name) for name in _WORK},
        )

    def extra_samples(self, points: ExtraPoints, seconds_spent: float) -> int:
        """On how many validation samples an extra value should be taken now; 0 where on none."""
        pace = self.meter.pace
        if not self._watching or self._total is None or pace is None:
            return 0
        watching = self._watching[0]
        last = watching.values[-1].step if watching.values else self._start
        if watching.every is None or not points.due(self.step, last, watching.every):
            return 0
        passes = pace.validation or self._total * pace.training / self._batch_size / 3
        each = passes / self._total
        return points.samples(self.meter.seconds, seconds_spent, each, self._total)

    def extra(self, value: float, samples: int) -> None:
        """A value taken on some validation samples, of the first metric that a rule looks at."""
        self.meter.lap("validation", samples / (self._total or samples))
        self.report({self._watching[0].watch.metric: value}, samples)

    def refresh(self, forecast: Forecast) -> None:
        """Expect what a forecast says whose step 0 is now, made at the current weights."""
        for watching in self._watching:
            watching.refresh(forecast, self.step, self._seed)

    def fan(self) -> Fan | None:
        """The first curve that a rule looks at, and its trend up to the expected stop."""
        if self._watching and self._fan[0] != self._values:
            outcomes = self._outcomes()
            end = self.max_steps if outcomes is None else outcomes.interval[1]
            fan = self._watching[0].fan(self.step, float(end), self._seed)
            self._fan = (self._values, fan)
        return self._fan[1]

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as JSON holds it."""
        values = {w.watch.metric: [list(v) for v in w.values] for w in self._watching}
        return {"step": self.step, "seconds": self.meter.seconds, "values": values}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as the indicator whose `state` this was, at a speed to be measured anew.

        Args:
            state: that; ``"waited"``, where it is there, is where the rule's counter stands now.
        """
        self.step = self._start = int(state["step"])
        self.meter.restore(state.get("seconds", 0.0))
        for watching in self._watching:
            for value in state["values"].get(watching.watch.metric, ()):
                watching.add(Value(*value))
            if "waited" in state:
                watching.wait(state["waited"])

    @property
    def _values(self) -> int:
        """How many there were: what is simulated holds until there are more."""
        return sum(watching.added for watching in self._watching)

    def _outcomes(self) -> Outcomes | None:
        if any(w.met is not None and w.met < self.step for w in self._watching):
            return None  # training went on all the same
        if self.stopped:
            return Outcomes(np.array([float(self.step)]), self.max_steps)
        if self._known[0] != self._values:
            limit = self.max_steps
            found = (w.stops(self.step, limit, self._seed) for w in self._watching)
            told = [stops for stops in found if stops is not None]
            patience = max((w.watch.counter.patience for w in self._watching), default=0)
            outcomes = Outcomes.of(np.min(told, axis=0), limit, patience) if told else None
            self._known = (self._values, outcomes)
        known = self._known[1]
        return None if known is None else known.after(self.step)

    def _work(
        self, pace: Pieces, passed: float, middle: float, interval: Range | None
    ) -> dict[str, Any]:
        done = self.meter.done
        left = self._left(middle, done).seconds(pace)
        ends = interval and tuple(self._left(stop, done).seconds(pace) for stop in interval)
        before = Pieces(done.training + self._start, done.validation, done.checkpoint)
        units, speed = before.units(pace, self._batch_size), self._batch_size / pace.step
        price = None if self._price is None else self._price * (passed + left) / 3600
        return {
            "seconds": left,
            "seconds_interval": ends,
            "units_done": units,
            "units": units + speed * left,
            "units_per_second": speed,
            "price": price,
            "pace": pace,
        }

    def _left(self, stop: float, done: Pieces) -> Pieces:
        """Pieces until a step."""
        steps = max(stop - self.step, 0.0)
        share = steps / max(done.training, 1.0)
        held_out = (w for w in self._watching if not w.watch.metric.startswith("train"))
        spacings = [every for w in held_out if (every := w.every) is not None]
        passes = steps / min(spacings) if spacings else done.validation * share
        return Pieces(steps, passes, done.checkpoint * share)


_WORK = ("seconds", "seconds_interval", "units_done", "units", "units_per_second", "price", "pace")


def _check(name: str, value: int | None, *, least: int = 1) -> None:
    if value is not None and value < least:
        msg = f"{name}: got {value}; expected at least {least}"
        raise ValueError(msg)
