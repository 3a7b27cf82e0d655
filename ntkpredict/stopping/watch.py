"""What a rule looks at while training runs."""

from __future__ import annotations

from typing import NamedTuple

from ntkpredict.counter import Counter


class Watch(NamedTuple):
    """What a rule looks at while training runs.

    Attributes:
        counter: says when it stops.
        metric: its name, such as ``"validation_loss"``.
        every: steps between evaluations; whenever there is a value where None.
    """

    counter: Counter
    metric: str
    every: int | None = None
