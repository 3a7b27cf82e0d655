"""How the network will be trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import optax

from sde import CrossEntropy, Objective, SquaredError

Schedule = Literal["constant", "cosine"]
OPTIMIZERS = ("sgd", "adamw")
LOSSES: dict[str, Objective] = {
    "cross_entropy": CrossEntropy(),
    "squared_error": SquaredError(),
}


@dataclass(frozen=True)
class Plan:
    """Optimizer, batch size, budget and loss.

    Attributes:
        optimizer: any `optax.GradientTransformation`; its learning rate may be a schedule.
        batch_size: samples per step; an incomplete last batch of an epoch is dropped.
        max_steps: the budget; training never goes on beyond it.
        loss: ``"cross_entropy"``, ``"squared_error"`` or an `Objective`.
        seed: of the order of the minibatches.
        name: what messages and records call the optimizer.
    """

    optimizer: optax.GradientTransformation
    batch_size: int = 32
    max_steps: int = 2000
    loss: str | Objective = "cross_entropy"
    seed: int = 0
    name: str = field(default="custom optimizer", compare=False)

    def __post_init__(self) -> None:
        _check_whole("batch_size", self.batch_size, 1)
        _check_whole("max_steps", self.max_steps, 1)
        _check_whole("seed", self.seed, 0)
        if not isinstance(self.loss, Objective) and self.loss not in LOSSES:
            msg = f"loss: got {self.loss!r}; expected one of {sorted(LOSSES)} or an Objective"
            raise ValueError(msg)

    @property
    def objective(self) -> Objective:
        """The loss as an object."""
        return self.loss if isinstance(self.loss, Objective) else LOSSES[self.loss]

    @property
    def description(self) -> str:
        """One line for messages and records."""
        return f"{self.name}, batch size {self.batch_size}"

    @staticmethod
    def sgd(
        lr: float,
        *,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        schedule: Schedule = "constant",
        batch_size: int = 32,
        max_steps: int = 2000,
        loss: str | Objective = "cross_entropy",
        seed: int = 0,
    ) -> Plan:
        """Gradient descent with momentum m: v ← m·v + g + λ·w, w ← w − lr·v.

        Args:
            lr: learning rate, greater than 0.
            momentum: m, in [0, 1).
            nesterov: Nesterov's form of momentum.
            weight_decay: λ, added to the gradient.
            schedule: ``"constant"``, or ``"cosine"`` from lr to 0 over `max_steps`.
            batch_size: see `Plan`.
            max_steps: see `Plan`.
            loss: see `Plan`.
            seed: see `Plan`.

        Raises:
            ValueError: an argument outside of its range.
        """
        _check_rate(lr, weight_decay)
        if not 0 <= momentum < 1:
            msg = f"momentum: got {momentum}; expected 0 <= momentum < 1"
            raise ValueError(msg)
        optimizer = optax.chain(
            optax.add_decayed_weights(weight_decay),
            optax.sgd(_schedule(lr, schedule, max_steps), momentum or None, nesterov),
        )
        name = f"sgd, lr {lr:g}, momentum {momentum:g}{', nesterov' * nesterov}"
        return Plan(
            optimizer,
            batch_size,
            max_steps,
            loss,
            seed,
            _named(name, weight_decay, schedule),
        )

    @staticmethod
    def adamw(
        lr: float,
        *,
        weight_decay: float = 0.01,
        schedule: Schedule = "constant",
        batch_size: int = 32,
        max_steps: int = 2000,
        loss: str | Objective = "cross_entropy",
        seed: int = 0,
    ) -> Plan:
        """AdamW with optax's defaults but for the weight decay.

        Args:
            lr: learning rate, greater than 0.
            weight_decay: λ, decoupled.
            schedule: ``"constant"``, or ``"cosine"`` from lr to 0 over `max_steps`.
            batch_size: see `Plan`.
            max_steps: see `Plan`.
            loss: see `Plan`.
            seed: see `Plan`.

        Raises:
            ValueError: an argument outside of its range.
        """
        _check_rate(lr, weight_decay)
        optimizer = optax.adamw(_schedule(lr, schedule, max_steps), weight_decay=weight_decay)
        name = _named(f"adamw, lr {lr:g}", weight_decay, schedule)
        return Plan(optimizer, batch_size, max_steps, loss, seed, name)


def _schedule(lr: float, schedule: Schedule, max_steps: int) -> optax.ScalarOrSchedule:
    if schedule == "constant":
        return lr
    if schedule == "cosine":
        _check_whole("max_steps", max_steps, 1)
        return optax.cosine_decay_schedule(lr, max_steps)
    msg = f"schedule: got {schedule!r}; expected 'constant' or 'cosine'"
    raise ValueError(msg)


def _check_whole(name: str, value: int, least: int) -> None:
    if not isinstance(value, (int, np.integer)) or value < least:
        msg = f"{name}: got {value}; expected a whole number, at least {least}"
        raise ValueError(msg)


def _check_rate(lr: float, weight_decay: float) -> None:
    if not 0 < lr < float("inf"):
        msg = f"lr: got {lr}; expected a number greater than 0"
        raise ValueError(msg)
    if not 0 <= weight_decay < float("inf"):
        msg = f"weight_decay: got {weight_decay}; expected a number, at least 0"
        raise ValueError(msg)


def _named(name: str, weight_decay: float, schedule: str) -> str:
    decay = f", weight decay {weight_decay:g}" if weight_decay else ""
    return name + decay + (f", {schedule}" if schedule != "constant" else "")
