"""The reference training loop: what a forecast is held against."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from linearize import Network, check
from linearize.types import Params, Progress
from ntkpredict.checkpoint import Checkpoints
from ntkpredict.cost import Clock
from ntkpredict.data import Data
from ntkpredict.fingerprint import fingerprint
from ntkpredict.plan import Plan
from ntkpredict.progress.tracker import Tracker
from ntkpredict.record import to_plain, write
from ntkpredict.step import State, TrainingStep
from ntkpredict.stopping import StoppingRule
from sde import Curve, Trajectory, epoch_order, log_grid

METRICS = ("loss", "accuracy")


@dataclass(frozen=True)
class Run:
    """A real training run.

    Attributes:
        steps: where the stopping rule was met, interpolated between evaluations; None where it was
            not met within the budget.
        trained_steps: the steps that were really taken.
        seconds: of training, without compiling and evaluating.
        overhead_seconds: of compiling, evaluating and writing checkpoints.
        trajectory: the curves, one row.
        batch_loss: of each step's minibatch, before the step: what a training loop shows for free.
        params: the trained parameters.
    """

    steps: float | None
    trained_steps: int
    seconds: float
    overhead_seconds: float
    trajectory: Trajectory
    batch_loss: Float[np.ndarray, " trained_steps"]
    params: Params

    def to_dict(self) -> dict[str, Any]:
        """All but the weights, as JSON holds it."""
        return {key: to_plain(value) for key, value in vars(self).items() if key != "params"}

    def save(self, path: str | Path) -> None:
        """Write all but the weights as JSON."""
        write(path, self.to_dict())


def train(
    network: Network,
    data: Data,
    plan: Plan,
    until: StoppingRule | None = None,
    *,
    evaluations: Int[np.ndarray, " grid"] | None = None,
    evaluation_samples: int = 1024,
    checkpoints: str | Path | None = None,
    checkpoint_every: int = 500,
    progress: Progress | None = None,
    tracker: Tracker | None = None,
    clock: Clock = time.perf_counter,
) -> Run:
    """Train a network for real.

    Args:
        network: the network; it is not changed.
        data: the data.
        plan: the plan.
        until: when to stop; the budget's end where None.
        evaluations: steps at which the network is evaluated, and may be stopped, increasing from 0
            to the budget; where None, spaced evenly on a logarithmic axis, and where `until` asks.
        evaluation_samples: how many samples of each split an evaluation reads, at most.
        checkpoints: a folder; a run that was killed goes on from its latest checkpoint and gives
            the same curves, bit for bit, as if it had not been.
        checkpoint_every: steps between checkpoints; at most this many are lost by a kill.
        progress: called with (steps done, budget).
        tracker: told of steps, losses and accuracies; where it is cancelled the run ends after the
            current step and, with `checkpoints`, a checkpoint.
        clock: seconds since some moment.

    Raises:
        ValueError: bad input, or a checkpoint that cannot be read or is another run's.
    """
    if checkpoint_every < 1:
        msg = f"checkpoint_every: got {checkpoint_every}; expected at least 1"
        raise ValueError(msg)
    check(network, data.train[0])
    grid = _grid(plan, until) if evaluations is None else _checked(evaluations, plan)
    step = TrainingStep(network, data, plan, evaluation_samples=evaluation_samples)
    loop = _Loop(step, data.samples, plan, until, grid, tracker or Tracker(None), clock)
    if checkpoints is None:
        return loop.run(None, checkpoint_every, progress)
    identity = fingerprint(network, data, plan) | {"evaluation_samples": evaluation_samples}
    store = Checkpoints(Path(checkpoints), identity)
    try:
        return loop.run(store, checkpoint_every, progress)
    finally:
        store.close()


class _Loop:
    """One run in progress."""

    def __init__(
        self,
        step: TrainingStep,
        samples: int,
        plan: Plan,
        until: StoppingRule | None,
        grid: Int[np.ndarray, " grid"],
        tracker: Tracker,
        clock: Clock,
    ) -> None:
        self._step = step
        self._samples = samples
        self._plan = plan
        self._until = until
        self._clock = clock
        self._tracker = tracker
        self._grid = grid
        self._curves: dict[str, list[Any]] = {"steps": [], "batch_loss": []}
        self._seconds = 0.0
        self._overhead = 0.0
        self._compiled = False

    def run(self, store: Checkpoints | None, every: int, progress: Progress | None) -> Run:
        state, done = self._resume(store)
        tracker = self._tracker
        if store is not None:
            tracker.cancel.checkpoint = lambda: store.save(done, state, self._saved())
        while done < self._plan.max_steps and self._stopped() is None and not tracker.cancelled:
            evaluation = int(self._grid[np.searchsorted(self._grid, done, side="right")])
            target = evaluation if store is None else min(evaluation, (done // every + 1) * every)
            state, done = self._advance(state, done, target)
            start = self._clock()
            if done == evaluation:
                self._record(done, state)
                tracker.lap("validation")
            if store is not None and done % every == 0:
                store.save(done, state, self._saved())
                tracker.lap("checkpoint")
            self._overhead += self._clock() - start
            if progress is not None:
                progress(done, self._plan.max_steps)
        return Run(
            steps=self._stopped(),
            trained_steps=done,
            seconds=self._seconds,
            overhead_seconds=self._overhead,
            trajectory=self._trajectory(),
            batch_loss=np.array(self._curves["batch_loss"]),
            params=state.params,
        )

    def _resume(self, store: Checkpoints | None) -> tuple[State, int]:
        state = self._step.initial()
        found = None if store is None else store.latest(state)
        if found is None:
            self._record(0, state)
            return state, 0
        done, state, saved = found
        if saved["steps"] != self._grid[self._grid <= done].tolist():
            msg = "evaluations: other steps than before this run was killed; expected the same"
            raise ValueError(msg)
        self._seconds, self._overhead = saved.pop("seconds"), saved.pop("overhead_seconds")
        self._curves = saved
        curves = [f"{split}_{name}" for split in self._step.evaluated for name in METRICS]
        values = {name: [*zip(saved["steps"], saved[name], strict=True)] for name in curves}
        seconds = self._seconds + self._overhead
        self._tracker.restore({"step": done, "seconds": seconds, "values": values})
        return state, done

    def _advance(self, state: State, done: int, target: int) -> tuple[State, int]:
        batches = self._samples // self._plan.batch_size
        start = self._clock()
        losses = []
        for i in range(done, target):
            if i == done or i % batches == 0:
                order = epoch_order(
                    self._samples, self._plan.batch_size, i // batches, self._plan.seed
                )
            state, loss = self._step(state, order[i % batches])
            losses.append(loss)
            if self._tracker.cancel.asked:
                break
        jax.block_until_ready(state)
        elapsed = self._clock() - start
        self._curves["batch_loss"] += [float(loss) for loss in losses]
        if self._compiled:
            self._seconds += elapsed
        else:  # the first steps compile, after a resumption too
            self._overhead += elapsed
            self._compiled = True
        self._tracker.advance(len(losses))
        return state, done + len(losses)

    def _record(self, done: int, state: State) -> None:
        self._curves["steps"].append(done)
        for split in self._step.evaluated:
            values = self._step.evaluate(state.params, split)
            found: dict[str, Any] = {
                f"{split}_{name}": v for name, v in zip(METRICS, values, strict=True)
            }
            for name, value in found.items():
                self._curves.setdefault(name, []).append(value)
            self._tracker.report(**found)

    def _saved(self) -> dict[str, Any]:
        times = {"seconds": self._seconds, "overhead_seconds": self._overhead}
        return {**self._curves, **times}

    def _trajectory(self) -> Trajectory:
        def curve(split: str) -> Curve:
            return Curve(
                np.array([self._curves[f"{split}_loss"]]),
                np.array([self._curves[f"{split}_accuracy"]]),
            )

        validation = curve("validation") if "validation_loss" in self._curves else None
        return Trajectory(np.array(self._curves["steps"]), curve("train"), validation)

    def _stopped(self) -> float | None:
        if self._until is None:
            return None
        complete = self._curves["steps"][-1] == self._plan.max_steps
        steps = self._until.steps(self._trajectory(), complete=complete)[0]
        return float(steps) if np.isfinite(steps) else None


def _grid(plan: Plan, until: StoppingRule | None) -> Int[np.ndarray, " grid"]:
    grid = log_grid(plan.max_steps)
    return grid if until is None else np.union1d(grid, until.evaluations(plan.max_steps))


def _checked(evaluations: Int[np.ndarray, " grid"], plan: Plan) -> Int[np.ndarray, " grid"]:
    grid = np.asarray(evaluations)
    if len(grid) < 2 or grid[0] != 0 or grid[-1] != plan.max_steps or (np.diff(grid) < 1).any():
        msg = f"evaluations: got {grid}; expected increasing steps from 0 to {plan.max_steps}"
        raise ValueError(msg)
    return grid
