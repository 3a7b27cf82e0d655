"""Work done and to do, and how fast it goes.

Work is counted in U, the work of one training sample, waiting for it included (Dong and Luo 2020,
IEEE Access). A validation pass or a checkpoint is worth as many U as training would do in its time,
so that

    total U = U done + speed · remaining seconds

holds whatever the run is made of.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, fields
from typing import Literal

from ntkpredict.cost import Clock

Kind = Literal["training", "validation", "checkpoint", "data"]

_BUCKETS = 50
"""In the window: pieces of work that are shorter are added up."""


@dataclass(frozen=True)
class Pieces:
    """How many training steps, validation passes and checkpoints; or seconds of one of each.

    Attributes:
        training: steps.
        validation: passes over the validation samples; a part of them is a part of a pass.
        checkpoint: times the weights are written.
        data: batches waited for, one a step.
    """

    training: int | float = 0
    validation: int | float = 0
    checkpoint: int | float = 0
    data: int | float = 0

    @property
    def step(self) -> int | float:
        """Seconds of a step, from the one before it, where these are seconds of a piece."""
        return self.training + self.data

    def seconds(self, pace: Pieces) -> float:
        """Of all of them, at so many seconds a piece."""
        validation = self.validation * pace.validation
        return self.training * pace.step + validation + self.checkpoint * pace.checkpoint

    def units(self, pace: Pieces, batch_size: int | float) -> float:
        """Their work in U."""
        return batch_size * self.seconds(pace) / pace.step


class _Window:
    """One kind's pieces and their seconds, of late and in all."""

    def __init__(self) -> None:
        self.pieces = 0.0
        self._buckets: deque[list[float]] = deque()  # end, pieces, seconds
        self._first = True

    def add(self, pieces: float, seconds: float, now: float, window: float) -> None:
        self.pieces += pieces
        buckets = self._buckets
        soon = not self._first and bool(buckets) and now - buckets[-1][0] < window / _BUCKETS
        if soon or (buckets and pieces == 0):
            buckets[-1][1] += pieces
            buckets[-1][2] += seconds
            return
        if self._first and buckets:  # the first piece of all compiles: it tells until the second
            buckets.clear()
            self._first = False
        buckets.append([now, pieces, seconds])
        while len(buckets) > 1 and buckets[0][0] < now - window:
            buckets.popleft()

    def seconds(self, now: float, window: float) -> float:
        return sum((b[2] for b in self._buckets if b[0] >= now - window), 0.0)

    def pace(self, now: float, window: float) -> float | None:
        recent = [b for b in self._buckets if b[0] >= now - window] or list(self._buckets)[-1:]
        pieces = sum(b[1] for b in recent)
        return sum(b[2] for b in recent) / pieces if pieces else None


class Meter:
    """Measures the pace of each kind of work over a sliding window.

    Time goes to the kind of the piece that ends with it, but for pauses, which go to none. A kind
    of which nothing happened in the window has the pace of its latest piece.

    Args:
        clock: seconds since some moment.
        window: in seconds.
        expected: seconds of a piece of each kind before there was one; 0 where not known.

    Raises:
        ValueError: no window.
    """

    def __init__(self, clock: Clock, window: float = 30.0, expected: Pieces | None = None) -> None:
        if not window > 0:
            msg = f"window: got {window}; expected seconds, more than 0"
            raise ValueError(msg)
        self._clock = clock
        self._window = window
        self._expected = Pieces() if expected is None else expected
        self._kinds = {f.name: _Window() for f in fields(Pieces)}
        self._mark = clock()
        self._start = self._mark
        self._paused: float | None = None

    def lap(self, kind: Kind, pieces: int | float = 1) -> None:
        """The time since the last lap was spent on so many pieces."""
        now = self._clock()
        self._kinds[kind].add(float(pieces), now - self._mark, now, self._window)
        self._mark = now

    def pause(self) -> None:
        """The clock stands still until `resume`; what came since the last lap still counts."""
        if self._paused is None:
            self._paused = self._clock()

    def resume(self) -> None:
        """Go on after a pause."""
        if self._paused is not None:
            away = self._clock() - self._paused
            self._mark, self._start, self._paused = self._mark + away, self._start + away, None

    def restore(self, seconds: int | float) -> None:
        """Count time that passed before."""
        self._start -= seconds

    @property
    def seconds(self) -> float:
        """Since the start, without pauses."""
        return (self._clock() if self._paused is None else self._paused) - self._start

    @property
    def done(self) -> Pieces:
        """What was done."""
        return Pieces(**{kind: window.pieces for kind, window in self._kinds.items()})

    @property
    def shares(self) -> dict[str, float]:
        """Of the time in the window, by kind of work; empty where none was done."""
        now = self._clock()
        seconds = {kind: row.seconds(now, self._window) for kind, row in self._kinds.items()}
        total = sum(seconds.values())
        return {kind: part / total for kind, part in seconds.items()} if total else {}

    @property
    def pace(self) -> Pieces | None:
        """Seconds of a piece of each kind; None before the first step where none is expected."""
        now = self._clock()
        found = {
            kind: getattr(self._expected, kind) if (pace := row.pace(now, self._window)) is None
            else pace
            for kind, row in self._kinds.items()
        }  # fmt: skip
        return Pieces(**found) if found["training"] > 0 else None
