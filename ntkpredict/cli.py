"""The command: predict, compare, validate, train and history."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from typing import Any

import tyro
from rich.console import Console

from ntkpredict.arguments import (
    check_writable,
    read_network,
    read_plan,
    read_rates,
    read_share,
    read_whole,
)
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

    check_writable("save", command.save)
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
    plan, until = read_plan(command), ntp.parse(command.until)
    network = read_network(command)
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
                budget=read_share(command.budget),
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
    ids = tuple(read_whole("of", text) for text in command.of)
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
    sizes = [read_whole("batch-size", size) for size in command.batch_size.split(",")]
    plans = ntp.Plan.grid(read_rates(command.lr), sizes, command.optimizer.split(","), **common)
    within = None if command.within is None else ntp.Budget.parse(command.within)
    until = command.until
    if until is None and within is None:
        until = Task.until
    machines = [ntp.Machine.parse(text) for text in command.machine] or [ntp.Machine()]
    with display.progress_bars(console, quiet=command.json) as report:
        return ntp.compare(
            read_network(command),
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
    from ntkpredict.optional import require
    from ntkpredict.report.figure import EXTRA

    check_writable("report", command.report)
    for path in command.figure:
        check_writable("figure", path)
    if command.report is not None or command.figure:
        require(*EXTRA)


if __name__ == "__main__":
    main()
