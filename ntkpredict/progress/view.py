"""Where an indicator is shown: a terminal, a page in the browser, files of scalars."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol, runtime_checkable

from ntkpredict.cost import Clock
from ntkpredict.progress.estimate import Estimate
from ntkpredict.progress.indicator import Indicator
from ntkpredict.progress.watching import Fan

_SHARE = 300
"""What is shown is not renewed before so many times the time that the last renewal took."""


@runtime_checkable
class View(Protocol):
    """One place where the state of a run is shown.

    Attributes:
        interval_seconds: between renewals, at least.
    """

    interval_seconds: float

    def show(self, estimate: Estimate, fan: Fan | None) -> None:
        """The state of things now."""

    def close(self) -> None:
        """Nothing more will be shown."""


class Views:
    """Renews each view when it is due; one that fails is left out from then on, with a warning.

    Args:
        views: what to renew.
        clock: seconds since some moment.
    """

    def __init__(self, views: Iterable[View], clock: Clock) -> None:
        self._clock = clock
        now = clock()
        self._due = [(now + view.interval_seconds, view) for view in views]

    def renew(self, indicator: Indicator) -> None:
        """Show the indicator's state wherever that is due."""
        if self._due and self._clock() >= min(due for due, _ in self._due):
            self._renew(indicator, self._clock())

    def finish(self, indicator: Indicator) -> None:
        """Show the last state everywhere."""
        self._renew(indicator, float("inf"))

    def close(self) -> None:
        """Nothing more will be shown."""
        for _, view in self._due:
            with suppress(Exception):
                view.close()
        self._due = []

    def _renew(self, indicator: Indicator, now: float) -> None:
        if not self._due:
            return
        start = self._clock()
        estimate, fan = indicator.estimate(), indicator.fan()
        kept = []
        for due, view in self._due:
            if now < due:
                kept.append((due, view))
            elif _shown(view, estimate, fan):
                end = self._clock()
                kept.append((end + max(view.interval_seconds, _SHARE * (end - start)), view))
        self._due = kept


def _shown(view: View, estimate: Estimate, fan: Fan | None) -> bool:
    try:
        view.show(estimate, fan)
    except Exception as error:  # a run is worth more than a view of it
        warnings.warn(
            f"the {type(view).__name__} of the progress failed and is off, training goes on: "
            f"{error!r}",
            RuntimeWarning,
            stacklevel=2,
        )
        with suppress(Exception):
            view.close()
        return False
    return True
