"""The indicator as scalars for TensorBoard; needs the extra ``tensorboard``."""

from __future__ import annotations

from pathlib import Path

from tensorboardX import SummaryWriter

from ntkpredict.progress.estimate import Estimate
from ntkpredict.progress.watching import Fan


class Scalars:
    """A view that writes event files, with the step done as TensorBoard's step.

    Args:
        folder: for the files; made where it is missing.
    """

    interval_seconds = 10.0

    def __init__(self, folder: str | Path) -> None:
        self._writer = SummaryWriter(str(folder), flush_secs=10)

    def show(self, estimate: Estimate, fan: Fan | None) -> None:  # noqa: ARG002 (curves have theirs)
        """The state of things now."""
        for name, value in scalars(estimate).items():
            self._writer.add_scalar(f"progress/{name}", value, estimate.step)

    def close(self) -> None:
        """Write what is not yet written."""
        self._writer.close()


def scalars(estimate: Estimate) -> dict[str, float]:
    """All that is known, by name."""
    low, high = estimate.seconds_interval or (None, None)
    found = {
        "seconds_passed": estimate.seconds_passed,
        "seconds_remaining": estimate.seconds,
        "seconds_remaining_low": low,
        "seconds_remaining_high": high,
        "expected_steps": estimate.steps,
        "done": estimate.done,
        "at_maximum": estimate.at_maximum,
        "units_per_second": estimate.units_per_second,
        "price": estimate.price,
        **{f"share_of_time/{kind}": share for kind, share in estimate.shares.items()},
    }
    if estimate.pace is not None:
        pace = vars(estimate.pace).items()
        found |= {f"seconds_per_piece/{kind}": seconds for kind, seconds in pace if seconds}
    return {name: float(value) for name, value in found.items() if value is not None}
