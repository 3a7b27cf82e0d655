"""The metric that a rule goes by: its name and how it is written."""

from __future__ import annotations

from typing import Any, Literal

On = Literal["train", "validation"]
Metric = Literal["loss", "accuracy"]


def check_split(on: str) -> None:
    """Refuse anything but `On`."""
    if on not in ("train", "validation"):
        msg = f"on: got {on!r}; expected 'train' or 'validation'"
        raise ValueError(msg)


def check_metric(metric: str) -> None:
    """Refuse anything but `Metric`."""
    if metric not in ("loss", "accuracy"):
        msg = f"metric: got {metric!r}; expected 'loss' or 'accuracy'"
        raise ValueError(msg)


def prefix(on: On) -> str:
    """Before the name of a metric; training goes without saying."""
    return "" if on == "train" else "validation_"


def number(value: Any) -> str:
    """As short as it can be read back exactly."""
    exact = float(value)
    short = f"{exact:g}"
    return short if float(short) == exact else repr(exact)
