"""The command: predict, compare, validate and train, each runnable with no arguments."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TFDS and JAX warn about a missing TensorFlow


@dataclass(frozen=True)
class Task:
    """What is trained, on what, how and until when. Without arguments: the embedded default."""

    lr: float = 0.001
    """Learning rate."""
    batch_size: int = 32
    """Samples per step."""
    optimizer: str = "sgd"
    """sgd or adamw."""
    momentum: float = 0.9
    """Momentum of sgd, in [0, 1)."""
    weight_decay: float = 0.0
    """Weight decay."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning-rate schedule; cosine falls to 0 over the budget."""
    until: str = "loss<=0.05x"
    """Stopping rule: loss<=0.1, loss<=0.1x (of the initial loss), accuracy>=0.9, converged<0.01,
    steps>=500, patience>=5@20 (early stopping: 5 evaluations, one every 20 steps, without a better
    validation loss) or best_val_loss; val_loss and val_accuracy for validation; joined by |."""
    max_steps: int = 2000
    """Budget in steps."""
    loss: Literal["cross_entropy", "squared_error"] = "cross_entropy"
    """What training minimises."""
    network: str = "embedded"
    """MODULE:FACTORY, a function without arguments that returns an ntkpredict.Network."""
    data: str = "digits"
    """digits, tfds:NAME or npz:PATH."""
    seed: int = 0
    """Seed of the minibatch order, and of the embedded network's new head."""
    json: bool = False
    """Print the result as JSON and nothing else."""
    save: Path | None = None
    """Also write the result to this JSON file."""


@dataclass(frozen=True)
class Predict(Task):
    """Forecast steps and seconds, without training."""

    budget: str = "0"
    """Share of the run's cost to spend on the forecast's accuracy, such as 5%: the real weights are
    followed along the predicted path to see how fast the kernel grows."""
    samples: int = 512
    """Training samples to look at, at most; cost grows with it."""
    mode: Literal["head_exact", "linear"] | None = None
    """Linearisation: head_exact (default where the head is known) or linear, the paper's."""
    kernel: Literal["growing", "frozen"] | None = None
    """How it goes on: growing as features form (default with a head_exact mode) or frozen."""
    solver: Literal["auto", "replay", "sde", "spectral"] = "auto"
    """Of the linearised training: replay (every step), sde (the paper's), spectral (closed form of
    squared error) or auto."""


@dataclass(frozen=True)
class Compare(Task):
    """Forecast many plans at once, and tell which is best."""

    lr: str = "1e-3:1e-1:7"  # type: ignore[assignment]
    """Learning rates: FROM:TO:COUNT, evenly spaced on a logarithmic axis, or a list with commas."""
    batch_size: str = "32"  # type: ignore[assignment]
    """Batch sizes, a list with commas."""
    optimizer: str = "sgd"
    """sgd, adamw or sgd,adamw."""
    until: str | None = None  # type: ignore[assignment]
    """Stopping rule, as for predict; by default loss<=0.05x, or the end of the budget where within
    is given."""
    within: str | None = None
    """Budget of a run, such as 20min, 5USD or 1000steps: what to expect of each plan there."""
    machine: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Where runs could be, by price and throughput relative to this machine: a100:3.2USD/h:0.8x;
    may be repeated."""
    by: Literal["seconds", "price", "steps", "loss"] | None = None
    """What is to be small: seconds (default), price, steps or the final loss (default where within
    is given without until)."""
    interpolate: bool = False
    """Time the smallest and the largest batch size only."""
    patience: float = 10.0
    """A plan that takes more than so many times the steps of the fastest is given up."""
    samples: int = 512
    """Training samples to look at, at most; cost grows with it."""


@dataclass(frozen=True)
class Validate(Predict):
    """Forecast, then train for real, and show both side by side; or score a suite of those."""

    suite: Path | None = None
    """Folder with runs/KEY.json and forecasts/FORECASTER/KEY.json: score these forecasts instead,
    without training. Of the other options only json and save count."""


@dataclass(frozen=True)
class Train(Task):
    """Train for real with the reference loop."""

    checkpoints: Path | None = None
    """Folder for checkpoints; a killed run goes on from the latest."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""


Command = Annotated[
    Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Validate, tyro.conf.subcommand("validate")]
    | Annotated[Train, tyro.conf.subcommand("train")],
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.OmitArgPrefixes,
]


def main() -> None:
    """The entry point; exits 0 when all went well, 1 for the impossible, 2 for wrong usage."""
    command = tyro.cli(Command, prog="ntkpredict", description=__doc__)
    try:
        run(command, Console(highlight=False))
    except (ValueError, OSError) as error:
        print(f"ntkpredict: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def run(command: Task, console: Console) -> None:
    """Carry out a command and print its result.

    Raises:
        ValueError: bad input.
    """
    import ntkpredict as ntp
    from ntkpredict import display
    from ntkpredict.score import score

    _check_writable(command.save)
    if isinstance(command, Validate) and command.suite is not None:
        _print(score(command.suite), command, console)
        return
    if isinstance(command, Compare):
        _print(_compare(command, console), command, console)
        return
    plan, until = _plan(command), ntp.parse(command.until)
    network = _network(command)
    data = ntp.load_data(command.data)
    with display.progress_bars(console, quiet=command.json) as report:
        if isinstance(command, Train):
            result: Any = ntp.train(
                network,
                data,
                plan,
                until,
                checkpoints=command.checkpoints,
                checkpoint_every=command.checkpoint_every,
                progress=report and report("training"),
            )
        else:
            assert isinstance(command, Predict)
            function = ntp.validate if isinstance(command, Validate) else ntp.predict
            result = function(
                network,
                data,
                plan,
                until,
                budget=_share(command.budget),
                samples=command.samples,
                mode=command.mode,
                kernel=command.kernel,
                solver=command.solver,
                report=report,
            )
    _print(result, command, console)


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
        msg = f"{name}: got {text!r}; expected whole numbers with commas between"
        raise ValueError(msg) from None


def _print(result: Any, command: Task, console: Console) -> None:
    from ntkpredict import display

    if command.save is not None:
        result.save(command.save)
    if command.json:
        print(json.dumps(result.to_dict(), allow_nan=False))
    else:
        display.show(console, result)


def _share(text: str) -> float:
    number = text.removesuffix("%")
    try:
        return float(number) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        msg = f"budget: got {text!r}; expected a share of the run's cost such as 5% or 0.05"
        raise ValueError(msg) from error


def _check_writable(path: Path | None) -> None:
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir() or not (folder.is_dir() and os.access(folder, os.W_OK)):
        msg = f"save: {str(path)!r} cannot be written; expected a file in a folder that exists"
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
