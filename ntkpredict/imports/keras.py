"""Keras: the `history` of a `History` as JSON, and the file of a `CSVLogger`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ntkpredict.imports.logged import Logged, as_number, gather


def is_history(content: Any) -> bool:
    """Whether JSON is a dictionary of lists, one number an epoch."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(values, list) and values for values in content.values())
        and all(as_number(v) is not None for values in content.values() for v in values)
    )


def read_history(content: Mapping[str, list[Any]]) -> Logged:
    """A `history` as JSON holds it.

    A metric with fewer values than the longest was logged once in so many epochs, as with
    `validation_freq`.
    """
    epochs = max(map(len, content.values()))
    values = {
        name: [((i + 1) * (epochs // len(column)), float(v)) for i, v in enumerate(column)]
        for name, column in content.items()
    }
    return Logged(values, "epochs", epochs)


def is_log(columns: list[str]) -> bool:
    """Whether a CSV file's columns are those of a `CSVLogger`."""
    return "epoch" in columns and "step" not in columns


def read_log(rows: list[dict[str, str]]) -> Logged:
    """The rows of a `CSVLogger`'s file, whose epochs count from 0."""
    values = gather((int(row.pop("epoch")) + 1, row) for row in map(dict, rows))
    return Logged(values, "epochs", len(rows))
