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


def duration(seconds: int | float | None) -> str:
    """Seconds in the two largest units, or to two digits where they are few.

    >>> duration(0.25), duration(9.97), duration(59.6), duration(7_500), duration(200_000)
    ('0.25 s', '10 s', '1 min 0 s', '2 h 5 min', '2 d 7 h')
    """
    if seconds is None:
        return "unknown"
    if seconds < 10:
        return f"{seconds:.2g} s"
    rest = round(seconds)
    for size, name, smaller, small in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if rest >= size:
            return f"{rest // size} {name} {rest % size // smaller} {small}"
    return f"{rest} s"


def as_number(text: str) -> float | None:
    """A number, None where it is none."""
    try:
        return float(text)
    except ValueError:
        return None
