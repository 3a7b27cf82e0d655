"""Lightning: the `metrics.csv` of its `CSVLogger`."""

from __future__ import annotations

from ntkpredict.imports.logged import Logged, gather


def is_log(columns: list[str]) -> bool:
    """Whether a CSV file's columns are those of Lightning's `CSVLogger`."""
    return "step" in columns


def read_log(rows: list[dict[str, str]]) -> Logged:
    """The rows of `metrics.csv`, whose steps count from 0."""
    steps = [int(float(row["step"])) + 1 for row in rows]
    values = gather(zip(steps, rows, strict=True))
    return Logged(
        {k: v for k, v in values.items() if k not in ("step", "epoch")}, "steps", max(steps)
    )
