"""An indicator that never gets in the way of training."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from ntkpredict.cost import Clock
from ntkpredict.forecast import Forecast
from ntkpredict.progress.cancel import Cancel
from ntkpredict.progress.estimate import Estimate
from ntkpredict.progress.extra import Evaluate, ExtraPoints
from ntkpredict.progress.indicator import Indicator
from ntkpredict.progress.view import View, Views
from ntkpredict.progress.work import Kind

R = TypeVar("R")


class Tracker:
    """An `Indicator` that never gets in the way of training.

    Whatever goes wrong in here becomes one warning, and training goes on without it. Each turn of
    a loop over it is a step, done as soon as anything is said or asked about it, at the latest with
    the turn; the time between turns is spent waiting for data. Without such a loop, call `advance`.

    Args:
        indicator: the indicator; None, as after a failure, where there is nothing to follow.
        items: what to iterate over.
        views: where it is shown.
        cancel: somebody's wish to stop.
        url: of the page; None where there is none.
        extra: takes extra validation points.
        points: how many of them.
        clock: seconds since some moment.
    """

    def __init__(
        self,
        indicator: Indicator | None,
        items: Iterable[Any] = (),
        *,
        views: Iterable[View] = (),
        cancel: Cancel | None = None,
        url: str | None = None,
        extra: Evaluate | None = None,
        points: ExtraPoints | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.indicator = indicator
        self._items = items
        self.url = url
        self._views = Views(views, clock)
        self.cancel = Cancel() if cancel is None else cancel
        self._extra = extra
        self._points = ExtraPoints() if points is None else points
        self._spent = 0.0
        self._clock = clock
        self._pending = False

    def __iter__(self) -> Iterator[Any]:
        try:
            for item in self._items:
                self.lap("data")
                self._pending = True
                yield item
                self._settle()
                self._safely(lambda indicator: indicator.lap("training", 0.0))  # the turn's rest
                self.cancel.settle()
                if self.cancelled:
                    break
        finally:
            self.close()

    def advance(self, steps: int = 1) -> None:
        """So many training steps have just been done."""
        self._safely(partial(self._advance, steps))
        self.cancel.settle()

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
        """Whether to stop: the rule says so, or the run was cancelled."""
        self._settle()
        return self.cancelled or bool(self._safely(lambda indicator: indicator.stopped))

    @property
    def cancelled(self) -> bool:
        """Whether the run was cancelled, a checkpoint having been written; a loop ends then."""
        if self.cancel.asked:
            self._settle()
            with self.checkpointing():
                self.cancel.carry_out()
        return self.cancel.done

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

    def refresh(self, forecast: Forecast) -> None:
        """Expect what a forecast says that was made at the current weights: its step 0 is now.

        It takes the place of the one before, and is as much believed as one made before launch:
        from now on values tell how much. The rule and the budget stay.
        """
        self._settle()
        self._safely(lambda indicator: indicator.refresh(forecast))

    def close(self) -> None:
        """Show the last state; leave the terminal alone and close the page."""
        self._settle()
        self._safely(self._views.finish)
        self._views.close()

    @contextmanager
    def _working(self, kind: Kind) -> Iterator[None]:
        self._settle()
        self._safely(lambda indicator: indicator.lap("training", 0.0))
        yield
        self.lap(kind)

    def _settle(self) -> None:
        if self._pending:
            self._pending = False
            self._safely(partial(self._advance, 1))

    def _advance(self, steps: int, indicator: Indicator) -> None:
        indicator.advance(steps)
        if self._extra is not None:
            self._take_extra(self._extra, indicator)
        self._views.renew(indicator)

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
