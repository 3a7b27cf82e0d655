"""Numbers as people read and write them."""

from __future__ import annotations

from ntkpredict.interval import Interval


def interval_text(interval: Interval | None, unit: str) -> str:
    """An interval in words; its upper end may lie beyond the budget."""
    if interval is None:
        return "-"
    low, high = interval
    places = 0 if not unit or low >= 10 else 1
    upper = f"{high:,.{places}f}" if high is not None else "beyond the budget"
    return f"{low:,.{places}f} to {upper}{' ' * bool(unit)}{unit}"


def duration(seconds: float | None) -> str:
    """Seconds, in the unit that a person would choose."""
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def as_number(text: str) -> float | None:
    """A number, None where it is none."""
    try:
        return float(text)
    except ValueError:
        return None
