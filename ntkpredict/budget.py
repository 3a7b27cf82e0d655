"""What a run may take at most: time, money or steps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from ntkpredict.cost import CostModel
from ntkpredict.machine import Machine
from ntkpredict.units import as_number

Unit = Literal["s", "USD", "steps"]
_UNITS: dict[str, tuple[float, Unit]] = {
    "s": (1, "s"),
    "min": (60, "s"),
    "h": (3600, "s"),
    "d": (86400, "s"),
    "USD": (1, "USD"),
    "steps": (1, "steps"),
}
_BUDGET = re.compile(r"(?P<number>[0-9.eE+-]+?)\s*(?P<unit>" + "|".join(_UNITS) + ")")


@dataclass(frozen=True)
class Budget:
    """The most that a run may take.

    Attributes:
        amount: greater than 0.
        unit: ``"s"`` seconds, ``"USD"`` or ``"steps"``.
    """

    amount: int | float
    unit: Unit = "s"

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            msg = f"unit: got {self.unit!r}; expected one of {get_args(Unit)}"
            raise ValueError(msg)
        if not 0 < self.amount < float("inf"):
            msg = f"amount: got {self.amount}; expected a number greater than 0"
            raise ValueError(msg)

    @staticmethod
    def parse(text: str) -> Budget:
        """From text, as the command line takes it.

        >>> Budget.parse("20min")
        Budget(amount=1200.0, unit='s')

        Raises:
            ValueError: something else, or nothing to spend.
        """
        match = _BUDGET.fullmatch(text)
        number = None if match is None else as_number(match["number"])
        if match is None or number is None:
            units = ", ".join(_UNITS)
            msg = f"within: got {text!r}; expected such as 20min, 5USD or 1000steps, in {units}"
            raise ValueError(msg)
        factor, unit = _UNITS[match["unit"]]
        return Budget(factor * number, unit)

    def steps(self, cost: CostModel, steps_per_epoch: int, machine: Machine) -> int:
        """The most steps that it pays for.

        Args:
            cost: on this machine.
            steps_per_epoch: between two validation passes.
            machine: where the run would be.

        Raises:
            ValueError: a budget of money, and a machine without a price.
        """
        if self.unit == "steps":
            return int(self.amount)
        there = self.amount
        if self.unit == "USD":
            if not machine.price:
                msg = f"within: {self} needs a price; give {machine.name} one: NAME:3.2USD/h"
                raise ValueError(msg)
            there = 3600 * self.amount / machine.price
        return cost.steps(there * machine.throughput, steps_per_epoch)

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{self.amount:g}{self.unit}"
