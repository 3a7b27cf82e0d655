"""What a person sees of it: a panel in a terminal, else a line a minute."""

from __future__ import annotations

import sys

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ntkpredict.progress.estimate import Estimate
from ntkpredict.progress.watching import Fan
from ntkpredict.progress.words import REMAINING, line, rows

_WIDTH, _HEIGHT = 60, 8


class Display:
    """Shows an indicator on a console.

    Args:
        console: where to.
        title: of the run.
    """

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._live: Live | None = None
        self.interval_seconds = 1.0 if console.is_terminal else 60.0

    def show(self, estimate: Estimate, fan: Fan | None) -> None:
        """The state of things now."""
        if not self._console.is_terminal:
            self._console.print(f"{self._title}: {line(estimate)}", highlight=False, soft_wrap=True)
            return
        if self._live is None:
            # what the loop prints goes above the panel, but into a file where it is sent to one
            seen = sys.stdout.isatty()
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=seen)
            self._live.start()
        self._live.update(panel(estimate, fan, self._title), refresh=True)

    def close(self) -> None:
        """Leave the last state standing."""
        if self._live is not None:
            self._live.stop()


def panel(estimate: Estimate, fan: Fan | None, title: str) -> Panel:
    """All of it, with the curve."""
    table = Table.grid(padding=(0, 2))
    for label, text in rows(estimate):
        table.add_row(label, Text(text, style="bold green" if label == REMAINING else ""))
    parts: list[RenderableType] = [table]
    if estimate.done is not None:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(1.0, estimate.done, width=_WIDTH - 6), f"{estimate.done:.0%}")
        parts.append(bar)
    if fan is not None and len(fan.steps):
        parts += [Text(fan.metric, style="dim"), plot(fan)]
    return Panel(Group(*parts), title=title, expand=False)


def plot(fan: Fan, width: int = _WIDTH, height: int = _HEIGHT) -> Text:
    """The curve so far in dots, its trend ahead as a line in a shaded band."""
    everything = np.concatenate([fan.values, fan.middle])  # the band is cut off where it is wider
    bottom, top = float(everything.min()), float(everything.max())
    end = float(fan.ahead[-1])

    def column(steps: np.ndarray) -> np.ndarray:
        return np.clip((steps / end * (width - 1)).round().astype(int), 0, width - 1)

    def row(values: np.ndarray) -> np.ndarray:
        share = (top - values) / ((top - bottom) or 1.0)
        return np.clip((share * (height - 1)).round().astype(int), 0, height - 1)

    cells = np.full((height, width), " ")
    for x in range(int(column(fan.ahead[:1])[0]), width):
        step = np.array([x / (width - 1) * end])
        first, middle, last = (
            int(row(np.interp(step, fan.ahead, part))[0])
            for part in (fan.high, fan.middle, fan.low)
        )
        cells[first : last + 1, x] = "░"
        cells[middle, x] = "─"
    cells[row(fan.values), column(fan.steps)] = "•"
    labels = [f"{top:8.3g} ", *[" " * 9] * (height - 2), f"{bottom:8.3g} "]
    return Text("\n".join(label + "".join(cell) for label, cell in zip(labels, cells, strict=True)))
