"""Somebody's wish to stop a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeAlias

Agree: TypeAlias = Callable[[bool], bool]
"""Whether it is true in any of the processes that train together; all of them call it."""


class Cancel:
    """Stops a run at somebody's wish, after a checkpoint.

    `ask` may be called in any thread; the rest belongs to the one that trains.

    Args:
        checkpoint: writes the checkpoint; none is written where None.
        agree: of the processes that train together; None where there is one.

    Attributes:
        checkpoint: as above.
        possible: whether there is anybody who carries it out.
        asked: whether there is a wish that has not been carried out yet.
        done: whether training is to stop now.
        status: what has come of it, in words.
    """

    def __init__(
        self, checkpoint: Callable[[], object] | None = None, agree: Agree | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.possible = True
        self.asked = False
        self.done = False
        self.status = "Training"
        self._agree = agree
        self._wished = False

    def ask(self) -> None:
        """Wish that training stops."""
        if self.possible and not self.done:
            self.status = "Cancelling: training stops after this step"
            self._wished = True
            self.asked = self.asked or self._agree is None

    def settle(self) -> None:
        """After each step: what one process wishes, all of them do after the same step."""
        if self._agree is not None and not self.done:
            self.asked = self._agree(self._wished)

    def carry_out(self) -> None:
        """Write the checkpoint; where that fails, in any process, training goes on."""
        self.asked = self._wished = False
        failure = self._write()
        failed = failure is not None
        if failed if self._agree is None else self._agree(failed):
            failure = failure or "in another process"
            self.status = f"Not cancelled, as the checkpoint failed: {failure}"
            warnings.warn(
                f"the checkpoint failed, training goes on: {failure}", RuntimeWarning, stacklevel=3
            )
        else:
            self.done = True
            self.status = "Cancelled" + (self.checkpoint is not None) * ", a checkpoint is written"

    def _write(self) -> str | None:
        """The checkpoint; what went wrong."""
        try:
            if self.checkpoint is not None:
                self.checkpoint()
        except Exception as error:
            return repr(error)
        return None
