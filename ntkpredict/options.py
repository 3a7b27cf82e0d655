"""The options of the command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


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
    history: str | None = None
    """SQLite file that keeps forecasts and real runs, or off; by default one in the user's state
    directory, or what the environment variable NTKPREDICT_HISTORY says."""


@dataclass(frozen=True)
class Reported(Task):
    """What a page can be made of."""

    report: Path | None = None
    """Also write the result as one HTML page to this file."""
    figure: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """Also write one of the page's figures: its name and .svg or .png, such as train-loss.svg; may
    be repeated."""


@dataclass(frozen=True)
class Predict(Reported):
    """Forecast steps and seconds, before training."""

    budget: str = "0"
    """Share of the predicted run to train for real first, such as 5%: it corrects the forecast's
    clock."""
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
class Compare(Reported):
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
    serve: bool = False
    """Show the run on a page on loopback, where it can be cancelled."""


@dataclass(frozen=True)
class Recall:
    """What is kept of forecasts and real runs: list, show, export (JSON), forget, import more."""

    action: tyro.conf.Positional[Literal["list", "show", "export", "forget", "import"]]
    """What to do."""
    of: tyro.conf.Positional[tuple[str, ...]] = ()
    """Numbers of records, as list tells them; list and export take all where there are none. For
    import: a History's dictionary as JSON, trainer_state.json, the CSV file of a CSVLogger, a
    TensorBoard event file, or a folder of those."""
    all: bool = False
    """Forget all records."""
    format: Literal["keras", "huggingface", "lightning", "tensorboard"] | None = None
    """Of what is imported; by default told from the content."""
    steps_per_epoch: int | None = None
    """To count steps where only epochs were logged."""
    history: str | None = None
    """The SQLite file, where it is not the default one."""
    json: bool = False
    """Print JSON and nothing else."""


Command = Annotated[
    Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Validate, tyro.conf.subcommand("validate")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Recall, tyro.conf.subcommand("history")],
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.OmitArgPrefixes,
]
