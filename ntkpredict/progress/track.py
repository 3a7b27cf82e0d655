"""The indicator around any loop."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from rich.console import Console

from ntkpredict.cost import Clock
from ntkpredict.forecast import Forecast
from ntkpredict.progress.estimate import Estimate
from ntkpredict.progress.extra import Evaluate, ExtraPoints
from ntkpredict.progress.indicator import Indicator
from ntkpredict.progress.panel import Display
from ntkpredict.progress.work import Kind
from ntkpredict.stopping import StoppingRule, Watch, parse

R = TypeVar("R")

_SHARE = 300
"""What is shown is not renewed before so many times the time that the last renewal took."""


class Tracker:
    """An `Indicator` that never gets in the way of training.

    Whatever goes wrong in here becomes one warning, and training goes on without it. Each turn of
    a loop over it is a step, done as soon as anything is said or asked about it, at the latest with
    the turn. Without such a loop, call `advance`.

    Args:
        indicator: the indicator; None, as after a failure, where there is nothing to follow.
        items: what to iterate over.
        display: where it is shown; nowhere where None.
        extra: takes extra validation points.
        points: how many of them.
        clock: seconds since some moment.
    """

    def __init__(
        self,
        indicator: Indicator | None,
        items: Iterable[Any] = (),
        *,
        display: Display | None = None,
        extra: Evaluate | None = None,
        points: ExtraPoints | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.indicator = indicator
        self._items = items
        self._display = display
        self._extra = extra
        self._points = ExtraPoints() if points is None else points
        self._spent = 0.0
        self._clock = clock
        self._due = clock() if display is None else clock() + display.interval_seconds
        self._pending = False

    def __iter__(self) -> Iterator[Any]:
        try:
            for item in self._items:
                self._pending = True
                yield item
                self._settle()
        finally:
            self.close()

    def advance(self, steps: int = 1) -> None:
        """So many training steps have just been done."""
        self._safely(partial(self._advance, steps))

    def report(self, *, samples: int | None = None, **values: Any) -> None:
        """Values of metrics at this step.

        Args:
            samples: how many validation samples, where not all of them: for the curve alone.
            values: by the name that the rule knows, such as ``validation_loss``; others do not
                matter.
        """
        self._settle()
        self._safely(lambda indicator: indicator.report(values, samples))

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Around a validation pass: its time is not training's."""
        with self._working("validation"):
            yield

    @contextmanager
    def checkpointing(self) -> Iterator[None]:
        """Around writing a checkpoint."""
        with self._working("checkpoint"):
            yield

    def lap(self, kind: Kind) -> None:
        """What came since the last step or lap was a piece of this work."""
        self._safely(lambda indicator: indicator.lap(kind))

    def pause(self) -> None:
        """Stop the clock until `resume`."""
        self._safely(lambda indicator: indicator.meter.pause())

    def resume(self) -> None:
        """Go on after a pause."""
        self._safely(lambda indicator: indicator.meter.resume())

    @property
    def stopped(self) -> bool:
        """Whether the rule says to stop, for loops that leave that to it."""
        self._settle()
        return bool(self._safely(lambda indicator: indicator.stopped))

    def estimate(self) -> Estimate | None:
        """What remains; None where the indicator failed."""
        self._settle()
        return self._safely(Indicator.estimate)

    def state(self) -> dict[str, Any] | None:
        """For a checkpoint."""
        self._settle()
        return self._safely(Indicator.state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self._safely(lambda indicator: indicator.restore(state))

    def close(self) -> None:
        """Show the last state and leave the terminal alone."""
        self._settle()
        display, self._display = self._display, None
        if display is not None:
            self._safely(display.show)
            with suppress(Exception):
                display.close()

    @contextmanager
    def _working(self, kind: Kind) -> Iterator[None]:
        self._settle()
        self._safely(lambda indicator: indicator.lap("training", 0.0))
        yield
        self.lap(kind)

    def _settle(self) -> None:
        if self._pending:
            self._pending = False
            self.advance()

    def _advance(self, steps: int, indicator: Indicator) -> None:
        indicator.advance(steps)
        if self._extra is not None:
            self._take_extra(self._extra, indicator)
        if self._display is not None and self._clock() >= self._due:
            start = self._clock()
            self._display.show(indicator)
            now = self._clock()
            self._due = now + max(self._display.interval_seconds, _SHARE * (now - start))

    def _take_extra(self, evaluate: Evaluate, indicator: Indicator) -> None:
        count = indicator.extra_samples(self._points, self._spent)
        if count:
            start = self._clock()
            value = float(evaluate(count))
            self._spent += self._clock() - start
            indicator.extra(value, count)

    def _safely(self, action: Callable[[Indicator], R]) -> R | None:
        if self.indicator is None:
            return None
        try:
            return action(self.indicator)
        except Exception as error:  # a run is worth more than its indicator
            self.indicator = None
            warnings.warn(
                f"the progress indicator failed and is off, training goes on: {error!r}",
                RuntimeWarning,
                stacklevel=3,
            )
            return None


def track(
    run: Forecast | Iterable[Any] | int,
    until: StoppingRule | str | tuple[Watch, ...] | None = None,
    *,
    max_steps: int | None = None,
    forecast: Forecast | None = None,
    extra: Evaluate | None = None,
    budget: float = 0.01,
    console: Console | None = None,
    quiet: bool = False,
    title: str = "Training",
    clock: Clock = time.monotonic,
    **options: Any,
) -> Tracker:
    """Follow a training loop and show how long it will still take.

    >>> progress = track(100, "patience>=2@10", quiet=True)
    >>> for step in progress:
    ...     if step % 10 == 0:
    ...         with progress.validating():
    ...             loss = max(1 / step, 0.02)
    ...         progress.report(validation_loss=loss)
    ...     if progress.stopped:
    ...         break
    >>> step
    70

    Args:
        run: a forecast of the run, whose budget and rule are taken; or a number of steps, in both
            cases for a loop over 1, 2, … from `start` on; or what the loop iterates over, one item
            a step.
        until: the rule that stops the loop, or what `parse` reads.
        max_steps: the most steps there will be; needed where `run` has no length.
        forecast: made before launch; the curve is expected to be like its.
        extra: samples -> value of the first metric that the rule looks at, on so many random
            validation samples: taken now and then, for the curve alone. `validation_samples` is
            needed with it.
        budget: the share of the time that `extra` may take.
        console: where to show it; the standard error where None. In a terminal a panel, else a
            line a minute.
        quiet: show nothing.
        title: of the run.
        clock: seconds since some moment.
        options: of `Indicator`: batch_size, every, schedule, validation_samples, price_per_hour,
            start, noise, window, seed.

    Raises:
        ValueError: no length, or a value outside of its range.
    """
    if isinstance(run, Forecast):
        forecast, until = run, run.until if until is None else until
        run = int(run.trajectory.steps[-1])
    items: Iterable[Any] = []
    if isinstance(run, int):
        items, max_steps = range(options.get("start", 0) + 1, run + 1), max_steps or run
    else:
        items = run
    if max_steps is None:
        if not isinstance(items, Sized):
            msg = "max_steps: got None for a loop without a length; expected a number of steps"
            raise ValueError(msg)
        max_steps = len(items)
    if extra is not None and options.get("validation_samples") is None:
        msg = "validation_samples: got None; expected how many there are, as extra is given"
        raise ValueError(msg)
    rule = parse(until) if isinstance(until, str) else until
    indicator = Indicator(rule, max_steps, forecast=forecast, clock=clock, **options)
    shown = None if quiet else Display(console or Console(stderr=True), title)
    points = ExtraPoints(budget)
    return Tracker(indicator, items, display=shown, extra=extra, points=points, clock=clock)
