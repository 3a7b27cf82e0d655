"""TensorBoard: scalars in event files, read by the library of that name, without TensorFlow."""

from __future__ import annotations

import re
from pathlib import Path

from ntkpredict.imports.logged import Logged, Point, Unit, UnknownLogError

_MARK = b"brain.Event:"
"""In the first record of every event file."""

_SPLITS = ("train", "validation")


def is_events(head: bytes) -> bool:
    """Whether a file that begins like this is an event file."""
    return _MARK in head[:64]


def read_events(files: list[Path]) -> Logged:
    """The scalars of one run; its files in folders train and validation are one run's halves.

    Raises:
        UnknownLogError: the library is not installed, or there are no scalars.
    """
    values: dict[str, list[Point]] = {}
    times: list[float] = []
    for folder in sorted({file.parent for file in files}):
        there = [file for file in files if file.parent == folder]
        for tag, events in _scalars(there[0] if len(there) == 1 else folder).items():
            name = f"{folder.name}/{tag}" if folder.name in _SPLITS else tag
            values[name] = [(step, value) for step, _, value in events]
            times += [when for _, when, _ in events]
    if not values:
        msg = f"path: {str(files[0])!r} has no scalars; expected those of a training run"
        raise UnknownLogError(msg)
    unit, values = _counted(values)
    last = max(step for points in values.values() for step, _ in points)
    return Logged(values, unit, last, max(times) - min(times))


def _counted(values: dict[str, list[Point]]) -> tuple[Unit, dict[str, list[Point]]]:
    """Steps done: Keras logs epochs, and Lightning steps, that count from 0."""
    epochs = {re.sub(r"(^|/)epoch_", r"\1", name): v for name, v in values.items()}
    if epochs.keys() != values.keys():
        kept = {new: values[old] for new, old in zip(epochs, values, strict=True) if new != old}
        return "epochs", {k: [(step + 1, v) for step, v in points] for k, points in kept.items()}
    if "epoch" in values:
        return "steps", {k: [(s + 1, v) for s, v in p] for k, p in values.items() if k != "epoch"}
    return "steps", values


def _scalars(place: Path) -> dict[str, list[tuple[int, float, float]]]:
    """By tag: step, time and value."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        msg = "format: 'tensorboard' needs a library; pip install 'ntkpredict[tensorboard]'"
        raise UnknownLogError(msg) from error
    events = EventAccumulator(str(place), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    found = {
        tag: [(e.step, e.wall_time, float(e.value)) for e in events.Scalars(tag)]
        for tag in tags["scalars"]
    }
    for tag in tags["tensors"]:
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            found[tag] = [
                (e.step, e.wall_time, float(make_ndarray(e.tensor_proto)))
                for e in events.Tensors(tag)
            ]
    return found
