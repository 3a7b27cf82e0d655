"""Results as JSON: one way for all of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sde import Curve, Stability, Trajectory

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Dataclasses, arrays and numbers as JSON holds them; what is not finite becomes None."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return to_plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def to_trajectory(content: Any) -> Trajectory:
    """Curves from what `to_plain` made of them; what was not finite becomes NaN.

    Raises:
        KeyError, TypeError, ValueError: something else, or curves that do not fit their steps.
    """
    steps = np.array(content["steps"], int)

    def curve(split: str) -> Curve:
        values = [np.array(content[split][name], float) for name in ("loss", "accuracy")]
        if any(value.ndim != 2 or value.shape[1] != len(steps) for value in values):
            msg = f"{split}: got shapes {[value.shape for value in values]} for {len(steps)} steps"
            raise ValueError(msg)
        return Curve(*values)

    validation = None if content["validation"] is None else curve("validation")
    return Trajectory(steps, curve("train"), validation, int(content.get("known", 0)))


def to_stability(content: Any) -> Stability | None:
    """Likewise."""
    return None if content is None else Stability(**content)


def to_interval(content: Any) -> tuple[Any, ...] | None:
    """Likewise."""
    return None if content is None else tuple(content)


def to_outcomes(content: Any) -> np.ndarray:
    """Numbers that are infinite where JSON has None."""
    values = np.array(content, float)
    return np.where(np.isnan(values), np.inf, values)


def write(path: str | Path, content: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    target = Path(path)
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    part = target.with_name(target.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def read(path: str | Path, noun: str, version: int, build: Callable[[dict[str, Any]], T]) -> T:
    """Read what `write` wrote.

    Args:
        path: the file.
        noun: what it should hold.
        version: its format.
        build: makes the result of the content without its format.

    Raises:
        ValueError: something else, damaged, or written by another version.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        found = content.pop("format")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"path: {str(path)!r} is not a {noun} ({error!r}); make one with save"
        raise ValueError(msg) from error
    if found != version:
        newer = isinstance(found, int) and found > version
        msg = (
            f"path: {str(path)!r} has format {found}, this version reads {version}; "
            f"{'upgrade ntkpredict' if newer else f'make the {noun} again'}"
        )
        raise ValueError(msg)
    try:
        return build(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"path: {str(path)!r} is damaged ({error!r}); make the {noun} again"
        raise ValueError(msg) from error
