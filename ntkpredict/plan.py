"""How the network will be trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from sde import CrossEntropy, Objective, SquaredError

Schedule = Literal["constant", "cosine"]
OPTIMIZERS = ("sgd", "adamw")
LOSSES: dict[str, Objective] = {
    "cross_entropy": CrossEntropy(),
    "squared_error": SquaredError(),
}


class Scaled(optax.GradientTransformation):
    """A learning rate and the direction it multiplies, known apart: updates are −η_t · direction.

    Plans whose optimizers share a direction are simulated side by side.

    Attributes:
        direction: the same object in plans that share it.
        learning_rate: η, a number or a schedule.
    """

    direction: optax.GradientTransformation
    learning_rate: optax.ScalarOrSchedule

    def __new__(
        cls, direction: optax.GradientTransformation, learning_rate: optax.ScalarOrSchedule
    ) -> Scaled:
        """An optimizer like any other."""
        whole = optax.chain(direction, optax.scale_by_learning_rate(learning_rate))
        self = super().__new__(cls, whole.init, whole.update)
        self.direction, self.learning_rate = direction, learning_rate
        return self


@dataclass(frozen=True)
class Plan:
    """Optimizer, batch size, budget and loss.

    Attributes:
        optimizer: any `optax.GradientTransformation`; its learning rate may be a schedule. `Scaled`
            ones train side by side in `compare`.
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

    @property
    def learning_rate(self) -> optax.ScalarOrSchedule | None:
        """η, where it is known apart from the rest of the optimizer."""
        return self.optimizer.learning_rate if isinstance(self.optimizer, Scaled) else None

    def factors(self) -> tuple[optax.GradientTransformation, Float[np.ndarray, " steps"]]:
        """The direction and the learning rate at each step: the optimizer moves by their product.

        Where they are not known apart, the optimizer itself and a rate of −1.
        """
        if not isinstance(self.optimizer, Scaled):
            return self.optimizer, -np.ones(self.max_steps)
        rate = self.optimizer.learning_rate
        rates = rate(jnp.arange(self.max_steps)) if callable(rate) else rate
        return self.optimizer.direction, np.broadcast_to(np.asarray(rates, float), self.max_steps)

    @staticmethod
    def grid(
        lr: Iterable[float],
        batch_size: Iterable[int] = (32,),
        optimizer: Iterable[str] = ("sgd",),
        **common: Any,
    ) -> list[Plan]:
        """Every combination of learning rates, batch sizes and optimizers.

        Args:
            lr: learning rates.
            batch_size: batch sizes.
            optimizer: ``"sgd"`` or ``"adamw"``.
            **common: passed on to `Plan.sgd` and `Plan.adamw`; `momentum` and `nesterov` to the
                former alone.

        Raises:
            ValueError: an unknown optimizer, or a value outside of its range.
        """
        plans = []
        for name, size, rate in product(optimizer, batch_size, lr):
            if name not in OPTIMIZERS:
                msg = f"optimizer: got {name!r}; expected one of {OPTIMIZERS}"
                raise ValueError(msg)
            make = Plan.sgd if name == "sgd" else Plan.adamw
            own = {"momentum", "nesterov"} if name != "sgd" else set()
            given = {key: value for key, value in common.items() if key not in own}
            plans.append(make(rate, batch_size=size, **given))
        return plans

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
        name = f"sgd, lr {lr:g}, momentum {momentum:g}{', nesterov' * nesterov}"
        return Plan(
            Scaled(_velocity(momentum, nesterov, weight_decay), _schedule(lr, schedule, max_steps)),
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
        return Plan(
            Scaled(_adam(weight_decay), _schedule(lr, schedule, max_steps)),
            batch_size,
            max_steps,
            loss,
            seed,
            _named(f"adamw, lr {lr:g}", weight_decay, schedule),
        )


@lru_cache  # one object for all learning rates: plans that share it are simulated together
def _velocity(momentum: float, nesterov: bool, weight_decay: float) -> optax.GradientTransformation:
    trace = optax.trace(momentum, nesterov) if momentum else optax.identity()
    return optax.chain(optax.add_decayed_weights(weight_decay), trace)


@lru_cache
def _adam(weight_decay: float) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(weight_decay))


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
