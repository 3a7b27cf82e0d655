"""Hugging Face: the `trainer_state.json` of a `Trainer`."""

from __future__ import annotations

from typing import Any

from ntkpredict.imports.logged import Logged, as_number, gather

_NO_CURVES = ("epoch", "step", "total_flos")


def is_state(content: Any) -> bool:
    """Whether JSON is a state of a `Trainer`."""
    return isinstance(content, dict) and {"log_history", "global_step"} <= content.keys()


def read_state(content: dict[str, Any]) -> Logged:
    """The log of a state; its last entry sums the run up and is no point of a curve."""
    log = content["log_history"]
    rows = [(int(row["step"]), row) for row in log if "train_runtime" not in row]
    values = {k: v for k, v in gather(rows).items() if k not in _NO_CURVES}
    seconds = [as_number(row.get("train_runtime")) for row in log]
    return Logged(
        values,
        steps=int(content["global_step"]),
        seconds=next((s for s in seconds if s is not None), None),
        batch_size=content.get("train_batch_size"),
    )
