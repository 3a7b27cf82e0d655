"""The command: predict, compare, validate, train and history."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from ntkpredict.options import (
    Command,
    Compare,
    Predict,
    Recall,
    Reported,
    Task,
    Train,
    Validate,
)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TFDS and JAX warn about a missing TensorFlow


def main() -> None:
    """The entry point; exits 0 when all went well, 1 for the impossible, 2 for wrong usage."""
    command = tyro.cli(Command, prog="ntkpredict", description=__doc__)
    try:
        console = Console(highlight=False)
        if isinstance(command, Recall):
            recall(command, console)
        else:
            run(command, console)
    except (ValueError, OSError, ImportError) as error:
        print(f"ntkpredict: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def run(command: Predict | Compare | Train, console: Console) -> None:
    """Carry out a command and print its result.

    Raises:
        ValueError: bad input.
    """
    import ntkpredict as ntp
    from ntkpredict import display
    from ntkpredict.history import History
    from ntkpredict.score import score

    _check_writable("save", command.save)
    if isinstance(command, Reported):
        _check_report(command)
    if isinstance(command, Validate) and command.suite is not None:
        _print(score(command.suite), command, console)
        return
    if isinstance(command, Compare):
        ranking = _compare(command, console)
        _print(ranking, command, console)
        _illustrate(ranking, command)
        return
    plan, until = _plan(command), ntp.parse(command.until)
    network = _network(command)
    data = ntp.load_data(command.data)
    history = History.choose(command.history)
    with display.progress_bars(console, quiet=command.json) as report:
        if isinstance(command, Train):
            with closing(
                _tracker(command, f"{network.name} on {data.name}", plan, until)
            ) as tracker:
                result: Any = ntp.train(
                    network,
                    data,
                    plan,
                    until,
                    checkpoints=command.checkpoints,
                    checkpoint_every=command.checkpoint_every,
                    progress=report and report("training"),
                    tracker=tracker,
                )
            if tracker.cancelled:  # no run to learn from
                history = None
                print(f"cancelled after {result.trained_steps} steps", file=sys.stderr)
        else:
            function = ntp.validate if isinstance(command, Validate) else ntp.predict
            kept: dict[str, Any] = {"calibration": ntp.Calibration.of(history)}
            if isinstance(command, Validate):
                kept["history"] = history
            result = function(
                network,
                data,
                plan,
                until,
                **kept,
                budget=_share(command.budget),
                samples=command.samples,
                mode=command.mode,
                kernel=command.kernel,
                solver=command.solver,
                report=report,
            )
    if not isinstance(command, Validate):
        ntp.remember(history, network, data, plan, until, result)
    _print(result, command, console)
    if isinstance(command, Reported):
        _illustrate(result, command)


def recall(command: Recall, console: Console) -> None:
    """Look into the history, or forget some of it.

    Raises:
        ValueError: records that are not there, or nothing to do it with.
    """
    import ntkpredict as ntp
    from ntkpredict.history import History
    from ntkpredict.history_table import show_records

    history = History.choose(command.history)
    if history is None:
        msg = "history: it is off; expected a file"
        raise ValueError(msg)
    if command.action not in ("list", "export") and not command.of and not command.all:
        wanted = "files" if command.action == "import" else "numbers from `ntkpredict history list`"
        msg = f"of: got none to {command.action}; expected {wanted}"
        raise ValueError(msg)
    if command.action == "import":
        added = []
        for path in command.of:
            added += ntp.import_runs(
                path, history, format=command.format, steps_per_epoch=command.steps_per_epoch
            )
        print(json.dumps(added) if command.json else f"added {len(added)} runs to {history.path}")
        return
    ids = tuple(_whole("of", text) for text in command.of)
    if command.action == "forget":
        print(f"forgot {history.forget(ids)} records of {history.path}")
        return
    records = history.records(ids)
    if command.action == "list" and not command.json:
        show_records(console, records)
        return
    for record in records:
        indent = 1 if command.action == "show" and not command.json else None
        print(json.dumps(record.to_dict(), indent=indent))


def _tracker(command: Train, title: str, plan: Any, until: Any) -> Any:
    """What serves the run, where that was asked for."""
    import ntkpredict as ntp

    if not command.serve:
        return ntp.Tracker(None)
    tracker = ntp.track(
        iter(()),
        until,
        max_steps=plan.max_steps,
        batch_size=plan.batch_size,
        quiet=True,
        title=title,
        serve=True,
    )
    print(f"{title}: {tracker.url}", file=sys.stderr, flush=True)
    return tracker


def _compare(command: Compare, console: Console) -> Any:
    import ntkpredict as ntp
    from ntkpredict import display

    common = {
        name: getattr(command, name)
        for name in ("momentum", "weight_decay", "schedule", "max_steps", "loss", "seed")
    }
    sizes = [_whole("batch-size", size) for size in command.batch_size.split(",")]
    plans = ntp.Plan.grid(_rates(command.lr), sizes, command.optimizer.split(","), **common)
    within = None if command.within is None else ntp.Budget.parse(command.within)
    until = command.until
    if until is None and within is None:
        until = Task.until
    machines = [ntp.Machine.parse(text) for text in command.machine] or [ntp.Machine()]
    with display.progress_bars(console, quiet=command.json) as report:
        return ntp.compare(
            _network(command),
            ntp.load_data(command.data),
            plans,
            None if until is None else ntp.parse(until),
            within=within,
            machines=machines,
            criterion=command.by,
            interpolate=command.interpolate,
            patience=command.patience,
            samples=command.samples,
            calibration=ntp.Calibration.of(ntp.History.choose(command.history)),
            report=report,
        )


def _rates(text: str) -> list[float]:
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


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        msg = f"{name}: got {text!r}; expected whole numbers"
        raise ValueError(msg) from None


def _print(result: Any, command: Task, console: Console) -> None:
    from ntkpredict import display

    if command.save is not None:
        result.save(command.save)
    if command.json:
        print(json.dumps(result.to_dict(), allow_nan=False))
    else:
        display.show(console, result)


def _illustrate(result: Any, command: Reported) -> None:
    """Its page and its figures."""
    import ntkpredict as ntp

    if command.report is not None:
        ntp.report(result, command.report)
    drawn = ntp.figures(result) if command.figure else {}
    for path in command.figure:
        if path.stem not in drawn:
            msg = f"figure: got {str(path)!r}; expected one of {', '.join(drawn)}, .svg or .png"
            raise ValueError(msg)
        drawn[path.stem].save(path)


def _check_report(command: Reported) -> None:
    """Before anything is computed."""
    from ntkpredict.report.extra import check_installed

    _check_writable("report", command.report)
    for path in command.figure:
        _check_writable("figure", path)
    if command.report is not None or command.figure:
        check_installed()


def _share(text: str) -> float:
    number = text.removesuffix("%")
    try:
        return float(number) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        msg = f"budget: got {text!r}; expected a share of the run such as 5% or 0.05"
        raise ValueError(msg) from error


def _check_writable(name: str, path: Path | None) -> None:
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir() or not (folder.is_dir() and os.access(folder, os.W_OK)):
        msg = f"{name}: {str(path)!r} cannot be written; expected a file in a folder that exists"
        raise ValueError(msg)


def _plan(task: Task) -> Any:
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


def _network(task: Task) -> Any:
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


if __name__ == "__main__":
    main()
