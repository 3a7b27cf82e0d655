"""An estimate in words."""

from __future__ import annotations

from ntkpredict.progress.estimate import Estimate
from ntkpredict.units import duration

REMAINING = "Remaining"

_LEAST_SHARE = 0.005
_KINDS = {
    "training": "training",
    "validation": "validation",
    "checkpoint": "checkpoints",
    "data": "waiting for data",
}


def rows(estimate: Estimate) -> list[tuple[str, str]]:
    """Labels and what is to be said of each."""
    steps = f"{estimate.step:,} of about {estimate.steps:,.0f}"
    if estimate.steps_interval is not None:
        steps += " ({:,.0f} to {:,.0f})".format(*estimate.steps_interval)
    found = [
        ("Time passed", duration(estimate.seconds_passed)),
        (REMAINING, remaining(estimate)),
        ("Steps", steps),
    ]
    if estimate.at_maximum is not None:
        found.append(("Runs to the maximum", f"{estimate.at_maximum:.0%} likely"))
    if estimate.units is not None:
        money = "" if estimate.price is None else f", {estimate.price:,.2f} in money"
        found.append(("Cost", f"{estimate.units:,.0f} U{money}"))
        found.append(("Speed", f"{estimate.units_per_second:,.0f} U/s"))
    parts = {kind: share for kind, share in estimate.shares.items() if share >= _LEAST_SHARE}
    if len(parts) > 1:
        told = ", ".join(f"{_KINDS[kind]} {share:.0%}" for kind, share in parts.items())
        found.append(("Time goes to", told))
    return found


def line(estimate: Estimate) -> str:
    """The most important of it in one line."""
    parts = [f"step {estimate.step:,} of about {estimate.steps:,.0f}"]
    if estimate.done is not None:
        parts.append(f"{estimate.done:.0%} done")
    parts.append(f"{duration(estimate.seconds_passed)} passed")
    parts.append(f"{remaining(estimate)} remaining")
    if estimate.at_maximum is not None:
        parts.append(f"{estimate.at_maximum:.0%} to run to the maximum")
    return ", ".join(parts)


def remaining(estimate: Estimate) -> str:
    """The time that remains, with its interval."""
    text = duration(estimate.seconds)
    if estimate.seconds_interval is not None:
        low, high = map(duration, estimate.seconds_interval)
        text += f" ({low} to {high})"
    elif estimate.seconds is not None and estimate.steps_interval is None:
        text += " at most"
    return text
