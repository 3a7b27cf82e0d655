"""The phases of a forecast: how far each is, and what it took."""

from __future__ import annotations

from collections.abc import Callable

from linearize.types import Progress
from ntkpredict.cost import Clock

Report = Callable[[str], Progress]
"""Called with the name of a phase; returns what is called with (done, in all) as it goes on."""


class Stopwatch:
    """Seconds by phase."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """A phase has ended; one that comes again adds to its time."""
        now = self._clock()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now
