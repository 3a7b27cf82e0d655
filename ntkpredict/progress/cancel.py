"""Somebody's wish to stop a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable


class Cancel:
    """Stops a run at somebody's wish, after a checkpoint.

    `ask` may be called in any thread; `carry_out` belongs to the one that trains.

    Attributes:
        checkpoint: writes the checkpoint; none is written where None.
        possible: whether there is anybody who carries it out.
        asked: whether there is a wish that has not been carried out yet.
        done: whether training is to stop now.
        status: what has come of it, in words.
    """

    def __init__(self, checkpoint: Callable[[], object] | None = None) -> None:
        self.checkpoint = checkpoint
        self.possible = True
        self.asked = False
        self.done = False
        self.status = "Training"

    def ask(self) -> None:
        """Wish that training stops."""
        if self.possible and not self.done:
            self.status = "Cancelling: training stops after this step"
            self.asked = True

    def carry_out(self) -> None:
        """Write the checkpoint; where that fails, training goes on."""
        self.asked = False
        try:
            if self.checkpoint is not None:
                self.checkpoint()
        except Exception as error:
            self.status = f"Not cancelled, as the checkpoint failed: {error!r}"
            warnings.warn(
                f"the checkpoint failed, training goes on: {error!r}", RuntimeWarning, stacklevel=3
            )
        else:
            self.done = True
            self.status = "Cancelled" + (self.checkpoint is not None) * ", a checkpoint is written"
