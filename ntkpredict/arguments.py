"""What the texts of a command line stand for."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ntkpredict.options import Task


def read_plan(task: Task) -> Any:
    """The plan that the options describe."""
    from ntkpredict.plan import Plan

    common = {
        field: getattr(task, field)
        for field in ("weight_decay", "schedule", "batch_size", "max_steps", "loss", "seed")
    }
    if task.optimizer == "sgd":
        return Plan.sgd(task.lr, momentum=task.momentum, **common)
    if task.optimizer == "adamw":
        return Plan.adamw(task.lr, **common)
    msg = f"optimizer: got {task.optimizer!r}; expected 'sgd' or 'adamw'"
    raise ValueError(msg)


def read_network(task: Task) -> Any:
    """The embedded network, or the one that MODULE:FACTORY returns."""
    from linearize import Network

    if task.network == "embedded":
        from ntkpredict.embedded import load_network

        return load_network(seed=task.seed)
    module, _, factory = task.network.partition(":")
    if not module or not factory:
        msg = f"network: got {task.network!r}; expected MODULE:FACTORY"
        raise ValueError(msg)
    sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError) as error:
        msg = f"network: {task.network!r} cannot be imported: {error}"
        raise ValueError(msg) from error
    network = function() if callable(function) else function
    if not isinstance(network, Network):
        msg = f"network: {task.network!r} returned {type(network).__name__}; expected a Network"
        raise ValueError(msg)  # noqa: TRY004 (a user's mistake: one line and exit code 1)
    return network


def read_rates(text: str) -> list[float]:
    """Learning rates, from FROM:TO:COUNT or a list."""
    match = re.fullmatch(r"([^:,]+):([^:,]+):([0-9]{1,4})", text)
    try:
        if match is None:
            return [float(part) for part in text.split(",")]
        grid = np.geomspace(float(match[1]), float(match[2]), int(match[3]))
    except ValueError:
        msg = f"lr: got {text!r}; expected such as 1e-3, 1e-3,3e-3 or 1e-3:1e-1:7"
        raise ValueError(msg) from None
    return [float(f"{rate:.4g}") for rate in grid]


def read_whole(name: str, text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        msg = f"{name}: got {text!r}; expected whole numbers"
        raise ValueError(msg) from None


def read_share(text: str) -> float:
    """A share, from 5% or 0.05."""
    number = text.removesuffix("%")
    try:
        return float(number) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        msg = f"budget: got {text!r}; expected a share of the run such as 5% or 0.05"
        raise ValueError(msg) from error


def check_writable(name: str, path: Path | None) -> None:
    """Refuse a file that could not be written, before anything is computed."""
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir() or not (folder.is_dir() and os.access(folder, os.W_OK)):
        msg = f"{name}: {str(path)!r} cannot be written; expected a file in a folder that exists"
        raise ValueError(msg)
