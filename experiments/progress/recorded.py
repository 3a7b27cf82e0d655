"""Recorded runs of the suite, to be played back under a stopping rule."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optax

import ntkpredict as ntp
from ntkpredict.counter import KerasCounter
from ntkpredict.record import to_trajectory
from ntkpredict.validity import Signals, Validity

SUITE = Path(__file__).parent.parent / "suite"
PATIENCES = (2, 5, 10)
EVALUATIONS = 40
SHOWN = ("squeezenet-clothing-adamw-0.0001-32-s0", 5)


@dataclass(frozen=True)
class Replay:
    """A recorded run under one stopping rule.

    Attributes:
        key: of the run.
        split: development or held-out.
        distance: of the data from what the network was pretrained on: near, medium or far.
        patience: evaluations.
        every: steps between them.
        max_steps: the budget.
        curves: as recorded.
        samples: validation samples.
        batch_size: training samples of a step.
        schedule: step -> learning rate.
        forecast: made before launch.
    """

    key: str
    split: str
    distance: str
    patience: int
    every: int
    max_steps: int
    curves: ntp.Trajectory
    samples: int
    batch_size: int
    schedule: Callable[[int], float]
    forecast: ntp.Forecast

    def value(self, step: Any) -> Any:
        """The validation loss at a step."""
        return np.interp(step, self.curves.steps, self.curves.validation.loss[0])

    @cached_property
    def values(self) -> np.ndarray:
        """At each evaluation."""
        return self.value(np.arange(self.every, self.max_steps + 1, self.every))

    @cached_property
    def stop(self) -> int:
        """The step at which it ends."""
        stop = int(KerasCounter(self.patience).stops(self.values[None])[0])
        return stop * self.every if stop else self.max_steps


def load(limit: int | None = None) -> list[Replay]:
    """All runs of the suite that have a forecast, development first, with each patience.

    Args:
        limit: so many of them.
    """
    replays = []
    for path in sorted((SUITE / "forecasts" / "ours").glob("*.json")):
        run = json.loads((SUITE / "runs" / path.name).read_text())
        forecast = to_forecast(json.loads(path.read_text()))
        curves, budget = to_trajectory(run["trajectory"]), run["case"]["max_steps"]
        task, schedule = run["task"], rates(run["case"]["schedule"], budget)
        every, samples = max(budget // EVALUATIONS, 1), task["validation"]
        batch_size = run["case"]["batch_size"]
        first = (path.stem, task["split"], task["distance"])
        rest = (every, budget, curves, samples, batch_size, schedule, forecast)
        replays += [Replay(*first, patience, *rest) for patience in PATIENCES]
    replays.sort(key=lambda replay: replay.split)  # stable
    return replays if limit is None else replays[: limit * len(PATIENCES)]


def rates(name: str, budget: int) -> Callable[[int], float]:
    """The schedules of the suite's `tasks.py`."""
    if name == "cosine":
        return optax.cosine_decay_schedule(1.0, budget)
    if name == "warmup":
        return optax.warmup_cosine_decay_schedule(0.0, 1.0, budget // 10, budget)
    return lambda _: 1.0


def to_forecast(content: dict[str, Any]) -> ntp.Forecast:
    """What the indicator reads of a forecast: its curves and how far its clock may be off."""
    unknown = ("steps", "steps_interval", "seconds", "seconds_interval", "reason", "stability")
    texts = ("network", "data", "plan", "until", "mode", "kernel", "solver")
    return ntp.Forecast(
        **dict.fromkeys(unknown),
        **dict.fromkeys(texts, ""),
        stopping_times=np.empty(0),
        spectrum=np.empty(0),
        trajectory=to_trajectory(content["trajectory"]),
        validity=Validity.of(Signals(**content["signals"])),
        cost=ntp.CostModel(0.0, (1.0, 1.0, 1.0), 0.0, 1),
        samples=0,
        forecast_seconds={},
        notes=(),
        versions={},
    )


def shown(replays: list[Replay]) -> Replay:
    """The one in the pictures."""
    return next((r for r in replays if (r.key, r.patience) == SHOWN), replays[0])


def halfway(replay: Replay, **options: Any) -> ntp.Tracker:
    """In the middle of a run, at 0.1 s a step and half a second a validation pass."""
    now = [0.0]
    progress = ntp.track(
        replay.max_steps,
        ntp.EarlyStopping(replay.patience, replay.every),
        forecast=replay.forecast,
        batch_size=32,
        price_per_hour=2.5,
        clock=lambda: now[0],
        quiet=True,
        **options,
    )
    for i in range(replay.stop // 2 // replay.every):
        now[0] += 0.1 * replay.every
        progress.advance(replay.every)
        with progress.validating():
            now[0] += 0.5
        progress.report(validation_loss=replay.values[i])
    return progress
